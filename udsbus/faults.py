"""Faults on purpose: where in a turn a broker shall die, hang, or lose a connection.

    with udsbus.LocalBroker(faults=[udsbus.Fault("cut", before="deliver", key="count")]) as broker:

This is for tests of programs that use udsbus. See docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import InvalidRequest
from .patterns import check_pattern

SECONDS_MOST = 1e6
Action = Literal["kill", "stall", "cut"]
Step = Literal["execute", "journal", "deliver", "wait"]


@dataclass(frozen=True)
class Fault:
    """What is to happen to a broker, once, and when."""

    action: Action
    """`kill`: the broker's process dies, as by `kill -9`. `stall`: it does nothing, as if it hung.
    `cut`: the connection of who asked ends."""
    before: Step = "deliver"
    """The step of the turn before which it happens. `execute`: nothing has been done; `journal`:
    the change has been made, but a crash would lose it; `deliver`: it is safe, and nobody has been
    told; `wait`: whoever asked, and whoever watches, has been told."""
    key: str = "**"
    """Pattern of the keys, or topics, that it is about. Before `execute` reads count too, and else
    only what changes a key or publishes."""
    nth: int = 1
    """Only the nth time that it comes to that."""
    seconds: float | None = None
    """How long it stalls, at most a million; None: for ever."""

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        for name, value, choice in (("action", self.action, Action), ("before", self.before, Step)):
            if value not in get_args(choice):
                words = ", ".join(get_args(choice))
                raise InvalidRequest(f"{name} of a fault must be one of {words}, not {value!r}")
        check_pattern(self.key)
        if type(self.nth) is not int or self.nth < 1:
            raise InvalidRequest(f"nth of a fault must be a whole number from 1, not {self.nth!r}")
        if self.seconds is not None and (
            self.action != "stall"
            or type(self.seconds) not in (int, float)
            or not 0 < self.seconds <= SECONDS_MOST
        ):
            raise InvalidRequest(
                f"seconds of a fault are for how long it stalls, above 0 and at most "
                f"{SECONDS_MOST:g}, not {self.seconds!r}"
            )
        if self.action == "cut" and self.before == "execute":
            raise InvalidRequest(
                "a connection cannot be cut before `execute`: to the program that is no different "
                "from before `journal`, since what is lost is sent again"
            )


def as_plain(faults: Any) -> list[dict[str, Any]]:
    """The faults in a form for JSON. Raises InvalidRequest for what is none."""
    plain = []
    if isinstance(faults, Fault):
        faults = [faults]
    elif not isinstance(faults, Iterable):
        raise InvalidRequest(f"faults must be a list of udsbus.Fault, not {faults!r}")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise InvalidRequest(f"faults must be udsbus.Fault, not {type(fault).__name__}")
        plain.append(
            {name: getattr(fault, name) for name in ("action", "before", "key", "nth", "seconds")}
        )
    return plain

"""What `udsbus run` was asked for, and what follows from it for what the bus holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .naming import Unusable, Values, Watched, environment, values
from .rendering import Rendering, rendered

DEBOUNCE_SECONDS = 0.2
SETTLE_SECONDS = 1.0
GRACE_SECONDS = 10.0
SPARE_BYTES = 8 * 1024
"""For what else the kernel, and `Supervisor`, put beside the arguments and variables."""


class Reaction(NamedTuple):
    """What to do when something has changed."""

    kind: Literal["restart", "signal", "hook", "none"]
    number: int = 0
    """Of the signal."""
    hook: tuple[str, ...] = ()
    """The command that is run."""


class Plan(NamedTuple):
    command: Sequence[str]
    patterns: Sequence[str]
    reaction: Reaction = Reaction("restart")
    copies: int = 1
    prefix: str | None = None
    """Of the variables; None: there are none but those that were `named`."""
    named: Mapping[str, str] = {}
    """Key → the name of the variable that holds its value."""
    renderings: Sequence[Rendering] = ()
    debounce: float = DEBOUNCE_SECONDS
    """Seconds without a change, before there is a reaction."""
    settle: float = SETTLE_SECONDS
    """Seconds that a new copy must have run, before the next is stopped."""
    grace: float = GRACE_SECONDS
    """Seconds between SIGTERM and SIGKILL."""


class Prepared(NamedTuple):
    """What the command is given."""

    environ: dict[bytes, bytes]
    files: list[tuple[Path, bytes]]


def prepare(plan: Plan, watched: Watched, to_json: Callable[[Any], str]) -> Prepared:
    """For what the bus holds. Nothing is written yet. Raises Unusable."""
    found = values(_wanted(plan, watched), plan.named, to_json)
    environ = {name: value for name, value in os.environb.items() if name}  # of a careless `env`
    given = found if plan.prefix is not None else Values({}, found.named)
    environ |= environment(given.together(plan.prefix or ""))
    size = sum(len(name) + len(value) + 10 for name, value in environ.items())  # with its pointer
    words = [*plan.command, os.environ.get("PATH", "")]  # which the launcher is given
    size += sum(len(os.fsencode(word)) + 9 for word in words) + SPARE_BYTES
    if size > os.sysconf("SC_ARG_MAX"):
        raise Unusable(f"the values are {size:,} bytes: the system takes no environment of so many")
    names = found.together() if plan.renderings else {}
    return Prepared(environ, [(one.file, rendered(one, names)) for one in plan.renderings])


def _wanted(plan: Plan, watched: Watched) -> Watched:
    """Without what has no name because nobody asks for it, so that no two can have the same."""
    if plan.prefix is not None or plan.renderings:
        return watched
    return [
        (pattern, {key: one for key, one in held.items() if key in plan.named})
        for pattern, held in watched
    ]

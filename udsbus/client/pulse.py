"""Heartbeats: the client's half of finding out that the other side hangs. Pure.

While a client follows something, the broker sends it a `ping` each interval that they have agreed
on. Whatever comes is a sign of life. After three intervals in a row without one, the broker is
taken to hang. What is counted is how often this client has looked in vain, at most once an
interval: a process that was stopped itself comes back to one look that is late, not to many.
"""

from __future__ import annotations

from math import inf

from ..errors import InvalidRequest
from ..limits import BEATS_MISSED


def check_heartbeat(heartbeat: float | None) -> None:
    """Raise InvalidRequest unless it is an interval, or None."""
    if heartbeat is not None and (type(heartbeat) not in (int, float) or not 0 < heartbeat < inf):
        raise InvalidRequest(
            f"heartbeat must be a number of seconds above 0, or None, not {heartbeat!r}"
        )


class Pulse:
    """Of one connection after the other. `now` is any clock that does not jump."""

    def __init__(self, wished: float | None, greeting: float) -> None:
        """`wished`: the interval to ask for; None: none. A `hello` that is not answered within
        `greeting` seconds, or three intervals if that is longer, was not heard."""
        self._wished = wished
        self._greeting = greeting
        self.heard = 0.0
        """When there was a sign of life for the last time, on any connection."""
        self._interval: float | None = None
        """None: the broker does not beat."""
        self._looked = 0.0
        self._missed = 0

    def begin(self, now: float) -> None:
        """A connection begins, and the broker is greeted."""
        if self._wished is not None:
            self._start(max(self._wished, self._greeting / BEATS_MISSED), now)

    def agree(self, interval: float | None, now: float) -> None:
        """The broker has answered, and beats from now on at this interval; None: never."""
        self._start(interval, now)

    def _start(self, interval: float | None, now: float) -> None:
        self._interval = interval
        self.rest(now)

    def rest(self, now: float) -> None:
        """The broker need not beat for now."""
        self._looked, self._missed = now, 0

    def hear(self, now: float) -> None:
        """Something has come."""
        self.heard = now

    def left(self, now: float) -> float:
        """Seconds until `is_over` wants to be asked."""
        return inf if self._interval is None else max(0.0, self._looked + self._interval - now)

    def is_over(self, now: float) -> bool:
        """Look, after all that is there has been read, whether so many beats in a row were missed
        that nothing more is to be expected."""
        self._missed = 0 if self.heard > self._looked else self._missed + 1
        self._looked = now
        return self._missed >= BEATS_MISSED

    def is_fresh(self, now: float) -> bool:
        """Whether there was a sign of life within two intervals, or none is to be expected."""
        return self._interval is None or now - self.heard <= 2 * self._interval

"""When to react to changes that come one after the other. Pure: the time is an argument."""

from __future__ import annotations

MOST_SECONDS = 5.0
"""Changes that do not cease are reacted to after so long."""


class Debounce:
    def __init__(self, seconds: float) -> None:
        """`seconds`: how long it must have been quiet."""
        self._seconds = seconds
        self._first: float | None = None
        self._last = 0.0

    def changed(self, now: float) -> None:
        if self._first is None:
            self._first = now
        self._last = now

    @property
    def due(self) -> float | None:
        """When to react; None: nothing has changed since it was done."""
        if self._first is None:
            return None
        return min(self._last + self._seconds, self._first + max(MOST_SECONDS, self._seconds))

    def done(self) -> None:
        self._first = None

"""Which connections watch and subscribe to which patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import LimitExceeded
from ..limits import PATTERNS_PER_CONNECTION
from .interest import Interest


class Registration(NamedTuple):
    """One watch or subscription."""

    interest: Interest
    patterns: list[str]
    details: bool = False
    """It wants messages with their details."""


class Registrations:
    def __init__(self, to_undo: Callable[[Callable[[], object]], None]) -> None:
        """`to_undo` is told how to undo what has been done."""
        self.watches = Interest()
        self.subscriptions = Interest()
        self.quiet = Interest()
        """The subscriptions of those who do not want to hear what they say themselves."""
        self.patterns = 0
        """How many there are, watched and subscribed to, each counted as often as it is."""
        self.quiet_patterns = 0
        """How many of them are of `quiet`."""
        self.detailed: dict[int, int] = {}
        """Connection → how many of its subscriptions want details."""
        self._to_undo = to_undo
        self._next_number = 1
        self._of: dict[int, dict[int, Registration]] = {}
        """Connection → its watches and subscriptions by number."""
        self._counts: dict[int, int] = {}
        """Connection → its patterns."""

    def has(self, origin: int) -> bool:
        """Whether a connection watches or subscribes to anything."""
        return bool(self._of.get(origin))

    def add(
        self, origin: int, interest: Interest, patterns: list[str], details: bool = False
    ) -> int:
        """Register a connection for patterns of one or the other interest. Returns the number of
        that, which is given once. Raises LimitExceeded."""
        total = self._counts.get(origin, 0) + len(patterns)
        if total > PATTERNS_PER_CONNECTION:
            raise LimitExceeded(
                f"this connection would watch and subscribe to {total} patterns; the most there "
                f"may be is {PATTERNS_PER_CONNECTION}",
                limit="patterns_per_connection", maximum=PATTERNS_PER_CONNECTION, actual=total,
            )  # fmt: skip
        self._of.setdefault(origin, {})
        self._counts.setdefault(origin, 0)
        number = self._next_number
        self._next_number += 1
        self._put(origin, number, Registration(interest, patterns, details))
        self._to_undo(lambda: self._forget(origin, number))
        return number

    def remove(self, origin: int, number: int, *interests: Interest) -> bool:
        """End one. False: that connection has none of those interests by that number."""
        registration = self._of.get(origin, {}).get(number)
        if registration is None or not any(registration.interest is each for each in interests):
            return False
        self._forget(origin, number)
        self._to_undo(lambda: self._put(origin, number, registration))
        return True

    def disconnect(self, origin: int) -> None:
        """Forget what belongs to a connection that is gone."""
        self._counts.pop(origin, None)
        self.detailed.pop(origin, None)
        for interest, patterns, _ in self._of.pop(origin, {}).values():
            self._count(interest, -len(patterns))
            for pattern in patterns:
                interest.remove(pattern, origin)

    def _put(self, origin: int, number: int, registration: Registration) -> None:
        if origin not in self._of:
            return  # its connection is gone
        interest, patterns, details = self._of[origin][number] = registration
        self._count(interest, len(patterns))
        self._counts[origin] += len(patterns)
        for pattern in patterns:
            interest.add(pattern, origin)
        if details:
            self.detailed[origin] = self.detailed.get(origin, 0) + 1

    def _count(self, interest: Interest, more: int) -> None:
        self.patterns += more
        if interest is self.quiet:
            self.quiet_patterns += more

    def _forget(self, origin: int, number: int) -> None:
        registration = self._of.get(origin, {}).pop(number, None)
        if registration is None:
            return
        interest, patterns, details = registration
        self._count(interest, -len(patterns))
        self._counts[origin] -= len(patterns)
        for pattern in patterns:
            interest.remove(pattern, origin)
        if details:
            self.detailed[origin] -= 1
            if not self.detailed[origin]:
                del self.detailed[origin]

"""Which connections watch and subscribe to which patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import LimitExceeded
from ..limits import PATTERNS_PER_CONNECTION
from .interest import Interest


class Registration(NamedTuple):
    """A watch or a subscription."""

    interests: tuple[Interest, ...]
    """Where its patterns stand; the first says what it is, the others by what options."""
    patterns: list[str]


class Registrations:
    def __init__(self, to_undo: Callable[[Callable[[], object]], None]) -> None:
        """`to_undo` is told how to undo what has been done."""
        self.watches = Interest()
        self.subscriptions = Interest()
        self._to_undo = to_undo
        self._next_number = 1
        self._of: dict[int, dict[int, Registration]] = {}
        """Connection → its watches and subscriptions by number."""
        self._counts: dict[int, int] = {}
        """Connection → its patterns."""

    def has(self, origin: int) -> bool:
        """Whether a connection watches or subscribes to anything."""
        return bool(self._of.get(origin))

    def add(self, origin: int, patterns: list[str], *interests: Interest) -> int:
        """Register a connection for patterns of one or the other interest, and of others besides
        that. Returns the number of that, which is given once. Raises LimitExceeded."""
        registered = self._of.setdefault(origin, {})
        total = self._counts.get(origin, 0) + len(patterns)
        if total > PATTERNS_PER_CONNECTION:
            raise LimitExceeded(
                f"this connection would watch and subscribe to {total} patterns; the most there "
                f"may be is {PATTERNS_PER_CONNECTION}",
                limit="patterns_per_connection", maximum=PATTERNS_PER_CONNECTION, actual=total,
            )  # fmt: skip
        self._counts[origin] = total
        number = self._next_number
        self._next_number += 1
        registered[number] = Registration(interests, patterns)
        _enter(origin, registered[number])
        self._to_undo(lambda: self._forget(origin, number))
        return number

    def remove(self, origin: int, interest: Interest, number: int) -> bool:
        """End one. False: that connection has none of that interest by that number."""
        registered = self._of.get(origin, {})
        if number not in registered or registered[number].interests[0] is not interest:
            return False
        removed = registered[number]
        self._forget(origin, number)
        self._to_undo(lambda: self._put_back(origin, number, removed))
        return True

    def disconnect(self, origin: int) -> None:
        """Forget what belongs to a connection that is gone."""
        self._counts.pop(origin, None)
        for registration in self._of.pop(origin, {}).values():
            _leave(origin, registration)

    def _forget(self, origin: int, number: int) -> None:
        registered = self._of.get(origin, {})
        if number in registered:
            forgotten = registered.pop(number)
            self._counts[origin] -= len(forgotten.patterns)
            _leave(origin, forgotten)

    def _put_back(self, origin: int, number: int, registration: Registration) -> None:
        if origin in self._of:  # else its connection is gone
            self._of[origin][number] = registration
            self._counts[origin] += len(registration.patterns)
            _enter(origin, registration)


def _enter(origin: int, registration: Registration) -> None:
    for interest in registration.interests:
        for pattern in registration.patterns:
            interest.add(pattern, origin)


def _leave(origin: int, registration: Registration) -> None:
    for interest in registration.interests:
        for pattern in registration.patterns:
            interest.remove(pattern, origin)

"""Which connections watch and subscribe to which patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import LimitExceeded
from ..limits import PATTERNS_PER_CONNECTION
from .interest import Interest
from .wants import USUAL, Want, united


class Registration(NamedTuple):
    """A watch or a subscription."""

    interests: tuple[Interest, ...]
    """Where its patterns stand; the first says what it is, the others by what options."""
    patterns: list[str]
    want: Want = USUAL
    """Of a watch."""
    details: bool = False
    """Of a subscription: it wants messages with their details."""


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
        """Connection → how many of its subscriptions want details of what is retained."""
        self.choosy: dict[int, int] = {}
        """Connection → how many of these are `quiet`, so it wants to know who published what."""
        self.wants: dict[int, Want] = {}
        """Connection → what it wants to be told, of those of whose watches one wants less or more
        than is usual."""
        self._to_undo = to_undo
        self._next_number = 1
        self._of: dict[int, dict[int, Registration]] = {}
        """Connection → its watches and subscriptions by number."""
        self._counts: dict[int, int] = {}
        """Connection → its patterns."""
        self._wanted: dict[int, dict[Want, int]] = {}
        """Connection → what its watches want, and how many of them."""

    def has(self, origin: int) -> bool:
        """Whether a connection watches or subscribes to anything."""
        return bool(self._of.get(origin))

    def add(
        self,
        origin: int,
        patterns: list[str],
        *interests: Interest,
        want: Want = USUAL,
        details: bool = False,
    ) -> int:
        """Register a connection for patterns of one or the other interest, and of others besides
        that. Returns the number of that, which is given once. Raises LimitExceeded."""
        self._of.setdefault(origin, {})
        total = self._counts.get(origin, 0) + len(patterns)
        if total > PATTERNS_PER_CONNECTION:
            raise LimitExceeded(
                f"this connection would watch and subscribe to {total} patterns; the most there "
                f"may be is {PATTERNS_PER_CONNECTION}",
                limit="patterns_per_connection", maximum=PATTERNS_PER_CONNECTION, actual=total,
            )  # fmt: skip
        number = self._next_number
        self._next_number += 1
        self._enter(origin, number, Registration(interests, patterns, want, details))
        self._to_undo(lambda: self._forget(origin, number))
        return number

    def remove(self, origin: int, number: int, *interests: Interest) -> bool:
        """End one. False: that connection has none of those interests by that number."""
        registration = self._of.get(origin, {}).get(number)
        if registration is None or not any(registration.interests[0] is each for each in interests):
            return False
        self._forget(origin, number)
        self._to_undo(lambda: self._put_back(origin, number, registration))
        return True

    def disconnect(self, origin: int) -> None:
        """Forget what belongs to a connection that is gone."""
        self._counts.pop(origin, None)
        self.wants.pop(origin, None)
        self._wanted.pop(origin, None)
        self.detailed.pop(origin, None)
        self.choosy.pop(origin, None)
        for registration in self._of.pop(origin, {}).values():
            self._leave(origin, registration)

    def _enter(self, origin: int, number: int, registration: Registration) -> None:
        self._of[origin][number] = registration
        self._counts[origin] = self._counts.get(origin, 0) + len(registration.patterns)
        for interest in registration.interests:
            for pattern in registration.patterns:
                interest.add(pattern, origin)
        self._count_patterns(registration, 1)
        self._count_details(origin, registration, 1)
        if registration.interests[0] is self.watches:
            self._count(origin, registration.want, 1)

    def _forget(self, origin: int, number: int) -> None:
        registration = self._of.get(origin, {}).pop(number, None)
        if registration is None:
            return
        self._counts[origin] -= len(registration.patterns)
        self._leave(origin, registration)
        self._count_details(origin, registration, -1)
        if registration.interests[0] is self.watches:
            self._count(origin, registration.want, -1)

    def _put_back(self, origin: int, number: int, registration: Registration) -> None:
        if origin in self._of:  # else its connection is gone
            self._enter(origin, number, registration)

    def _leave(self, origin: int, registration: Registration) -> None:
        self._count_patterns(registration, -1)
        for interest in registration.interests:
            for pattern in registration.patterns:
                interest.remove(pattern, origin)

    def _count_patterns(self, registration: Registration, sign: int) -> None:
        more = sign * len(registration.patterns)
        self.patterns += more
        if registration.interests[0] is self.quiet:
            self.quiet_patterns += more

    def _count_details(self, origin: int, registration: Registration, more: int) -> None:
        if not registration.details:
            return
        wanting = [self.detailed]
        if registration.interests[0] is self.quiet:
            wanting.append(self.choosy)
        for numbers in wanting:
            number = numbers.pop(origin, 0) + more
            if number:
                numbers[origin] = number

    def _count(self, origin: int, want: Want, more: int) -> None:
        """There is one watch more, or less, that wants this; find out what they want together."""
        wanted = self._wanted.setdefault(origin, {})
        before = wanted.get(want, 0)
        wanted[want] = before + more
        if before + more and before:
            return
        if not before + more:
            del wanted[want]
        together = united(wanted) if wanted else USUAL
        if together == USUAL:
            self.wants.pop(origin, None)
        else:
            self.wants[origin] = together

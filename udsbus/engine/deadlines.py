"""What is due when, keys that expire above all: a heap with at most a few entries for each.

A deadline that moves later leaves its heap entry where it is; the key is looked at again when
that entry comes up. So a key whose time to live is renewed a thousand times a second costs the
heap nothing. The keyspace holds the true deadline; this only says when to look.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=str | int)

SLACK = 1_024
"""Stale heap entries that are not worth a rebuild."""


class Agenda:
    """When somebody must look for what is due: one number for all who have deadlines, because it is
    compared with the time in each turn."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = inf
        """Never later than the first deadline. It may be earlier, of one that is no more."""

    def by(self, deadline: float) -> None:
        """Look no later than at `deadline`."""
        if deadline < self.due:
            self.due = deadline


class Deadlines(Generic[K]):
    __slots__ = ("_agenda", "_heap", "_scheduled")

    def __init__(self, agenda: Agenda | None = None) -> None:
        """`agenda`, if any, is told when to look."""
        self._agenda = agenda if agenda is not None else Agenda()
        self._heap: list[tuple[float, K]] = []
        self._scheduled: dict[K, float] = {}
        """Key → its earliest entry in the heap."""

    def __len__(self) -> int:
        return len(self._scheduled)

    def schedule(self, key: K, deadline: float) -> None:
        """Look at `key` no later than at `deadline`."""
        scheduled = self._scheduled.get(key)
        if scheduled is not None and scheduled <= deadline:
            return
        self._scheduled[key] = deadline
        self._agenda.by(deadline)
        heappush(self._heap, (deadline, key))
        if len(self._heap) > 2 * len(self._scheduled) + SLACK:
            self._heap = [(when, name) for name, when in self._scheduled.items()]
            heapify(self._heap)

    def forget(self, key: K) -> None:
        """The key is gone. Its heap entry goes when it comes up, or with the next rebuild."""
        self._scheduled.pop(key, None)

    def next(self) -> float:
        """When to look next; infinity when nothing will expire."""
        return self._heap[0][0] if self._heap else inf

    def pop_due(self, now: float) -> K | None:
        """A key to look at now, each time another; None when no more are due."""
        while self._heap and self._heap[0][0] <= now:
            when, key = heappop(self._heap)
            if self._scheduled.get(key) == when:
                del self._scheduled[key]
                return key
        return None

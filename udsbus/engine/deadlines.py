"""What is due when, keys that expire above all: a heap with at most a few entries for each.

A deadline that moves later leaves its heap entry where it is; the key is looked at again when
that entry comes up. So a key whose time to live is renewed a thousand times a second costs the
heap nothing. The keyspace holds the true deadline; this only says when to look.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=str | int)

SLACK = 1_024
"""Stale heap entries that are not worth a rebuild."""


class Deadlines(Generic[K]):
    __slots__ = ("_heap", "_scheduled")

    def __init__(self) -> None:
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
        heappush(self._heap, (deadline, key))
        if len(self._heap) > 2 * len(self._scheduled) + SLACK:
            self._heap = [(when, name) for name, when in self._scheduled.items()]
            heapify(self._heap)

    def forget(self, key: K) -> None:
        """The key is gone. Its heap entry goes when it comes up, or with the next rebuild."""
        self._scheduled.pop(key, None)

    def next(self) -> float | None:
        """When to look next; None when nothing will expire."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> K | None:
        """A key to look at now, each time another; None when no more are due."""
        while self._heap and self._heap[0][0] <= now:
            when, key = heappop(self._heap)
            if self._scheduled.get(key) == when:
                del self._scheduled[key]
                return key
        return None

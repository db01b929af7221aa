"""Keys in order: all of them, for paging through them, and those of each queue's items.

A list of sorted lists of at most `2 * LOAD` keys: inserting and removing cost a bisection and a
short move, at a million keys as at a thousand. This is the idea of Grant Jenks' sortedcontainers,
cut down to what paging needs. One sorted list would move up to 8 MB for each new key; sorting
when somebody asks would stall a turn.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

LOAD = 512


class SortedKeys:
    __slots__ = ("_buckets", "_lasts")

    def __init__(self) -> None:
        self._buckets: list[list[str]] = []
        self._lasts: list[str] = []
        """The last key of each bucket."""

    def fill(self, keys: list[str]) -> None:
        """Begin with keys that are in order already."""
        self._buckets = [keys[at : at + LOAD] for at in range(0, len(keys), LOAD)]
        self._lasts = [bucket[-1] for bucket in self._buckets]

    def add(self, key: str) -> None:
        """Add a key that is not there yet."""
        if not self._buckets:
            self._buckets.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        bucket = self._buckets[at]
        insort(bucket, key)
        if len(bucket) > 2 * LOAD:
            self._buckets.insert(at + 1, bucket[LOAD:])
            self._lasts.insert(at, bucket[LOAD - 1])
            del bucket[LOAD:]
        self._lasts[at] = self._buckets[at][-1]
        self._lasts[-1] = self._buckets[-1][-1]

    def remove(self, key: str) -> None:
        """Remove a key that is there."""
        at = bisect_left(self._lasts, key)
        bucket = self._buckets[at]
        del bucket[bisect_left(bucket, key)]
        if bucket:
            self._lasts[at] = bucket[-1]
        else:
            del self._buckets[at], self._lasts[at]

    def first(self) -> str:
        """The first of at least one."""
        return self._buckets[0][0]

    def last(self) -> str:
        """The last of at least one."""
        return self._lasts[-1]

    def number_below(self, prefix: str) -> int:
        """How many begin with `prefix`, whose last character is not the last that there is."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return self._number_before(end) - self._number_before(prefix)

    def _number_before(self, key: str) -> int:
        at = bisect_left(self._lasts, key)
        number = sum(map(len, self._buckets[:at]))
        return number if at == len(self._buckets) else number + bisect_left(self._buckets[at], key)

    def after(self, key: str) -> Iterator[str]:
        """The keys after `key` in order."""
        first = bisect_right(self._lasts, key)
        for at in range(first, len(self._buckets)):
            bucket = self._buckets[at]
            yield from bucket[bisect_right(bucket, key) :] if at == first else bucket

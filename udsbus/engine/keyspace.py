"""The keys: entries, their order and their deadlines, always consistent with one another."""

from __future__ import annotations

from collections.abc import Iterator

from ..limits import PAGE_BYTES, PAGE_KEYS, PAGE_SCAN
from ..patterns import check_pattern, literal_prefix, matcher
from .deadlines import Agenda, Deadlines
from .sortedkeys import SortedKeys

Entry = tuple[bytes, int, float | None]
"""(value, revision that wrote it, deadline or None). A plain tuple of atoms, which the garbage
collector stops tracking after its first look; instances of a class would stay tracked for ever and
make each full collection walk a million of them."""


class Keyspace:
    """Entries by key. Knows nothing of revisions but to keep them, and of time but to compare."""

    __slots__ = ("_order", "deadlines", "entries")

    def __init__(self, agenda: Agenda | None = None) -> None:
        """`agenda` is told when keys expire."""
        self.entries: dict[str, Entry] = {}
        """Read it freely; write through `put` and `drop`, unless an entry without a deadline takes
        the place of one without. Holds entries whose deadline has passed until they are expired:
        `live` is the truth at a given time."""
        self.deadlines: Deadlines[str] = Deadlines(agenda)
        self._order = SortedKeys()

    def live(self, key: str, now: float) -> Entry | None:
        """The entry, unless its deadline has passed."""
        entry = self.entries.get(key)
        if entry is None or (entry[2] is not None and entry[2] <= now):
            return None
        return entry

    def fill(self, entries: dict[str, Entry]) -> None:
        """Begin with entries in the order of their keys."""
        self.entries |= entries
        self._order.fill(list(entries))
        for key, (_, _, deadline) in entries.items():
            if deadline is not None:
                self.deadlines.schedule(key, deadline)

    def put(self, key: str, entry: Entry) -> bool:
        """Write an entry. True if the key was there before."""
        entries = self.entries
        before = entries.get(key)
        if before is None:
            self._order.add(key)
        entries[key] = entry
        if entry[2] is not None:
            self.deadlines.schedule(key, entry[2])
        elif before is not None and before[2] is not None:
            self.deadlines.forget(key)
        return before is not None

    def drop(self, key: str) -> None:
        if self.entries.pop(key)[2] is not None:
            self.deadlines.forget(key)
        self._order.remove(key)

    def page(
        self, pattern: str, after: str | None, limit: int | None, now: float, *, sized: bool
    ) -> tuple[list[tuple[str, Entry]], str | None]:
        """One page of the live entries that match, in order of keys.

        It ends after `limit` entries, after PAGE_SCAN keys looked at, or (`sized`) after PAGE_BYTES
        of values. Returns the entries and where the next page begins after; None: that was all.
        """
        check_pattern(pattern)
        matches = matcher(pattern)
        limit = min(limit or PAGE_KEYS, PAGE_KEYS)
        found: list[tuple[str, Entry]] = []
        size = 0
        for looked_at, key in enumerate(self._candidates(pattern, after), 1):
            if matches(key):
                entry = self.live(key, now)
                if entry is not None:
                    found.append((key, entry))
                    size += len(entry[0])
            if looked_at == PAGE_SCAN or len(found) == limit or (sized and size > PAGE_BYTES):
                return found, key
        return found, None

    def below(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """The entries whose keys begin with `prefix`, in order; those too that are due."""
        for key in self._order.after(prefix):
            if not key.startswith(prefix):
                return
            yield key, self.entries[key]

    def number_below(self, prefix: str) -> int:
        """How many keys begin with `prefix`; those too that are due. Does not look at each."""
        return self._order.number_below(prefix)

    def count(self, pattern: str, after: str | None, now: float) -> tuple[int, str | None]:
        """How many of the next PAGE_SCAN keys match, and where the next page begins after."""
        check_pattern(pattern)
        matches = matcher(pattern)
        number = 0
        for looked_at, key in enumerate(self._candidates(pattern, after), 1):
            if matches(key) and self.live(key, now) is not None:
                number += 1
            if looked_at == PAGE_SCAN:
                return number, key
        return number, None

    def _candidates(self, pattern: str, after: str | None) -> Iterator[str]:
        """The keys that can match, in order: those below the pattern's literal prefix."""
        prefix = literal_prefix(pattern)
        if prefix == pattern:
            if prefix in self.entries and (after is None or after < prefix):
                yield prefix
            return
        if not prefix:
            yield from self._order.after(after or "")
            return
        if prefix in self.entries and (after is None or after < prefix):
            yield prefix  # `a/**` matches `a`, but `a-b` stands between `a` and `a/b`
        below = prefix + "/"
        start = below if after is None or after < below else after
        for key in self._order.after(start):
            if not key.startswith(below):
                return
            yield key

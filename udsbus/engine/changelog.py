"""The most recent changes, kept so that a watch that was away can go on without a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..limits import CHANGE_LOG_BYTES, CHANGE_LOG_CHANGES
from ..messages import Change


class ChangeLog:
    """Bounded in changes and in bytes. Reaches back to `complete_from`, whole revisions only."""

    __slots__ = ("_bytes", "_changes", "_max_bytes", "_max_changes", "forgotten")

    def __init__(
        self, max_changes: int = CHANGE_LOG_CHANGES, max_bytes: int = CHANGE_LOG_BYTES
    ) -> None:
        self._changes: deque[Change] = deque()
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._bytes = 0
        self.forgotten = 0
        """The newest revision of which at least one change is no longer here."""

    def __len__(self) -> int:
        return len(self._changes)

    def extend(self, changes: Iterable[Change]) -> None:
        """Enter the changes of a turn, and forget as many of the oldest as there are too many."""
        kept = self._changes
        size = self._bytes
        for change in changes:
            _, _, key, value, _, _ = change
            size += len(key) if value is None else len(key) + len(value)
            kept.append(change)
        while len(kept) > self._max_changes or size > self._max_bytes:
            self.forgotten, _, key, value, _, _ = kept.popleft()
            size -= len(key) if value is None else len(key) + len(value)
        self._bytes = size

    def since(self, revision: int, matches: Callable[[str], bool]) -> list[Change] | None:
        """The matching changes after `revision` in order; None when some are forgotten."""
        if revision < self.forgotten:
            return None
        found = []
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            if matches(change.key):
                found.append(change)
        found.reverse()
        return found

"""The most recent changes, kept so that a watch that was away can go on without a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from ..limits import CHANGE_LOG_BYTES, CHANGE_LOG_CHANGES
from ..messages import Change

FRACTION = 16
"""What is entered at once is kept, and later forgotten, as one *run*, at most 1/16 of the log.
That is cheaper than to count each change in and out."""


class ChangeLog:
    """Bounded in changes and in bytes of keys and values."""

    __slots__ = ("_bytes", "_count", "_max_bytes", "_max_changes", "_runs", "forgotten")

    def __init__(
        self, max_changes: int = CHANGE_LOG_CHANGES, max_bytes: int = CHANGE_LOG_BYTES
    ) -> None:
        self._runs: deque[tuple[list[Change], int]] = deque()
        """(changes, their bytes), the oldest first."""
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._count = 0
        self._bytes = 0
        self.forgotten = 0
        """The newest revision of which at least one change is no longer here."""

    def __len__(self) -> int:
        return self._count

    def extend(self, changes: list[Change]) -> None:
        """Enter the changes of a turn, which become the log's, and forget the oldest beyond the
        bounds."""
        size = 0
        for _, _, key, value, _, _ in changes:
            size += len(key) if value is None else len(key) + len(value)
        most, most_bytes = self._max_changes // FRACTION, self._max_bytes // FRACTION
        if len(changes) <= most and size <= most_bytes:
            self._enter(changes, size)
        else:
            for change in changes:
                self._enter([change], len(change.key) + len(change.value or b""))

    def _enter(self, run: list[Change], size: int) -> None:
        runs = self._runs
        runs.append((run, size))
        self._count += len(run)
        self._bytes += size
        while self._count > self._max_changes or self._bytes > self._max_bytes:
            oldest, oldest_size = runs.popleft()
            self._count -= len(oldest)
            self._bytes -= oldest_size
            self.forgotten = oldest[-1].revision

    def forget_all(self, revision: int) -> None:
        """Forget everything, up to `revision`."""
        self._runs.clear()
        self._count = self._bytes = 0
        self.forgotten = revision

    def take_back(self, revision: int) -> None:
        """Forget what came after `revision`, because it never happened."""
        runs = self._runs
        while runs and runs[-1][0][-1].revision > revision:
            run, size = runs.pop()
            self._count -= len(run)
            self._bytes -= size
            kept = [change for change in run if change.revision <= revision]
            if kept:
                self.extend(kept)
        self.forgotten = min(self.forgotten, revision)

    def since(self, revision: int, matches: Callable[[str], bool]) -> list[Change] | None:
        """The matching changes after `revision` in order; None when some are forgotten."""
        if revision < self.forgotten:
            return None
        found = [change for change in self._after(revision) if matches(change.key)]
        found.reverse()
        return found

    def _after(self, revision: int) -> Iterator[Change]:
        """The changes after `revision`, the newest first."""
        for run, _ in reversed(self._runs):
            for change in reversed(run):
                if change.revision <= revision:
                    return
                yield change

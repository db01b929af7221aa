"""The most recent changes, kept so that a watch that was away can go on without a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from ..limits import CHANGE_LOG_BYTES, CHANGE_LOG_CHANGES
from ..messages import Change, Recorded, Writer
from .keyspace import Entry

FRACTION = 16
"""What is entered at once is kept, and later forgotten, as one *run*, at most 1/16 of the log.
That is cheaper than to count each change in and out."""
TOGETHER = 64
"""And what is entered one by one, as runs of so many, at most."""


Run = tuple[
    Sequence[Change | Recorded], int, list[Entry | None] | None, Mapping[int, Writer] | None
]
"""(changes, their bytes). Of those that a journal tells of also what makes them whole: the entries
before them, and who the origins are."""


class ChangeLog:
    """Bounded in changes and in bytes of keys and of values, those before the changes too."""

    __slots__ = (
        "_bytes", "_count", "_max_bytes", "_max_changes", "_open", "_open_bytes", "_run_bytes",
        "_run_changes", "_runs", "_together", "forgotten",
    )  # fmt: skip

    def __init__(
        self, max_changes: int = CHANGE_LOG_CHANGES, max_bytes: int = CHANGE_LOG_BYTES
    ) -> None:
        self._runs: deque[Run] = deque()
        """The oldest first."""
        self._run_changes = max_changes // FRACTION
        self._run_bytes = max_bytes // FRACTION
        self._together = min(TOGETHER, self._run_changes)
        self._open: list[Change] = []
        """The newest changes, which will be a run when there are enough of them; until then the
        bounds leave room for them."""
        self._open_bytes = 0
        self._max_changes = max_changes - self._together
        self._max_bytes = max_bytes - (self._run_bytes if self._together else 0)
        self._count = 0
        self._bytes = 0
        self.forgotten = 0
        """The newest revision of which at least one change is no longer here."""

    def __len__(self) -> int:
        return self._count + len(self._open)

    def extend(self, changes: list[Change]) -> None:
        """Enter the changes of a turn, which become the log's, and forget the oldest beyond the
        bounds."""
        if not changes:
            return
        size = 0
        for _, _, key, value, _, _, before, _ in changes:
            if value is not None and before is not None:  # the commonest, done quickest
                size += len(key) + len(value) + len(before)
            else:
                size += len(key) + len(value or b"") + len(before or b"")
        together = self._open_bytes + size
        if len(self._open) + len(changes) <= self._together and together <= self._run_bytes:
            self._open += changes
            self._open_bytes = together
            return
        self._close()
        if len(changes) <= self._together and size <= self._run_bytes:
            self._open, self._open_bytes = changes, size
        elif len(changes) <= self._run_changes and size <= self._run_bytes:
            self._enter((changes, size, None, None))
        else:
            for change in changes:
                size = len(change.key) + len(change.value or b"") + len(change.before or b"")
                self._enter(([change], size, None, None))

    def extend_recorded(
        self,
        changes: list[Recorded],
        before: list[Entry | None],
        writers: Mapping[int, Writer],
        size: int,
    ) -> None:
        """The same for changes that a journal tells of, `size` bytes in all, which took the place
        of the entries `before`. They are made whole only when somebody asks: most never are, and a
        standby must keep up."""
        self._close()
        if len(changes) <= self._run_changes and size <= self._run_bytes:
            self._enter((changes, size, before, writers))
        else:
            self.extend(_whole((changes, size, before, writers)))

    def _close(self) -> None:
        """What came one by one is a run now."""
        if self._open:
            self._enter((self._open, self._open_bytes, None, None))
            self._open = []
            self._open_bytes = 0

    def _enter(self, run: Run) -> None:
        runs = self._runs
        runs.append(run)
        self._count += len(run[0])
        self._bytes += run[1]
        while self._count > self._max_changes or self._bytes > self._max_bytes:
            oldest, oldest_size, _, _ = runs.popleft()
            self._count -= len(oldest)
            self._bytes -= oldest_size
            self.forgotten = oldest[-1].revision

    def forget_all(self, revision: int) -> None:
        """Forget everything, up to `revision`."""
        self._runs.clear()
        self._open = []
        self._count = self._bytes = self._open_bytes = 0
        self.forgotten = revision

    def take_back(self, revision: int) -> None:
        """Forget what came after `revision`, because it never happened."""
        self._close()
        runs = self._runs
        while runs and runs[-1][0][-1].revision > revision:
            run = runs.pop()
            self._count -= len(run[0])
            self._bytes -= run[1]
            kept = [change for change in _whole(run) if change.revision <= revision]
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
        newest: Run = (self._open, self._open_bytes, None, None)
        for run in chain([newest] if self._open else [], reversed(self._runs)):
            if run[0][-1].revision <= revision:
                return
            for change in reversed(_whole(run)):
                if change.revision <= revision:
                    return
                yield change


def _whole(run: Run) -> list[Change]:
    """The changes of a run."""
    changes, _, entries, writers = run
    if entries is None or writers is None:
        return changes  # type: ignore[return-value]
    whole = []
    for change, entry in zip(changes, entries, strict=True):
        writer = writers.get(change.origin)
        before = None if entry is None else entry[0]
        whole.append(Change(*change[:6], before, None if writer is None else writer.session))
    return whole

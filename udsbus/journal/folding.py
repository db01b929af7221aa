"""Folding: what closed segments tell goes into the database, and then they are deleted.

One transaction for each segment, so whatever ends it, the database holds the journal up to its
`position`, no more and no less. The broker goes on appending meanwhile; this only reads what it has
closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from itertools import pairwise
from time import monotonic, time
from typing import Any, NamedTuple

import msgpack

from ..errors import Error, JournalDamaged
from ..limits import HISTORY_BYTES, HISTORY_CHANGES, HISTORY_SECONDS, RESUME_SECONDS, SNAPSHOTS_KEPT
from ..patterns import matcher
from .database import Decode, about, kept_entry, opened, shown
from .directory import Segment, list_segments, sync_directory
from .gathering import Gathering, PastChange
from .records import Header
from .recovery import Scan, header_of

log = logging.getLogger("udsbus.journal")

TOO_OLD = """
    select ifnull(min(number), 9e18) from (
        select rowid as number, sum(ifnull(length(before), 0) + ifnull(length(after), 0))
            over (order by rowid desc) as newer
        from changes
    ) where newer <= ?
"""
"""The rowid of the oldest change of those whose values together are so many bytes."""
BACKLOG = 8
"""With more closed segments than this, folding does not give way to others any more: on a machine
that is busy all the time it would never come to its turn, and the disk would fill."""
AT_ONCE = 4
"""Segments that are folded before that is looked at again."""
ANSWERS_KEPT = 10_000
"""The last ones, however old."""
LOOK_SECONDS = 60.0
"""How often to look whether a snapshot is due, which was perhaps taken by another standby."""
LOCKED_SECONDS = 1.0
AGAIN_SECONDS = 30.0
"""After a failure (a full disk), so long until the next attempt."""


class Retention(NamedTuple):
    """What is kept of the past, and for how long."""

    seconds: float = HISTORY_SECONDS
    changes: int = HISTORY_CHANGES
    """Of all keys together."""
    of_patterns: tuple[tuple[str, float], ...] = ()
    """(pattern, seconds) for keys with a rule of their own; the first that matches counts."""
    snapshot_seconds: float = 0.0
    """How often to take a snapshot; 0: never."""
    snapshots: int = SNAPSHOTS_KEPT
    """How many of these to keep."""

    def seconds_of(self) -> Callable[[str], float]:
        rules = [(matcher(pattern), seconds) for pattern, seconds in self.of_patterns]

        def seconds_of(key: str) -> float:
            return next((seconds for matches, seconds in rules if matches(key)), self.seconds)

        return seconds_of


KEEP_USUAL = Retention()


def fold(
    path: str,
    retention: Retention = KEEP_USUAL,
    *,
    decode: Decode = msgpack.unpackb,
    all_of_it: bool = False,
    most: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Fold closed segments in a state directory, at most `most`. Returns how many. `decode` makes
    objects of values, which are shown to people then. It gives up what it is doing as soon as it is
    `stopped`.

    The last segment is the broker's, unless `all_of_it`: then there is no broker. Raises
    sqlite3.OperationalError for a full disk and the like, JournalDamaged for a database or a
    segment that cannot be read: that is left alone, for a broker to stop at.
    """
    segments = list_segments(path)
    # Each ends where the one behind it says; if that does not say so yet, the next time.
    pairs: list[tuple[Segment, Segment | None]] = [
        (one, following)
        for one, following in pairwise(segments)
        if header_of(following) is not None
    ]
    if all_of_it and segments:
        pairs.append((segments[-1], None))
    if not pairs:
        return 0
    folded = 0
    with opened(path, to_write=True) as database:
        assert database is not None
        for segment, following in pairs[:most]:
            if not _fold_one(database, segment, following, decode, stopped):
                return folded
            # At once: on a disk that is nearly full the next one needs the room.
            os.unlink(segment.path)
            folded += 1
        _forget(database, retention)
    sync_directory(path)
    return folded


def _position(database: sqlite3.Connection) -> int:
    row = database.execute("select value from about where name = 'position'").fetchone()
    return 0 if row is None else int(row[0])


def _fold_one(
    database: sqlite3.Connection,
    segment: Segment,
    following: Segment | None,
    decode: Decode,
    stopped: Callable[[], bool],
) -> bool:
    """Fold one segment, all or nothing. False if this was stopped. Raises JournalDamaged."""
    # Also in the midst of a long statement.
    database.set_progress_handler(stopped, 10_000)
    scan = Scan([segment], _position(database), following)
    database.execute("begin immediate")
    try:
        gathering = Gathering(lambda key: kept_entry(database, key))
        for _, turn in scan:
            gathering.take(turn)
            if stopped():
                break
        if stopped():
            database.execute("rollback")
            return False
        if scan.fault is not None:
            raise JournalDamaged(
                f"{scan.fault}; nothing more is folded until it is repaired",
                file=segment.path,
                offset=scan.fault.offset,
            )
        assert scan.header is not None
        write_gathered(database, gathering, scan.header, scan.position, decode)
        database.execute("commit")
    except BaseException:
        if database.in_transaction:
            database.set_progress_handler(None, 0)
            database.execute("rollback")
        if stopped():
            return False
        raise
    return True


def give_way() -> None:
    """Let this thread run when no other wants to: the broker and its clients come first."""
    with contextlib.suppress(OSError):
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(10)


class Folder:
    """Folds what is closed, as often as it is asked to, in a thread that gives way to others."""

    def __init__(self, path: str, retention: Retention, decode: Decode) -> None:
        self._path = path
        self._retention = retention
        self._decode = decode
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._next_snapshot = 0.0 if retention.snapshot_seconds else float("inf")

    def look(self) -> None:
        """Begin to fold if there is something and nobody does so already."""
        if self._thread is not None and self._thread.is_alive():
            return
        now = monotonic()
        if now < self._not_before:
            return
        try:
            closed = len(list_segments(self._path)) > 1
        except OSError as error:
            log.error("the state in %s cannot be read: %s", self._path, error)
            self._not_before = now + AGAIN_SECONDS
            return
        if closed or now >= self._next_snapshot:
            self._thread = threading.Thread(target=self._run, name="udsbus-folding")
            self._thread.start()

    def stop(self) -> None:
        """Give up what is not finished; returns when nothing is going on any more."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if len(list_segments(self._path)) <= BACKLOG:
            give_way()
        try:
            fold(
                self._path,
                self._retention,
                decode=self._decode,
                most=AT_ONCE,
                stopped=lambda: self._stopping,
            )
            if monotonic() >= self._next_snapshot and not self._stopping:
                self._snapshot()
        except (OSError, sqlite3.Error, Error) as error:
            if self._stopping:
                return
            if isinstance(error, FileNotFoundError):  # another standby was quicker
                return
            if "locked" in str(error):  # somebody looks into it; that is what it is for
                self._not_before = monotonic() + LOCKED_SECONDS
                return
            log.error("the journal in %s cannot be folded: %s", self._path, error)
            damaged = isinstance(error, JournalDamaged)
            self._not_before = monotonic() + (float("inf") if damaged else AGAIN_SECONDS)

    def _snapshot(self) -> None:
        from .snapshot import take_scheduled  # which needs what is above

        every = self._retention.snapshot_seconds
        path = take_scheduled(self._path, every, self._retention.snapshots, self._decode)
        self._next_snapshot = monotonic() + min(every, LOOK_SECONDS)
        if path is not None:
            log.info("snapshot: %s", path)


def write_gathered(
    database: sqlite3.Connection,
    gathered: Gathering,
    header: Header,
    position: int,
    decode: Decode,
) -> None:
    """Put into the database what a segment has told, which ends at `position`."""
    write = database.executemany
    before = about(database)
    begins = before is None or before.bus != header.bus
    """Whether another history begins, as after a repair."""
    if begins:
        database.execute("delete from answers")
    if before is not None and before.boot != header.boot and gathered.time:
        # Deadlines are told on the clock of one boot. Those of the one before are told anew.
        database.execute(
            "update entries set deadline = expires + ?", (gathered.clock - gathered.time,)
        )
    kept = [(key, entry) for key, entry in gathered.entries.items() if entry is not None]
    write(
        "insert or replace into entries (key, value, revision, deadline, expires, text) "
        "values (?, ?, ?, ?, ?, ?)",
        ((key, *entry, shown(entry.value, decode)) for key, entry in kept),
    )
    gone = [(key,) for key, entry in gathered.entries.items() if entry is None]
    write("delete from entries where key = ?", gone)
    fields = (*PastChange._fields, "text")
    write(
        f"insert into changes ({', '.join(fields)}) values ({', '.join('?' * len(fields))})",
        ((*change, shown(change.after, decode)) for change in gathered.changes),
    )
    write("insert into answers values (?, ?, ?, ?, ?)", gathered.answers)
    facts: dict[str, Any] = {
        "position": position,
        "segment": header.segment,
        "bus": header.bus,
        "first_revision": header.first_revision,
        "boot": header.boot,
    }
    if begins:
        facts["revision"] = facts["forgotten"] = header.first_revision
    if gathered.revision:
        facts["revision"] = gathered.revision
    write("insert or replace into about values (?, ?)", facts.items())
    if gathered.time:
        # Who has not asked again by now does not ask any more; but the clock may have been set.
        database.execute(
            "delete from answers where time < ? and rowid <= (select max(rowid) from answers) - ?",
            (gathered.time - 2 * RESUME_SECONDS, ANSWERS_KEPT),
        )


def _forget(database: sqlite3.Connection, retention: Retention) -> None:
    """Delete the history that need not be kept."""
    database.create_function("seconds_of", 1, retention.seconds_of(), deterministic=True)
    now = time()
    youngest = min(retention.seconds, *(seconds for _, seconds in retention.of_patterns), 1e12)
    rules: list[tuple[str, tuple[float, ...]]] = [
        ("time < ? and time < ? - seconds_of(key)", (now - youngest, now)),
        ("rowid <= (select max(rowid) from changes) - ?", (retention.changes,)),
    ]
    pages = [database.execute(f"pragma page_{what}").fetchone()[0] for what in ("count", "size")]
    if pages[0] * pages[1] > HISTORY_BYTES:  # else the values cannot be so many
        rules.append((f"rowid < ({TOO_OLD})", (HISTORY_BYTES,)))
    database.execute("begin immediate")
    for which, values in rules:
        select = f"select max(revision) from changes where {which}"
        (forgotten,) = database.execute(select, values).fetchone()
        if forgotten is not None:
            database.execute(f"delete from changes where {which}", values)
            database.execute(
                "update about set value = max(value, ?) where name = 'forgotten'", (forgotten,)
            )
    database.execute("commit")

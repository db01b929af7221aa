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
from time import monotonic, time
from typing import Any, NamedTuple

import msgpack

from ..errors import Error
from ..limits import HISTORY_CHANGES, HISTORY_SECONDS, RESUME_SECONDS, SNAPSHOTS_KEPT
from ..patterns import matcher
from .database import Decode, kept_entry, opened, shown
from .directory import Segment, list_segments, sync_directory
from .gathering import Gathering, PastChange
from .records import Header
from .recovery import Scan

log = logging.getLogger("udsbus.journal")

NICE = 10
"""Of the thread that folds: the broker and its clients come first."""
ANSWERS_KEPT = 10_000
"""The last ones, however old."""
LOOK_SECONDS = 60.0
"""How often to look whether a snapshot is due, which was perhaps taken by another standby."""
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
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Fold the closed segments in a state directory. Returns how many there were. `decode` makes
    objects of values, which are shown to people then. It gives up what it is doing as soon as it is
    `stopped`.

    The last segment is the broker's, unless `all_of_it`: then there is no broker. Raises
    sqlite3.OperationalError for a full disk and the like, JournalDamaged for a database that
    cannot be read. Segments that are damaged are left alone, for a broker to stop at.
    """
    segments = list_segments(path)
    if not all_of_it:
        segments = segments[:-1]
    if not segments:
        return 0
    folded = 0
    with opened(path, to_write=True) as database:
        assert database is not None
        for segment in segments:
            if not _fold_one(database, segment, decode, stopped):
                break
            folded += 1
        if not stopped():
            _forget(database, retention)
    for segment in segments[:folded]:
        os.unlink(segment.path)
    sync_directory(path)
    return folded


def _position(database: sqlite3.Connection) -> int:
    row = database.execute("select value from about where name = 'position'").fetchone()
    return 0 if row is None else int(row[0])


def _fold_one(
    database: sqlite3.Connection, segment: Segment, decode: Decode, stopped: Callable[[], bool]
) -> bool:
    """Fold one segment, all or nothing. False if it is damaged, or this was stopped."""
    # Also in the midst of a long statement.
    database.set_progress_handler(stopped, 10_000)
    scan = Scan([segment], _position(database))
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
            log.error("a segment cannot be folded: %s", scan.fault)
            database.execute("rollback")
            return False
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
        if now >= self._not_before and (
            len(list_segments(self._path)) > 1 or now >= self._next_snapshot
        ):
            self._thread = threading.Thread(target=self._run, name="udsbus-folding")
            self._thread.start()

    def stop(self) -> None:
        """Give up what is not finished; returns when nothing is going on any more."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            fold(
                self._path,
                self._retention,
                decode=self._decode,
                stopped=lambda: self._stopping,
            )
            if monotonic() >= self._next_snapshot and not self._stopping:
                self._snapshot()
        except (OSError, sqlite3.Error, Error) as error:
            if not self._stopping:
                log.error("the journal in %s cannot be folded: %s", self._path, error)
                self._not_before = monotonic() + AGAIN_SECONDS

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
        "bus": header.bus,
        "first_revision": header.first_revision,
        "boot": header.boot,
    }
    if gathered.revision:
        facts["revision"] = gathered.revision
    write("insert or replace into about values (?, ?)", facts.items())
    write(
        "insert or ignore into about values (?, ?)",
        [("revision", header.first_revision), ("forgotten", header.first_revision)],
    )
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

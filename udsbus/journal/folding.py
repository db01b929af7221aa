"""Folding: what closed segments tell goes into the database, and then they are deleted.

One transaction for each segment, so whatever ends it, the database holds the journal up to its
`position`, no more and no less. The broker goes on appending meanwhile; this only reads what it has
closed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from time import time
from typing import Any, NamedTuple

import msgpack

from ..errors import JournalDamaged
from ..limits import (
    CHANGE_LOG_CHANGES,
    HISTORY_BYTES,
    HISTORY_CHANGES,
    HISTORY_SECONDS,
    RESUME_SECONDS,
    SNAPSHOTS_KEPT,
)
from ..patterns import IN_HAND_KEYS, LOCK_KEYS, QUEUE_KEYS, TAKEN_KEYS, matcher
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
FLEETING = LOCK_KEYS, QUEUE_KEYS, TAKEN_KEYS, IN_HAND_KEYS
"""Below these stands what comes and goes all the time: locks that are held, items of queues."""
ANSWERS_KEPT = 10_000
"""The last ones, however old."""


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
    read_to: int | None = None,
) -> int:
    """Fold closed segments in a state directory, at most `most`, and only what stands before the
    position `read_to`. Returns how many. `decode` makes objects of values, which are shown to
    people then.

    The last segment is the broker's, unless `all_of_it`: then there is no broker. Raises
    sqlite3.OperationalError for a full disk and the like, JournalDamaged for a database or a
    segment that cannot be read: that is left alone, for a broker to stop at.
    """
    segments = list_segments(path)
    # Each ends where the one behind it says; if that does not say so yet, the next time.
    pairs: list[tuple[Segment, Segment | None]] = [
        (one, following)
        for one, following in pairwise(segments)
        if (header := header_of(following)) is not None
        and (read_to is None or header.start <= read_to)
    ]
    if all_of_it and segments:
        pairs.append((segments[-1], None))
    if not pairs:
        return 0
    folded = 0
    with opened(path, to_write=True) as database:
        assert database is not None
        for segment, following in pairs[:most]:
            _fold_one(database, segment, following, decode)
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
    database: sqlite3.Connection, segment: Segment, following: Segment | None, decode: Decode
) -> None:
    """Fold one segment, all or nothing. Raises JournalDamaged."""
    database.execute("begin immediate")
    try:
        # Only now: another standby may have been at it.
        scan = Scan([segment], _position(database), following)
        gathering = Gathering(lambda key: kept_entry(database, key))
        for _, turn in scan:
            gathering.take(turn)
        if scan.fault is not None:
            raise JournalDamaged(
                f"{scan.fault}; nothing more is folded until it is repaired",
                file=segment.path,
                offset=scan.fault.offset,
            )
        if scan.header is not None:
            write_gathered(database, gathering, scan.header, scan.position, decode)
        database.execute("commit")
    except BaseException:
        if database.in_transaction:
            database.execute("rollback")
        raise


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
        "insert or replace into entries (key, value, revision, deadline, expires, owner, text) "
        "values (?, ?, ?, ?, ?, ?, ?)",
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
    # These would leave no room for anything else. The log of a broker that starts needs this many
    # of the newest changes; that older ones are missing matters to nobody, so none is `forgotten`.
    for below in FLEETING:
        database.execute(
            "delete from changes where key > ? and key < ? "
            "and rowid <= (select max(rowid) from changes) - ?",
            (below, below[:-1] + "0", CHANGE_LOG_CHANGES),
        )
    for which, values in rules:
        select = f"select max(revision) from changes where {which}"
        (forgotten,) = database.execute(select, values).fetchone()
        if forgotten is not None:
            database.execute(f"delete from changes where {which}", values)
            database.execute(
                "update about set value = max(value, ?) where name = 'forgotten'", (forgotten,)
            )
    database.execute("commit")

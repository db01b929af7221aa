"""Looking back: what has changed, when, and who did it.

It is read from the files of the state directory, from the database and from the segments that are
not folded yet. The broker has nothing to do with it, so looking far back costs nobody else.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from ..errors import MissedChanges
from ..patterns import check_pattern, literal_prefix, matcher
from .database import about, kept_entry, opened, position_in
from .directory import list_segments
from .gathering import Gathering, PastChange
from .recovery import Scan

ATTEMPTS = 20


class Query(NamedTuple):
    """Which changes are wanted."""

    pattern: str = "**"
    after: int = 0
    """Later than this revision."""
    up_to: int | None = None
    """But not later than this one."""
    since: float = 0.0
    """At this time or later, in seconds since 1970."""
    until: float | None = None
    client: str | None = None
    """By a client of this name."""


class Found(NamedTuple):
    changes: list[PastChange]
    """In the order in which they happened."""
    forgotten: int
    """The newest revision of which a change may no longer be known."""
    forgotten_any: bool
    """Whether there is one at all."""
    first_revision: int
    """Of the empty bus, before its first change."""


def history(path: str, query: Query, limit: int | None = None) -> Found:
    """The changes that a state directory knows of, at most the last `limit` of them.

    Raises InvalidRequest for a malformed pattern, JournalDamaged for a database that cannot be
    read, MissedChanges if it is folded away under our hands all the time.
    """
    check_pattern(query.pattern)
    for _ in range(ATTEMPTS):
        found = _attempt(path, query, limit)
        if found is not None:
            return found
    raise MissedChanges(f"{path} changes faster than it can be read")


def _attempt(path: str, query: Query, limit: int | None) -> Found | None:
    """None: segments went into the database while we were reading."""
    with opened(path) as database:
        if database is not None:
            database.execute("begin")  # all that we read of it is of one moment
        known = None if database is None else about(database)
        begin = 0 if known is None else known.position
        folded = [] if database is None else _folded(database, query, limit)
        try:
            tail, first_revision = _tail(path, begin, database)
        except FileNotFoundError:
            return None
    if position_in(path) != begin:
        return None
    changes = folded + [change for change in tail if _wanted(change, query)]
    if limit is not None:
        changes = changes[max(0, len(changes) - limit) :]
    if known is not None:
        first_revision = known.first_revision
    if known is None:
        return Found(changes, 0, False, first_revision)
    return Found(changes, known.forgotten, known.forgotten > first_revision, first_revision)


def _tail(
    path: str, begin: int, database: sqlite3.Connection | None
) -> tuple[list[PastChange], int]:
    """What the segments tell that are not folded yet, and where the bus began by their word."""
    gathering = Gathering(lambda key: None if database is None else kept_entry(database, key))
    segment = 0
    scan = Scan(list_segments(path), begin)
    for header, turn in scan:
        if header.segment != segment:
            segment = header.segment
            gathering.new_segment()
        gathering.take(turn)
    # The broker may be writing: the last record may be cut off.
    return gathering.changes, 0 if scan.header is None else scan.header.first_revision


def _wanted(change: PastChange, query: Query) -> bool:
    return (
        change.revision > query.after
        and (query.up_to is None or change.revision <= query.up_to)
        and change.time >= query.since
        and (query.until is None or change.time <= query.until)
        and (query.client is None or change.client == query.client)
        and matcher(query.pattern)(change.key)
    )


def _folded(database: sqlite3.Connection, query: Query, limit: int | None) -> list[PastChange]:
    conditions = ["revision > ?", "time >= ?"]
    values: list[Any] = [query.after, query.since]
    prefix = literal_prefix(query.pattern)
    if prefix == query.pattern:
        conditions.append("key = ?")
        values.append(prefix)
    else:
        database.create_function("matches", 1, matcher(query.pattern), deterministic=True)
        conditions.append("matches(key)")
        if prefix:  # `a/**` is `a`, and all from `a/` up to `a0`, which comes next
            conditions.append("(key = ? or (key > ? and key < ?))")
            values += [prefix, prefix + "/", prefix + "0"]
    for condition, value in (
        ("revision <= ?", query.up_to), ("time <= ?", query.until), ("client = ?", query.client)
    ):  # fmt: skip
        if value is not None:
            conditions.append(condition)
            values.append(value)
    fields = ", ".join(PastChange._fields)
    select = f"select {fields} from changes where {' and '.join(conditions)} order by rowid desc"
    if limit is not None:
        select += " limit ?"
        values.append(limit)
    found = [PastChange._make(row) for row in database.execute(select, values)]
    found.reverse()
    return found

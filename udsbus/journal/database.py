"""The database that segments are folded into: `state.db`, SQLite, made to be looked into.

    sqlite3 state.db "select key, text from entries"
    sqlite3 state.db "select datetime(time, 'unixepoch'), client, kind, text from changes
                      where key = 'config/limits' order by revision"

A broker that starts loads the entries, and replays the segments behind `position`. So folding makes
starts quick and lets segments go.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import Any, NamedTuple
from urllib.parse import quote

from ..errors import JournalDamaged
from ..messages import Change
from .gathering import Kept

NAME = "state.db"
FORMAT = 1
TEXT_CHARACTERS = 200
BUSY_READER_SECONDS = 30.0
BUSY_WRITER_SECONDS = 0.2
"""Who looks into it keeps the standby from folding, but must not keep it from taking over."""

SCHEMA = """
create table about (name text primary key, value) without rowid;

create table entries (
    key text primary key,
    value blob not null,        -- MessagePack
    text text,                  -- the same for people, at most 200 characters of it
    revision integer not null,  -- that wrote it
    deadline real,              -- when it expires, on the clock of the boot that `about` names
    expires real,               -- the same in seconds since 1970
    owner text                  -- the session that it goes with
) without rowid;

create table changes (
    revision integer not null,
    key text not null,
    kind text not null,         -- created, updated, deleted, expired, released
    before blob,                -- the value before, MessagePack
    after blob,                 -- the value after
    text text,                  -- that for people
    time real not null,         -- seconds since 1970
    pid integer, uid integer, client text, -- who did it; null: the broker itself
    session text                -- by which the broker knows that client
);
create index changes_by_key on changes (key, revision);
create index changes_by_time on changes (time);

create table answers (          -- to requests that may be sent again
    session text not null, lane integer not null, msgid integer not null,
    response blob not null, time real not null
);
"""


class About(NamedTuple):
    """Where the database stands."""

    position: int
    """It holds the journal up to here."""
    segment: int
    """The number of the last segment that was folded."""
    bus: str
    first_revision: int
    revision: int
    forgotten: int
    """The newest revision of which a change is no longer kept."""
    boot: str
    """The boot on whose clock deadlines are told."""


def path_in(directory: str) -> str:
    return os.path.join(directory, NAME)


@contextlib.contextmanager
def opened(directory: str, *, to_write: bool = False) -> Iterator[sqlite3.Connection | None]:
    """The database in a state directory; None if there is none and it is not `to_write`.

    Raises JournalDamaged for one that cannot be read.
    """
    path = path_in(directory)
    exists = os.path.exists(path)
    if not exists and not to_write:
        yield None
        return
    if not exists:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        seconds = BUSY_WRITER_SECONDS if to_write else BUSY_READER_SECONDS
        database = sqlite3.connect(path, isolation_level=None, timeout=seconds)
    except sqlite3.Error as error:
        raise _damaged(path, error) from None
    try:
        if to_write:
            _prepare(database)
        elif not _version(database):
            yield None
            return
        if _version(database) != FORMAT:
            raise JournalDamaged(
                f"{path} has the format {_version(database)}, which this release of udsbus does "
                "not know; start the release that has written it",
                file=path, offset=0,
            )  # fmt: skip
        yield database
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise _damaged(path, error) from None
    finally:
        database.close()


@contextlib.contextmanager
def opened_file(path: str, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """Any database file. Raises JournalDamaged for one that cannot be read."""
    mode = "ro" if read_only else "rw"
    database = sqlite3.connect(f"file:{quote(path)}?mode={mode}", isolation_level=None, uri=True)
    try:
        yield database
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise _damaged(path, error) from None
    finally:
        database.close()


def _prepare(database: sqlite3.Connection) -> None:
    # A commit must be on the disk: after it, segments are deleted. And no write-ahead log: even to
    # read with one takes room on the disk, which a broker must not need to start.
    database.execute("pragma synchronous = full")
    if not _version(database):
        create(database)


def create(database: sqlite3.Connection) -> None:
    """Make the tables in an empty database."""
    database.executescript(f"begin; {SCHEMA} pragma user_version = {FORMAT}; commit;")


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("pragma user_version").fetchone()[0]
    return version


def _damaged(path: str, error: Exception) -> JournalDamaged:
    return JournalDamaged(
        f"{path} cannot be read: {error}. Begin with the last snapshot, if there is one "
        "(udsbus serve --from SNAPSHOT), in another state directory",
        file=path, offset=0,
    )  # fmt: skip


# --- what a broker loads ------------------------------------------------------------------------


def about(database: sqlite3.Connection) -> About | None:
    """None: nothing has been folded yet."""
    found = dict(database.execute("select name, value from about"))
    if "position" not in found:
        return None
    return About(*(found[name] for name in About._fields))


Entry = tuple[bytes, int, float | None]
"""(value, revision, deadline or None)"""


def entries(database: sqlite3.Connection, boot: str, this_boot: str) -> Iterator[tuple[str, Entry]]:
    """All entries in order of their keys, with deadlines on the clock of this boot."""
    if boot and boot == this_boot:
        select = "select key, value, revision, deadline from entries order by key"
        for key, value, revision, deadline in database.execute(select):
            yield key, (value, revision, deadline)
        return
    shift = monotonic() - time()
    select = "select key, value, revision, expires from entries order by key"
    for key, value, revision, expires in database.execute(select):
        yield key, (value, revision, None if expires is None else expires + shift)


def owners(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """(key, session) of those that go with a session, the oldest first."""
    yield from database.execute(
        "select key, owner from entries where owner is not null order by revision"
    )


def position_in(directory: str) -> int:
    """The position up to which the database in a state directory holds the journal."""
    with opened(directory) as database:
        found = None if database is None else about(database)
    return 0 if found is None else found.position


def kept_entry(database: sqlite3.Connection, key: str) -> Kept | None:
    """One entry, as it is kept."""
    select = "select value, revision, deadline, expires, owner from entries where key = ?"
    row = database.execute(select, (key,)).fetchone()
    return None if row is None else Kept._make(row)


def latest_changes(
    database: sqlite3.Connection, number: int, forgotten: int
) -> tuple[list[Change], int]:
    """The last changes, at most `number`, the oldest first; and the newest revision of which there
    is one missing, `forgotten` or later."""
    select = (
        "select revision, kind, key, after, before, session from changes where revision > ? "
        "order by rowid desc limit ?"
    )
    found = [
        Change(revision, kind, key, after, before=before, session=session)
        for revision, kind, key, after, before, session in database.execute(
            select, (forgotten, number)
        )
    ]
    found.reverse()
    if len(found) == number:
        forgotten = found[0].revision
        found = [change for change in found if change.revision != forgotten]
    return found, forgotten


def answers(database: sqlite3.Connection) -> Iterator[tuple[str, int, int, bytes]]:
    """(session, lane, msgid, response), the oldest first."""
    yield from database.execute("select session, lane, msgid, response from answers order by rowid")


Decode = Callable[[bytes], Any]


def shown(value: bytes | None, decode: Decode) -> str | None:
    """A value for people: as JSON, as far as that goes."""
    if value is None:
        return None
    try:
        text = _as_json(decode(value))
        text.encode()
    except Exception:  # whatever somebody has stored
        text = f"{len(value)} bytes"
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def _shown_part(part: Any) -> str:
    return f"{len(part)} bytes" if isinstance(part, bytes) else str(part)


_as_json = json.JSONEncoder(default=_shown_part, ensure_ascii=False).encode

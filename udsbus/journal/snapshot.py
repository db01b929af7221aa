"""Snapshots: all that a bus holds at one revision, in one SQLite file of the form of `state.db`.

They are made from the files of the state directory: what is folded is copied, what is not is folded
into the copy. The broker goes on as ever.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from time import strftime, time

from ..bursts import Bursts
from ..errors import AccessDenied, Conflict, InvalidRequest, JournalDamaged, MissedChanges
from .database import (
    FORMAT,
    NAME,
    Decode,
    about,
    create,
    kept_entry,
    opened,
    opened_file,
    position_in,
)
from .directory import StateDirectory, list_segments, sync_directory
from .folding import write_gathered
from .gathering import Gathering
from .recovery import Scan

DIRECTORY = "snapshots"
OPERATIONS = 1_000
"""Of SQLite's virtual machine, a fraction of a millisecond."""
ATTEMPTS = 20
PAGES = 256
"""Copied at once, in less than a millisecond. Between two such pieces a thread must have the
interpreter, for which it may have to wait."""
SQLITE = b"SQLite format 3\0"


def take_snapshot(state: str, path: str, decode: Decode) -> int:
    """Write what a state directory holds now into a new file at `path`. Returns its revision.

    Raises Conflict if there is a file already, AccessDenied if it cannot be written, and then
    leaves nothing; MissedChanges if the journal is folded away under our hands all the time.
    """
    if os.path.lexists(path):
        raise Conflict(f"{path} exists already; choose another name")
    making = f"{path}.{os.getpid()}.new"
    try:
        for _ in range(ATTEMPTS):
            _remove(making)
            os.close(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            revision = _attempt(state, making, decode)
            if revision is not None:
                with open(making, "rb") as file:
                    os.fsync(file.fileno())
                os.link(making, path)  # unlike a rename, it replaces nothing
                sync_directory(os.path.dirname(os.path.abspath(path)))
                return revision
    except FileExistsError:
        raise Conflict(f"{path} exists already; choose another name") from None
    except (OSError, sqlite3.OperationalError) as error:
        raise AccessDenied(f"no snapshot can be written to {path}: {error}") from None
    finally:
        _remove(making)
    raise MissedChanges(f"{state} changes faster than it can be read")


def _attempt(state: str, making: str, decode: Decode) -> int | None:
    """None: segments went into the database while we were reading."""
    bursts = Bursts()
    with opened(state) as database, opened_file(making) as copy:
        begin = 0
        if database is None:
            create(copy)
        else:
            database.execute("begin")
            known = about(database)  # from now on nobody can fold
            database.backup(copy, pages=PAGES, progress=lambda *_: bursts.pause())
            database.execute("commit")
            begin = 0 if known is None else known.position
        scan = Scan(list_segments(state), begin)
        gathering = Gathering(lambda key: kept_entry(copy, key))
        segment = 0
        try:
            for header, turn in scan:
                if header.segment != segment:
                    segment = header.segment
                    gathering.new_segment()
                gathering.take(turn)
                bursts.pause()
        except FileNotFoundError:
            return None
        if position_in(state) != begin:
            return None
        copy.set_progress_handler(bursts.pause, OPERATIONS)
        copy.execute("begin")
        if scan.header is not None:
            write_gathered(copy, gathering, scan.header, scan.position, decode)
        copy.execute("delete from answers")
        copy.execute("delete from entries where owner is not null")  # whose clients are not in it
        copy.execute("commit")
        found = about(copy)
    return 0 if found is None else found.revision


def restore_snapshot(directory: StateDirectory, snapshot: str) -> None:
    """Let a state directory without a state begin with what a snapshot holds.

    It becomes another bus, whose revisions begin where the time of day is, so that none is used
    again that was given after the snapshot was made. Raises Conflict if there is a state already,
    InvalidRequest if there is no such snapshot, JournalDamaged if it cannot be read.
    """
    if list_segments(directory.path) or os.path.exists(os.path.join(directory.path, NAME)):
        raise Conflict(
            f"{directory.path} holds a state already, which a snapshot must not replace; "
            "choose another directory with --state, or move that one away"
        )
    if not os.path.isfile(snapshot):
        raise InvalidRequest(f"there is no snapshot {snapshot}")
    with open(snapshot, "rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            raise InvalidRequest(f"{snapshot} is no snapshot: it is no SQLite database")
    target = os.path.join(directory.path, NAME)
    making = target + ".new"
    _remove(making)
    os.close(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with opened_file(snapshot, read_only=True) as source, opened_file(making) as copy:
            source.backup(copy)
            (version,) = copy.execute("pragma user_version").fetchone()
            known = about(copy) if version == FORMAT else None
            if known is None:
                raise JournalDamaged(
                    f"{snapshot} is no snapshot that this release can read",
                    file=snapshot, offset=0,
                )  # fmt: skip
            begin = max(known.revision, int(time() * 1e6))
            facts = {
                "bus": secrets.token_hex(8),
                "position": 0,
                "segment": 0,
                "first_revision": begin,
                "revision": begin,
                "forgotten": begin,
            }
            copy.execute("begin")
            copy.executemany("insert or replace into about values (?, ?)", facts.items())
            copy.execute("delete from answers")
            copy.execute("commit")
        with open(making, "rb") as file:
            os.fsync(file.fileno())
        os.rename(making, target)
        sync_directory(directory.path)
    finally:
        _remove(making)


def take_scheduled(state: str, every: float, kept: int, decode: Decode) -> str | None:
    """Take a snapshot if one is due, and delete the oldest beyond `kept`. Returns its path if there
    is a new one."""
    if not snapshot_due(state, every):
        return None
    place = os.path.join(state, DIRECTORY)
    os.makedirs(place, 0o700, exist_ok=True)
    names = _scheduled(place)
    path = os.path.join(place, strftime("%Y-%m-%dT%H-%M-%S") + ".db")
    take_snapshot(state, path, decode)
    for name in [*names, path][: max(0, len(names) + 1 - kept)]:
        os.unlink(os.path.join(place, name))
    return path


def snapshot_due(state: str, every: float) -> bool:
    """Whether the last snapshot on schedule is older than `every` seconds."""
    place = os.path.join(state, DIRECTORY)
    names = _scheduled(place) if os.path.isdir(place) else []
    return not names or time() - os.stat(os.path.join(place, names[-1])).st_mtime >= every


def _scheduled(place: str) -> list[str]:
    return sorted(name for name in os.listdir(place) if name.endswith(".db"))


def _remove(path: str) -> None:
    for one in (path, path + "-wal", path + "-shm", path + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(one)

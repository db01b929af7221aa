"""Files that keep keys: nobody has to be asked, but everybody has to lock."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from .store import Store

# --- a SQLite file --------------------------------------------------------------------------------


@contextlib.contextmanager
def made_database(directory: Path) -> Iterator[str]:
    path = str(directory / "keys.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE item (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    yield path


@contextlib.contextmanager
def open_database(path: str) -> Iterator[Store]:
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")

        def put(key: str, value: bytes) -> None:
            database.execute("INSERT OR REPLACE INTO item VALUES (?, ?)", (key, value))

        def get(key: str) -> bytes | None:
            found = database.execute("SELECT value FROM item WHERE key = ?", (key,)).fetchone()
            return found[0] if found else None

        yield Store(put, get)


# --- a mapped file --------------------------------------------------------------------------------

SLOT = struct.Struct("32sB64s")
"""A key that is padded with zeros, how long the value is, and the value."""
SLOTS = 4096


class MappedDict:
    """Short keys and values in a mapped file: what one writes by hand instead of a server.

    A key is in the slot that its checksum names, or in the next that was free. Readers share the
    lock of the file, a writer has it for itself.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(self._fd, 0)

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def get(self, key: str) -> bytes | None:
        encoded = key.encode()
        with self._locked(fcntl.LOCK_SH):
            held, length, value = SLOT.unpack_from(self._map, self._place(encoded))
            return value[:length] if held.rstrip(b"\0") == encoded else None

    def set(self, key: str, value: bytes) -> None:
        encoded = key.encode()
        if len(encoded) > 32 or len(value) > 64:
            raise ValueError("a slot has room for 32 bytes of key and 64 of value")
        with self._locked(fcntl.LOCK_EX):
            SLOT.pack_into(self._map, self._place(encoded), encoded, len(value), value)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        fcntl.flock(self._fd, kind)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _place(self, key: bytes) -> int:
        """Where the key is, or can be put. Raises KeyError when all slots have others."""
        first = zlib.crc32(key)
        for step in range(SLOTS):
            place = (first + step) % SLOTS * SLOT.size
            held = self._map[place : place + 32].rstrip(b"\0")
            if held in (key, b""):
                return place
        raise KeyError(key)


@contextlib.contextmanager
def made_file(directory: Path) -> Iterator[str]:
    path = directory / "keys.mapped"
    path.write_bytes(bytes(SLOTS * SLOT.size))
    yield str(path)


@contextlib.contextmanager
def open_mapped(path: str) -> Iterator[Store]:
    with contextlib.closing(MappedDict(path)) as store:
        yield Store(store.set, store.get)

"""The form of a record of the version page: the newest value of a key, for those who read it from
memory. Shared by the broker, which writes it, and the clients.

    seal    number of the change (64 bits), CRC-32 of the body and of the number (32 bits)
    body    length of the key, length of the value (16 bits each), revision (64 bits), key, value

A reader must not take the half of one value for a value. The writer breaks the seal, writes the
body, and then the new seal. The reader sees the word of the key, the seal, the body, and the seal
again: if the number of all of them is the same, the body is whole, and the newest for which the
word has that number (a seqlock, Hemminger 2002). x86 keeps stores and loads in order; elsewhere
`fence` sees to it, and the CRC finds what is torn within the copying of a body.
"""

from __future__ import annotations

import mmap
import platform
import threading
from struct import Struct
from typing import Final
from zlib import crc32

RECORD_BYTES: Final = 256
_SEAL = Struct("=QI")
_NUMBER = Struct("=Q")
_HEAD = Struct("=HHQ")
_BOTH = Struct("=QIHHQ")
_BODY = 12
"""Where the body begins, behind the seal."""
_KEY = 12
"""Where the key begins in the body, behind the head."""
ROOM: Final = RECORD_BYTES - _BODY - _KEY
"""Bytes of key and value together that find room in a record."""
BROKEN = 0
"""In the place of the number while a record is written: no change has it."""
NOTHING = 0xFFFF
"""In the place of the value's length, if the key is absent."""

ORDERED: Final = platform.machine() in ("x86_64", "AMD64", "i686")
"""Stores and loads are seen in their order without a `fence`."""
_lock = threading.Lock()


def fence() -> None:
    """What was stored or loaded before is so before what comes after: the release of a lock and an
    acquire that follows may not change places."""
    with _lock:
        pass
    with _lock:
        pass


def write_record(
    memory: mmap.mmap, at: int, number: int, key: bytes, value: bytes | None, revision: int
) -> None:
    """The word of the key says `number` already."""
    if value is None:
        body = _HEAD.pack(len(key), NOTHING, revision) + key
    else:
        body = _HEAD.pack(len(key), len(value), revision) + key + value
    _NUMBER.pack_into(memory, at, BROKEN)
    if not ORDERED:
        fence()
    memory[at + _BODY : at + _BODY + len(body)] = body
    if not ORDERED:
        fence()
    _SEAL.pack_into(memory, at, number, crc32(body, number))


def read_record(
    memory: mmap.mmap, at: int, number: int, key: bytes
) -> tuple[bytes | None, int] | None:
    """The value of `key` and its revision (0: it is absent), if the record is that of this change;
    `number` is what the word of the key says."""
    noted, check, key_length, value_length, revision = _BOTH.unpack_from(memory, at)
    if noted != number or key_length != len(key):
        return None
    if not ORDERED:
        fence()
    end = _KEY + key_length
    begin = at + _BODY
    body = memory[begin : begin + (end if value_length == NOTHING else end + value_length)]
    if not ORDERED:
        fence()
    if _NUMBER.unpack_from(memory, at)[0] != number:
        return None
    # With lengths that are not those of the body, it is not what the CRC is of either.
    if body[_KEY:end] != key or crc32(body, number) != check:
        return None
    return (None, 0) if value_length == NOTHING else (body[end:], revision)

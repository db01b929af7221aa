"""The bytes of a journal: what a segment begins with, and how a record is written and found again.

    segment = MAGIC record…               the first record is the header, the others are turns
    record  = MARK length crc payload     length and crc are u32, little-endian

A *position* counts bytes since the journal began, over all of its segments. The CRC begins with the
position at which the record stands, so a block that a file system puts in the wrong place is no
record there, nor is one that somebody has hidden in a value. The mark lets a reader find the next
good record after a bad one. Payloads are MessagePack: the header a map, a turn an array.

Nothing in here does I/O. docs/journal.md describes the format for people.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgpack

from ..messages import Answered, Change, DeadlineMoved, Owned, Recorded, Writer
from ..version import __version__

MAGIC: Final = b"udsbus journal 1\n"
"""Its last character but one is the version of the format."""
MARK: Final = b"\xc1udr"
"""0xC1 is the one byte that MessagePack never uses."""
_FRAME = struct.Struct("<4sII")
pack_frame = _FRAME.pack
OVERHEAD: Final = _FRAME.size

_new: Any = tuple.__new__
RECORDED: Final = len(Recorded._fields)
"""So many fields of a change are in a record."""

Changed = Recorded | DeadlineMoved | Owned


class Header(NamedTuple):
    """What a segment says of itself."""

    segment: int
    start: int
    """The position at which the segment begins. What stands beyond it in the segment before is the
    rest of a write that failed, and counts for nothing."""
    synced: int
    """The position up to which the journal was known to be on the disk."""
    bus: str
    """Which state this is: two that have the same are of the same history."""
    first_revision: int
    """Where the revisions of the bus began."""
    boot: str
    """The boot of the machine, within which clocks can be compared; "" if the system has no name
    for it."""
    version: str
    """The release of udsbus that wrote it."""


class Turn(NamedTuple):
    """What one turn, or a part of one, has changed."""

    time: float
    """Seconds since 1970, by the clock on the wall: for people, and for time to live across a
    reboot."""
    clock: float
    """The same moment on the clock that deadlines are told in, which ends with the boot."""
    synced: int
    """The position up to which the journal was known to be on the disk."""
    changes: list[Changed]
    writers: dict[int, Writer]
    """Those that had not changed anything before in this segment, by `Change.origin`."""
    answers: tuple[Answered, ...] = ()
    """What was answered to the requests of this turn."""
    more: bool = False
    """The next record is of the same turn. Without that, this never happened."""


class BadRecord(Exception):
    """What stands at `offset` of a segment is no record."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class UnknownFormat(BadRecord):
    """A segment that another release has written. Nothing is wrong with it."""


def frame(payload: bytes, position: int) -> bytes:
    """The whole record for a payload that will stand at `position`."""
    crc = zlib.crc32(payload, position & 0xFFFFFFFF)
    return pack_frame(MARK, len(payload), crc) + payload


def record_at(data: bytes, offset: int, start: int) -> bytes:
    """The payload of the record at `offset` of a segment that begins at position `start`.

    Raises BadRecord.
    """
    payload_at = offset + OVERHEAD
    if payload_at > len(data):
        raise BadRecord(offset, f"a record is cut off after {len(data) - offset} bytes")
    mark, length, crc = _FRAME.unpack_from(data, offset)
    if mark != MARK:
        raise BadRecord(offset, "no record begins here")
    payload = data[payload_at : payload_at + length]
    if len(payload) != length:
        raise BadRecord(offset, f"a record of {length} bytes is cut off after {len(payload)}")
    if zlib.crc32(payload, (start + offset) & 0xFFFFFFFF) != crc:
        raise BadRecord(offset, "the checksum of a record is wrong")
    return payload


def next_record(data: bytes, after: int, start: int) -> int | None:
    """The offset of the next good record behind a bad one at `after`."""
    offset = data.find(MARK, after + 1)
    while offset >= 0:
        try:
            record_at(data, offset, start)
        except BadRecord:
            offset = data.find(MARK, offset + 1)
        else:
            return offset
    return None


# --- payloads --------------------------------------------------------------------------------


def header_payload(header: Header) -> bytes:
    return msgpack.packb(header._asdict())  # type: ignore[no-any-return]


def turn_payload(turn: Turn) -> bytes:
    return msgpack.packb(turn)  # type: ignore[no-any-return]


def recorded(changes: Iterable[Change | DeadlineMoved | Owned]) -> list[Any]:
    """Of each what a record holds."""
    return [change[:RECORDED] for change in changes]


def read_header(data: bytes) -> tuple[Header, int]:
    """The header of a segment, and the offset of the first turn. Raises BadRecord."""
    if data[: len(MAGIC)] != MAGIC:
        known, version = MAGIC[:-2], data[len(MAGIC) - 2 :].partition(b"\n")[0]
        if data.startswith(known) and version.isdigit() and len(version) < len(data) - len(known):
            raise UnknownFormat(
                0, f"format version {version.decode()!r} is not known to udsbus {__version__}"
            )
        raise BadRecord(0, "this is no segment of a journal")
    # The one record whose position is not known before it is read: its CRC begins with zero.
    payload = record_at(data, len(MAGIC), -len(MAGIC))
    try:
        fields = msgpack.unpackb(payload)
        header = Header(**{name: fields[name] for name in Header._fields})
    except Exception as error:
        raise BadRecord(len(MAGIC), f"the header cannot be read: {error!r}") from None
    return header, len(MAGIC) + OVERHEAD + len(payload)


def read_turn(payload: bytes, offset: int) -> Turn:
    """What a record's payload says. Raises BadRecord, with `offset`, if it is no turn."""
    try:
        fields = msgpack.unpackb(payload, use_list=False, strict_map_key=False)
        time, clock, synced, changes, writers, answers, more = fields[:7]
        changed = [
            _new(Recorded, change) if len(change) == RECORDED else _other(*change)
            for change in changes
        ]
        if writers:
            writers = {origin: Writer(*writer) for origin, writer in writers.items()}
        if len(answers) == 1:  # a start reads millions of these
            origin, msgid, response = answers[0]
            answers = (_new(Answered, (origin, msgid, response)),)
        elif answers:
            answers = tuple([Answered(*answer) for answer in answers])
        return _new(Turn, (time, clock, synced, changed, writers or {}, answers, more))  # type: ignore[no-any-return]
    except Exception as error:  # good bytes, by their checksum, but not what we write
        raise BadRecord(offset, f"a record cannot be read: {error!r}") from None


def _other(*fields: Any) -> DeadlineMoved | Owned:
    return Owned(*fields) if len(fields) == 3 else DeadlineMoved(*fields)


def turns(data: bytes, offset: int, start: int) -> Iterator[tuple[int, Turn]]:
    """The turns of a segment from `offset` on, each with the offset of its end. Raises
    BadRecord."""
    while offset < len(data):
        payload = record_at(data, offset, start)
        turn = read_turn(payload, offset)
        offset += OVERHEAD + len(payload)
        yield offset, turn

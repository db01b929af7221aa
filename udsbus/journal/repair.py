"""Looking at a journal without a broker, and mending one that a broker refuses.

There are two ways. To *cut* ends the journal where it stops being readable: the state is what it
was at that moment. To *bridge* leaves out only what cannot be read and keeps what came later: a
later state, in which some changes are missing. Nobody but its owner can say which is better.
Either way the bytes that are taken out are kept in `damaged/`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from time import monotonic, time
from typing import NamedTuple

from ..errors import JournalDamaged
from ..messages import Recorded, Writer
from ..peers import boot_id
from ..version import __version__
from .database import position_in
from .directory import Segment, StateDirectory, list_segments, sync_directory
from .records import (
    MAGIC,
    BadRecord,
    Header,
    Turn,
    frame,
    header_payload,
    next_record,
    read_header,
    read_turn,
    record_at,
    turn_payload,
)
from .recovery import Fault, Scan, cut

ATTEMPTS = 20


class Extent(NamedTuple):
    """What some good records hold."""

    turns: int = 0
    changes: int = 0
    revision: int = 0
    """The last; 0: none has changed a key."""
    time: float = 0.0
    """Of the last, in seconds since 1970."""

    def with_turn(self, turn: Turn) -> Extent:
        revisions = [change.revision for change in turn.changes if isinstance(change, Recorded)]
        return Extent(
            self.turns + 1,
            self.changes + len(turn.changes),
            max([self.revision, *revisions]),
            turn.time,
        )


class Report(NamedTuple):
    """What there is in a state directory."""

    segments: list[tuple[Segment, int]]
    """Each with its size in bytes."""
    good: Extent
    """Up to the fault, or to the end."""
    fault: Fault | None
    later: Extent
    """Behind the fault: what can be read of it."""


def check(path: str) -> Report:
    """Read what there is of the journal in a state directory, and change nothing.

    A broker may be writing to it meanwhile: then the tail may look torn.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):  # a segment, which was folded meanwhile
            return _checked(path)
    return _checked(path)


def _checked(path: str) -> Report:
    segments = list_segments(path)
    scan = Scan(segments, position_in(path))
    good = Extent()
    for _, turn in scan:
        good = good.with_turn(turn)
    later = Extent()
    if scan.fault is not None and not scan.fault.foreign:
        for _, readable in _behind(scan.fault, scan.position):
            for turn in readable:
                later = later.with_turn(turn)
    return Report([(one, os.path.getsize(one.path)) for one in segments], good, scan.fault, later)


def repair(directory: StateDirectory, *, bridge: bool = False) -> list[tuple[Fault, list[str]]]:
    """Mend a journal. Returns each fault and where what was taken out is kept; none: it is whole.

    Raises JournalDamaged for what no repair helps against: a journal of another release.
    """
    mended: list[tuple[Fault, list[str]]] = []
    latest = 0
    while True:
        scan = Scan(directory.segments(), position_in(directory.path))
        known: dict[int, Writer] = {}
        bus, segment = "", 0
        for header, turn in scan:
            if header.segment != segment:
                segment, known = header.segment, {}
            bus = header.bus
            known |= turn.writers
            latest = max(latest, Extent().with_turn(turn).revision)
        fault = scan.fault
        if fault is None:
            if mended:
                _begin_again(directory, scan.position, latest)
            return mended
        if fault.foreign:
            raise JournalDamaged(
                f"{fault}; it may be whole: use the release that has written it",
                file=fault.segment.path, offset=fault.offset,
            )  # fmt: skip
        for _, readable in _behind(fault, scan.position):
            for turn in readable:
                latest = max(latest, Extent().with_turn(turn).revision)
        written = _bridged(directory, fault, scan.position, bus, known) if bridge else []
        mended.append((fault, cut(directory, fault)))
        for made, path in written:
            os.rename(made, path)
        sync_directory(directory.path)


def _begin_again(directory: StateDirectory, position: int, latest: int) -> None:
    """End a mended journal with a segment that says: another history begins here.

    Clients have seen revisions that are no more, or that others will be given; now they see another
    bus, whose revisions begin later than any of them.
    """
    segments = directory.segments()
    number = (segments[-1].number if segments else 0) + 1
    first = max(latest, int(time() * 1e6))
    header = Header(number, position, 0, os.urandom(8).hex(), first, boot_id(), __version__)
    data = MAGIC + frame(header_payload(header), 0)
    empty = Turn(time(), monotonic(), 0, [], {})
    data += frame(turn_payload(empty), position + len(data))
    with open(directory.segment_path(number), "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory.path)


# --- what is behind a fault ------------------------------------------------------------------


def _behind(fault: Fault, position: int, bus: str = "") -> Iterator[tuple[Header, Iterator[Turn]]]:
    """What can be read behind a fault: the turns of each segment, with its header."""
    offset = fault.offset
    for segment in (fault.segment, *fault.later):
        with open(segment.path, "rb") as file:
            data = file.read()
        try:
            header = read_header(data)[0]
        except BadRecord:
            # It probably begins where the one before it ended; checksums will tell.
            header = Header(segment.number, position, 0, bus, 0, "", __version__)
        yield header, _readable(data, offset, header.start)
        offset = 0


def _readable(data: bytes, offset: int, start: int) -> Iterator[Turn]:
    """The good turns of a segment behind `offset`, however much in between is bad."""
    at = next_record(data, offset, start)
    while at is not None:
        with contextlib.suppress(BadRecord):  # the header
            yield read_turn(record_at(data, at, start), at)
        at = next_record(data, at, start)


def _bridged(
    directory: StateDirectory, fault: Fault, position: int, bus: str, known: dict[int, Writer]
) -> list[tuple[str, str]]:
    """Write what is behind a fault into new segments that go on at `position`.

    Returns the path of each, and the one that it is to have. They get their names when the fault
    has been cut out: until then the journal is what it was.
    """
    written: list[tuple[str, str]] = []
    number = directory.segments()[-1].number
    for header, readable in _behind(fault, position, bus):
        number += 1
        path = directory.segment_path(number)
        header = header._replace(segment=number, start=position)
        with open(path + ".new", "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            position += file.write(MAGIC + frame(header_payload(header), 0))
            for turn in readable:
                # What it knew to be on the disk was told in positions that are no more.
                turn = turn._replace(synced=0, writers=known | turn.writers)
                position += file.write(frame(turn_payload(turn), position))
                known = {}
            file.flush()
            os.fsync(file.fileno())
        written.append((path + ".new", path))
    return written

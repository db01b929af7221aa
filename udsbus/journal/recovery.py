"""Reading a journal from its beginning to its end, and judging what is wrong with it.

Two things can be wrong. The *tail* may be torn: a process or the machine died within a write, so
the last record is cut off, or, after a power failure, some of the last second is missing. Nobody
was promised more, so the journal ends at the last good record before that.

Or there is *damage*: bytes that were on the disk once, by the word of a later record, are not what
they were, or a segment is gone. Then something acknowledged would be lost in silence, so nothing
is done without being asked (`udsbus journal repair`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import JournalDamaged
from .directory import Segment, StateDirectory
from .records import (
    BadRecord,
    Header,
    Turn,
    UnknownFormat,
    next_record,
    read_header,
    read_turn,
    record_at,
    turns,
)

log = logging.getLogger("udsbus.journal")


HEADER_MOST = 4096
"""Bytes of a segment that hold its header, whatever the bus and the release are called."""


class Fault(NamedTuple):
    """Where a journal stops being readable."""

    segment: Segment
    offset: int
    what: str
    torn: bool
    """Only the tail is torn: no promise is broken by cutting it."""
    foreign: bool
    """Another release has written it, and may be able to read it."""
    later: list[Segment]
    """The segments behind."""

    def __str__(self) -> str:
        return f"{self.segment.path}, offset {self.offset}: {self.what}"


class Scan:
    """One pass over the segments. Iterate for (header, turn); then the attributes hold.

    Reads one segment at a time into memory and changes nothing.
    """

    def __init__(
        self,
        segments: list[Segment],
        begin: int = 0,
        followed_by: Segment | None = None,
        *,
        growing: bool = False,
    ) -> None:
        """What stands before the position `begin`, where a record ends, is passed over; nobody
        misses it. `followed_by`: the segment behind the last of `segments`, which says where that
        ends. `growing`: somebody writes to the last one, so its last turn may be half there, or be
        cut off again; it is left for the next pass, and nothing that is wrong there is a fault.
        """
        self.fault: Fault | None = None
        """What ended the pass before the end."""
        self.position = begin
        """The end of the last good record; while turns are read, of the turn that is told."""
        self.header: Header | None = None
        """Of the last segment."""
        self._begin = begin
        self._segments = segments
        self._behind = [*segments[1:], *([] if followed_by is None else [followed_by])]
        self._growing = growing

    def __iter__(self) -> Iterator[tuple[Header, Turn]]:
        """Raises FileNotFoundError if somebody folds segments that were not passed over."""
        following = [header_of(segment) for segment in self._behind]
        for index, segment in enumerate(self._segments):
            # The one after says where this one ends: what is beyond was never acknowledged.
            after = following[index] if index < len(following) else None
            if after is not None and after.start <= self._begin:
                self.header = header_of(segment) or self.header
                continue
            turns_of_it = self._turns(segment, after)
            if self._growing and index == len(self._segments) - 1:
                turns_of_it = _but_the_last(turns_of_it)
            try:
                for end, parts in turns_of_it:
                    self._reached(end)
                    assert self.header is not None
                    for part in parts:
                        yield self.header, part
            except BadRecord as bad:
                later = self._segments[index + 1 :]
                foreign = isinstance(bad, UnknownFormat)
                torn = not foreign and self._is_torn(segment, after, bad.offset, later)
                self.fault = Fault(segment, bad.offset, str(bad), torn, foreign, later)
                return

    def _turns(self, segment: Segment, after: Header | None) -> Iterator[tuple[int, list[Turn]]]:
        """The turns of a segment behind `begin`, in their parts, and the positions where they end.

        Raises BadRecord.
        """
        header, first = read_header(_read(segment, 0, HEADER_MOST))
        self.header = header
        if header.start != self.position and header.start > self._begin:
            raise BadRecord(0, _gap(self.position, header.start))
        first = max(first, self._begin - header.start)
        start = header.start + first
        self._reached(start)
        data = _read(segment, first, _end(header, after))
        offset = 0
        parts: list[Turn] = []
        try:
            for stop, turn in turns(data, 0, start):
                parts.append(turn)
                if not turn.more:
                    offset = stop
                    yield start + stop, parts
                    parts = []
            if parts:
                raise BadRecord(offset, "the last turn is not complete")
            if after is not None and after.start > max(start + offset, self._begin):
                raise BadRecord(offset, _gap(self.position, after.start))
        except BadRecord as bad:
            raise BadRecord(first + bad.offset, str(bad)) from None

    def _reached(self, position: int) -> None:
        self.position = max(position, self._begin)

    def _is_torn(
        self, segment: Segment, after: Header | None, offset: int, later: list[Segment]
    ) -> bool:
        """Whether nothing behind `offset` says that the journal was on the disk beyond it."""
        header = header_of(segment)
        data = _read(segment, 0, None if header is None else _end(header, after))
        told = _synced_behind(data, offset, self.position, later)
        return all(synced <= self.position for synced in told)


def _but_the_last(
    turns_of_it: Iterator[tuple[int, list[Turn]]],
) -> Iterator[tuple[int, list[Turn]]]:
    """All but the last one, which may not be the last word; nor is what is wrong behind it."""
    held: tuple[int, list[Turn]] | None = None
    with contextlib.suppress(BadRecord):
        for each in turns_of_it:
            if held is not None:
                yield held
            held = each


def _end(header: Header, after: Header | None) -> int | None:
    """Where a segment ends, by the word of the one after it; None: where its file does."""
    return None if after is None else max(0, after.start - header.start)


class Recovery:
    """What a broker finds in its state directory when it starts.

    What stands behind `begin` comes from the segments: iterate for every turn in order, with the
    header of its segment; then ask where the journal goes on.
    """

    def __init__(self, directory: StateDirectory, begin: int = 0, segment: int = 0) -> None:
        """`begin`, and the number of the `segment` there: how far the reader has come already."""
        self._directory = directory
        self._segments = directory.segments()
        self._segment = segment
        self.bus: str | None = None
        """Which state the segments are of; None: there is none, or none to read."""
        self.first_revision = 0
        for header in map(header_of, self._segments):
            if header is not None:  # the last one counts: a repair begins a new history
                self.bus, self.first_revision = header.bus, header.first_revision
        self._scan = Scan(self._segments, begin)

    def __iter__(self) -> Iterator[tuple[Header, Turn]]:
        """Raises JournalDamaged where it must not go on. Cuts a torn tail, sets it aside and says
        so in the log."""
        yield from self._scan
        fault = self._scan.fault
        if fault is None:
            self._sync()
            return
        if fault.foreign:
            raise JournalDamaged(
                f"{fault}; start the release of udsbus that has written it",
                file=fault.segment.path,
                offset=fault.offset,
            )
        if not fault.torn:
            raise JournalDamaged(
                f"the journal is damaged at {fault}. To see what can be recovered: "
                f"udsbus journal check --state {self._directory.path}",
                file=fault.segment.path,
                offset=fault.offset,
            )
        try:
            for path in cut(self._directory, fault):
                log.warning("the journal's torn tail is cut at %s; set aside as %s", fault, path)
        except OSError as error:
            if fault.later:
                raise
            # The disk is full, say. What is left there does no harm: the next segment says where
            # the journal goes on.
            log.warning("the journal's torn tail at %s cannot be set aside: %s", fault, error)
        self._sync()

    def _sync(self) -> None:
        """The next segment will say that all before it is on the disk."""
        for segment in self._directory.segments():
            with open(segment.path, "rb") as file:
                os.fdatasync(file.fileno())

    @property
    def position(self) -> int:
        """Where the journal goes on."""
        return self._scan.position

    @property
    def next_segment(self) -> int:
        """The number of the segment that comes next."""
        last = self._segments[-1].number if self._segments else 0
        return max(last, self._segment) + 1


def cut(directory: StateDirectory, fault: Fault) -> list[str]:
    """Let the journal end where the fault is. Returns where what stood behind is kept."""
    # The last first: what a crash leaves behind is a journal with the same fault.
    aside = [directory.set_aside(segment, 0) for segment in reversed(fault.later)]
    whole = header_of(fault.segment) is None  # then nothing in front of the fault is worth keeping
    return [*aside, directory.set_aside(fault.segment, 0 if whole else fault.offset)]


def _gap(end: int, start: int) -> str:
    if end < start:
        return f"{start - end} bytes of the journal are missing here"
    return f"the segment goes {end - start} bytes back"


def header_of(segment: Segment) -> Header | None:
    """The header of a segment, or None if it has none that can be read."""
    try:
        with open(segment.path, "rb") as file:
            return read_header(file.read(HEADER_MOST))[0]
    except BadRecord:
        return None


def _read(segment: Segment, begin: int = 0, end: int | None = None) -> bytes:
    with open(segment.path, "rb") as file:
        file.seek(begin)
        return file.read() if end is None else file.read(max(0, end - begin))


def _synced_behind(data: bytes, offset: int, position: int, later: list[Segment]) -> Iterator[int]:
    """What the good records behind `offset` of a segment, and in those behind it, say of how far
    the journal was on the disk."""
    for behind in (data, *map(_read, later)):
        with contextlib.suppress(BadRecord):
            yield read_header(behind)[0].synced
        start = start_of(behind, position)
        at = next_record(behind, offset, start)
        while at is not None:
            with contextlib.suppress(BadRecord):  # the header
                yield read_turn(record_at(behind, at, start), at).synced
            at = next_record(behind, at, start)
        offset = 0


def start_of(data: bytes, position: int) -> int:
    """Where a segment begins; if it does not say so any more, probably at `position`, where the one
    before it ends. Checksums will tell."""
    try:
        return read_header(data)[0].start
    except BadRecord:
        return position

"""The seam between the turn and durability, and the journal in files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import Any, Literal, NamedTuple, Protocol
from zlib import crc32

import msgpack

from ..errors import StorageFailed
from ..limits import KEPT_BYTES, RECORD_BYTES, SEGMENT_BYTES
from ..messages import Answered, Change, DeadlineMoved, Effect, Message, Owned, Writer
from ..peers import boot_id
from ..version import __version__
from .directory import StateDirectory, sync_directory
from .records import (
    MAGIC,
    MARK,
    RECORDED,
    Header,
    frame,
    header_payload,
    pack_frame,
    recorded,
)

log = logging.getLogger("udsbus.journal")

Durability = Literal["none", "process", "disk"]

Told = Change | DeadlineMoved | Owned
"""What a turn tells a journal."""
FEW = 4
"""So many changes fit in one record whatever their values: see RECORD_BYTES and VALUE_BYTES."""


class Journal(Protocol):
    """What the turn asks of a journal."""

    durable: bool
    """Whether it can fail, so that the turn must be able to take back what it did."""
    wants_answers: bool
    """Whether `append` looks at them."""

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        """Make the effects of one turn safe, all or none. When it returns they may be seen.
        `answers` are those to be kept with them; `now` is the time of the turn, on the clock of its
        deadlines. Returns whether there was anything to keep: if not, the answers are not kept.

        Raises StorageFailed; then none of them is.
        """
        ...

    def close(self) -> None: ...


class MemoryJournal:
    """Keeps nothing: the state of the bus ends with the broker's process."""

    durable = False
    wants_answers = False

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        return False

    def close(self) -> None:
        pass


class FileJournal:
    """Appends to a segment, one `write` a turn.

    What a `write` was given survives the end of the process, however it ends, because it is the
    kernel's. A `Sync` puts it on the disk: at the end of each turn with `disk`, and else when the
    owner runs one, in another thread if it likes. Everything else belongs to the turn's thread.

    Measured and left: to preallocate segments (a `write` into them takes as long), and to map them
    into memory, which saves most of a `write`, but then a full disk is a SIGBUS.

    A write that fails is cut off again, and nothing is written any more until `retry` finds that
    it can be. If even the cut fails, the segment is left as it is; the header of the next says
    where the journal goes on, and what stands beyond that place counts for nothing.
    """

    durable = True
    wants_answers = True

    def __init__(
        self,
        directory: StateDirectory,
        durability: Literal["process", "disk"],
        *,
        segment: int,
        position: int,
        bus: str,
        first_revision: int,
    ) -> None:
        """Begins segment number `segment` at `position`. If that cannot be, `failure` says why."""
        self.durability = durability
        self.failure: StorageFailed | None = None
        """Why nothing is written now."""
        self.writer: Callable[[int], Writer | None] = lambda origin: None
        """Tells who a connection is."""
        self.wants_care: Callable[[], None] = lambda: None
        """Called when there is something to sync or to retry."""
        self.synced = position
        """The position up to which the journal is on the disk."""
        self.segment = segment - 1
        self.epoch = segment
        """Grows with each broker that has this state."""
        self._directory = directory
        self.bus = bus
        """Which state this is."""
        self._first_revision = first_revision
        self._boot = boot_id()
        self._pack = msgpack.Packer(autoreset=True).pack
        self._fd = -1
        self._retired: list[int] = []
        """Segments that are finished but perhaps not on the disk."""
        self._new_names = False
        self._start = self._end = position
        """Of the segment: the positions of its first byte and of the next record."""
        self._introduced: set[int] = set()
        """The connections that the segment knows the writers of."""
        self._quick_until = 0
        """The position up to which a record can be written without a thought: it wants no new
        segment, and that it wants to be synced is known already."""
        try:
            self._begin_segment()
        except OSError as error:
            self._failed(error)

    # --- append -----------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Where the next record will stand."""
        return self._end

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        if (
            len(effects) == 1
            and type(effects[0]) is Change
            and effects[0][5] in self._introduced
            and self._end < self._quick_until
            and (not answers or (len(answers) == 1 and answers[0][0] in self._introduced))
        ):  # the commonest, and it shall cost a `set` as little as can be
            try:
                self._write((effects[0][:RECORDED],), None, answers, now)
            except OSError as error:
                raise self._failed(error, cut_to=self._end) from None
            return True
        changes: list[Told] = [one for one in effects if not isinstance(one, Message)]
        if not changes:
            return False
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # it would grow with each raise
        before = self._end
        try:
            if before - self._start > SEGMENT_BYTES:
                self._begin_segment()
                before = self._end
            writers = self._newcomers(changes, answers)
            if len(changes) <= FEW:
                self._write(recorded(changes), writers, answers, now)
            else:
                *first, last = _records(changes)
                for some in first:
                    self._write(recorded(some), writers, [], now, more=True)
                    writers = None
                self._write(recorded(last), writers, answers, now)
            if self.durability == "disk":
                self._sync_now()
        except OSError as error:
            raise self._failed(error, cut_to=before) from None
        if self.durability == "process" and not self._quick_until:
            self._quick_until = self._start + SEGMENT_BYTES
            self.wants_care()
        return True

    def _write(
        self,
        changes: Any,
        writers: dict[int, Writer] | None,
        answers: list[Answered],
        now: float,
        more: bool = False,
    ) -> None:
        """`changes` as `recorded` gives them. Raises OSError; a part may have been written then."""
        payload = self._pack((time(), now, self.synced, changes, writers, answers, more))
        position = self._end
        # As `frame` does; a call less is a part of what a `set` takes.
        record = pack_frame(MARK, len(payload), crc32(payload, position & 0xFFFFFFFF)) + payload
        written = os.write(self._fd, record)
        if written == len(record):
            self._end = position + written
            if written > KEPT_BYTES:
                self._pack = msgpack.Packer(autoreset=True).pack
            return
        with memoryview(record) as whole:  # the disk is full; the next one will tell
            while written < len(record):
                written += os.write(self._fd, whole[written:])
        self._end = position + written

    def introduce_again(self, origin: int) -> None:
        """A connection has told more of itself: say so with its next change."""
        self._introduced.discard(origin)

    def _newcomers(self, changes: list[Told], answers: list[Answered]) -> dict[int, Writer] | None:
        """Those who have neither changed anything in this segment before nor been answered."""
        origins = {change.origin for change in changes if isinstance(change, Change)}
        origins |= {answer[0] for answer in answers}
        newcomers = origins - self._introduced
        self._introduced |= newcomers
        found = {origin: self.writer(origin) for origin in newcomers}
        return {origin: writer for origin, writer in found.items() if writer is not None} or None

    # --- segments ---------------------------------------------------------------------------

    def _begin_segment(self) -> None:
        """The next one. On an OSError the journal goes on where it was."""
        number = self.segment + 1
        path = self._directory.segment_path(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        header = Header(
            number, self._end, self.synced, self.bus, self._first_revision, self._boot, __version__
        )
        data = MAGIC + frame(header_payload(header), 0)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(0, "the disk took only a part of the header of a new segment", path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        if self._fd >= 0:
            self._retired.append(self._fd)
        self._fd = fd
        self._new_names = True
        self.segment = number
        self._introduced.clear()
        self._quick_until = 0
        self._start = self._end
        self._end += len(data)

    # --- to the disk ------------------------------------------------------------------------

    def begin_sync(self) -> Sync:
        """What it takes to put all that has been written on the disk.

        Run it, in any thread, and then call `end_sync`, or `sync_failed` if it raised.
        """
        self._quick_until = 0  # what is written from now on has to ask again
        new_names, self._new_names = self._new_names, False
        directory = self._directory.path if new_names else None
        return Sync(self._end, [*self._retired, self._fd], directory)

    def end_sync(self, sync: Sync) -> None:
        self.synced = sync.end
        if self._end == sync.end and self.durability == "process" and self.failure is None:
            # Nothing may come for long: say that all is on the disk. This itself need not be.
            try:
                self._write([], None, [], monotonic())
            except OSError as error:  # and a part of it must not stand in the way of the next
                self._failed(error, cut_to=sync.end)
        for fd in sync.segments[:-1]:
            self._retired.remove(fd)
            os.close(fd)

    def _sync_now(self) -> None:
        sync = self.begin_sync()
        try:
            sync.run()
        except OSError:
            self._new_names = True
            raise
        self.end_sync(sync)

    # --- trouble ----------------------------------------------------------------------------

    def sync_failed(self, error: OSError) -> StorageFailed:
        """A sync raised `error`. Nothing more is written until one succeeds.

        What it should have put on the disk is safe from the end of processes, as before. Whether
        it would survive a power failure is not known any more: the kernel may have given it up.
        """
        return self._failed(error)

    def retry(self) -> bool:
        """Find out whether the journal can be written again. True: it can."""
        if self.failure is None:
            return True
        before = self._end
        try:
            if self._fd < 0:
                self._begin_segment()
                before = self._end
            self._write([], None, [], monotonic())
            self._sync_now()
        except OSError as error:
            self._failed(error, cut_to=before)
            return False
        log.warning("the journal in %s can be written again", self._directory.path)
        self.failure = None
        return True

    def _failed(self, error: OSError, cut_to: int | None = None) -> StorageFailed:
        """Remember why nothing is written now, and cut off what was written in part."""
        reason = error.strerror or str(error)
        failure = StorageFailed(
            f"the journal in {self._directory.path} cannot be written: {reason}; "
            "nothing has been changed, and reads go on",
            reason=reason,
        )
        if self.failure is None:
            log.error("%s; writes are refused until it can be", failure)
        self.failure = failure
        self._quick_until = 0
        self._introduced.clear()  # some may have been introduced in what is cut off
        if cut_to is not None and self._fd >= 0:
            self._end = cut_to
            try:
                os.ftruncate(self._fd, cut_to - self._start)
            except OSError as second:
                log.error("what was written in part cannot be cut off either: %s", second)
                self._retired.append(self._fd)
                self._fd = -1
        self.wants_care()
        return failure

    @property
    def lock(self) -> int:
        """The descriptor of the state directory's lock, for whom it is to be handed to."""
        return self._directory.lock

    def about(self) -> dict[str, Any]:
        """What `info` tells of it."""
        return {
            "segment": self.segment,
            "position": self._end,
            "synced": self.synced,
            "failure": None if self.failure is None else self.failure.details["reason"],
        }

    def close(self) -> None:
        try:
            self._sync_now()
            self._write([], None, [], monotonic())  # which says that all before it is on the disk
        except OSError as error:
            log.error("the journal could not be put on the disk at the end: %s", error)
        for fd in (*self._retired, self._fd):
            if fd >= 0:
                os.close(fd)
        self._directory.close()


class Sync(NamedTuple):
    """Puts a journal on the disk."""

    end: int
    """The position up to which it does so."""
    segments: list[int]
    """Descriptors, the last one of the segment that is being written to."""
    directory: str | None
    """Where there are new names."""

    def run(self) -> None:
        """Raises OSError."""
        for fd in self.segments:
            os.fdatasync(fd)
        if self.directory is not None:
            sync_directory(self.directory)


def _records(changes: list[Told]) -> Iterator[list[Told]]:
    """The changes in as many records as it takes, with all of one revision in the same."""
    some: list[Told] = []
    size = 0
    revision = -1
    for change in changes:
        if type(change) is Change:
            if size > RECORD_BYTES and change.revision != revision:
                yield some
                some, size = [], 0
            revision = change.revision
            size += len(change.key) + len(change.value or b"")
        some.append(change)
    yield some

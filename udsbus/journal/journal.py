"""The seam between the turn and durability, and the journal in files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from typing import Any, Literal, Protocol

import msgpack

from ..errors import StorageFailed
from ..limits import KEPT_BYTES, RECORD_BYTES, SEGMENT_BYTES
from ..messages import Change, Effect, Message, Writer
from ..version import __version__
from .directory import StateDirectory, sync_directory
from .records import MAGIC, Changed, Header, frame, header_payload

log = logging.getLogger("udsbus.journal")

Durability = Literal["none", "process", "disk"]

FEW = 4
"""So many changes fit in one record whatever their values: see RECORD_BYTES and VALUE_BYTES."""


class Journal(Protocol):
    """What the turn asks of a journal."""

    durable: bool
    """Whether it can fail, so that the turn must be able to take back what it did."""

    def append(self, effects: Sequence[Effect]) -> None:
        """Make the effects of one turn safe, all or none. When it returns they may be seen.

        Raises StorageFailed; then none of them is.
        """
        ...

    def close(self) -> None: ...


class MemoryJournal:
    """Keeps nothing: the state of the bus ends with the broker's process."""

    durable = False

    def append(self, effects: Sequence[Effect]) -> None:
        pass

    def close(self) -> None:
        pass


class FileJournal:
    """Appends to a segment, one `write` a turn.

    What a `write` was given survives the end of the process, however it ends, because it is the
    kernel's. `sync` puts it on the disk: at the end of each turn with `disk`, and else when the
    owner calls it, from another thread if it likes. Everything else belongs to the turn's thread.

    A write that fails is cut off again, and nothing is written any more until `retry` finds that
    it can be. If even the cut fails, the segment is left as it is; the header of the next says
    where the journal goes on, and what stands beyond that place counts for nothing.
    """

    durable = True

    def __init__(
        self,
        directory: StateDirectory,
        durability: Literal["process", "disk"],
        *,
        segment: int,
        position: int,
        first_revision: int,
    ) -> None:
        """Begins segment number `segment` at `position`.

        Raises StorageFailed.
        """
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
        self._directory = directory
        self._first_revision = first_revision
        self._boot = boot_id()
        self._packer = msgpack.Packer(autoreset=True)
        self._fd = -1
        self._retired: list[int] = []
        """Segments that are finished but perhaps not on the disk; `sync` closes them."""
        self._new_names = False
        self._start = self._end = position
        """Of the segment: the positions of its first byte and of the next record."""
        self._introduced: set[int] = set()
        """The connections that the segment knows the writers of."""
        self._clean = True
        """Nothing is unsynced that nobody has been told of."""
        try:
            self._begin_segment()
        except OSError as error:
            self._failed(error)

    # --- append -----------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Where the next record will stand."""
        return self._end

    def append(self, effects: Sequence[Effect]) -> None:
        changes: list[Changed] = [one for one in effects if not isinstance(one, Message)]
        if not changes:
            return
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # it would grow with each raise
        before = self._end
        try:
            if before - self._start > SEGMENT_BYTES:
                self._begin_segment()
                before = self._end
            if len(changes) <= FEW:
                self._write(changes)
            else:
                for some in _records(changes):
                    self._write(some)
            if self.durability == "disk":
                self._sync_now()
        except OSError as error:
            raise self._failed(error, cut_to=before) from None
        if self._clean and self.durability == "process":
            self._clean = False
            self.wants_care()

    def _write(self, changes: list[Changed]) -> None:
        introduced = self._introduced
        writers: dict[int, Writer] | None = None
        for change in changes:
            if type(change) is Change and change.origin not in introduced:
                writers = writers or {}
                self._introduce(change.origin, writers)
        payload = self._packer.pack((time(), monotonic(), self.synced, changes, writers))
        if len(payload) > KEPT_BYTES:
            self._packer = msgpack.Packer(autoreset=True)
        self._write_all(frame(payload, self._end))

    def _introduce(self, origin: int, writers: dict[int, Writer]) -> None:
        self._introduced.add(origin)
        writer = self.writer(origin)
        if writer is not None:
            writers[origin] = writer

    def _write_all(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        self._end += written
        if written < len(data):  # the disk has become full within it: the next one will tell
            with memoryview(data) as whole:
                while written < len(data):
                    more = os.write(self._fd, whole[written:])
                    self._end += more
                    written += more

    # --- segments ---------------------------------------------------------------------------

    def _begin_segment(self) -> None:
        """The next one. On an OSError the journal goes on where it was."""
        number = self.segment + 1
        path = self._directory.segment_path(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        header = Header(number, self._end, self._first_revision, self._boot, __version__)
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
        self._start = self._end
        self._end += len(data)

    # --- to the disk ------------------------------------------------------------------------

    def sync(self) -> None:
        """Put on the disk what has been written before the call. For `process`: any thread.

        Raises OSError. Whoever calls tells the turn's thread of it with `sync_failed`.
        """
        self._clean = True  # before we look at the end: what comes later has to ask again
        self._sync_now()

    def _sync_now(self) -> None:
        end, fd = self._end, self._fd
        retired = self._retired[:]
        for one in (*retired, fd):
            os.fdatasync(one)
        if self._new_names:
            self._new_names = False
            sync_directory(self._directory.path)
        self.synced = end
        for one in retired:
            self._retired.remove(one)
            os.close(one)

    # --- trouble ----------------------------------------------------------------------------

    def sync_failed(self, error: OSError) -> StorageFailed:
        """`sync` raised `error`. Nothing more is written until it succeeds.

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
            self._write([])
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
            self._write([])  # which says that all before it is on the disk
        except OSError as error:
            log.error("the journal could not be put on the disk at the end: %s", error)
        for fd in (*self._retired, self._fd):
            if fd >= 0:
                os.close(fd)
        self._directory.close()


def _records(changes: list[Changed]) -> Iterator[list[Changed]]:
    """The changes in as many records as it takes, with all of one revision in the same."""
    some: list[Changed] = []
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


def boot_id() -> str:
    """What this boot of the machine is called; "" if the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""

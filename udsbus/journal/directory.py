"""The state directory of one bus: who may use it, and which files it holds.

lock                    held by the broker that has the state, and handed on to its standby: nobody
                        else gets in between; holds the pid of the broker
serving                 held by the one process that serves, and never handed on
journal-00000007.log    segments, in the order of their numbers
damaged/                what was cut off a journal, kept for people to look at
"""

from __future__ import annotations

import os
import re
from time import monotonic, sleep
from typing import NamedTuple

from ..errors import AccessDenied, BrokerUnavailable, Error
from ..filelock import Held, take_lock, write_pid
from ..paths import ensure_private_directory

SUCCESSION_SECONDS = 1.0
"""A process that has died within the start of another may have left it the lock for a moment."""
_SEGMENT = re.compile(r"journal-(\d{8,})\.log")


class Segment(NamedTuple):
    number: int
    path: str


class StateDirectory:
    """Owned for as long as it is open."""

    def __init__(self, path: str, lock: int | None = None) -> None:
        """Makes it, private, if it is not there. `lock` is the descriptor of its lock, if that was
        inherited.

        Raises AccessDenied if it will not do, BrokerUnavailable when a living broker has it.
        """
        self.path = path
        if lock is not None:
            self.lock = lock
            self._serving = self._serve(SUCCESSION_SECONDS)
            write_pid(lock)
            return
        try:
            ensure_private_directory(path)
            self.lock = take_lock(os.path.join(path, "lock"))
            try:
                self._serving = self._serve(0.0)
            except BaseException:
                os.close(self.lock)
                raise
        except Held as held:
            raise BrokerUnavailable(
                f"the state in {path} belongs to a living broker, pid {held.pid or 'unknown'}; "
                "stop that one first, or choose another directory with --state",
                pid=held.pid,
            ) from None
        except Error:
            raise
        except OSError as error:
            raise AccessDenied(
                f"cannot keep state in {path}: {error.strerror}; choose another directory with "
                "--state, or keep none with --durability none"
            ) from None

    def _serve(self, seconds: float) -> int:
        """Become the one process that serves, within so many seconds: of all those who have
        inherited the state's lock, two may find that they have to.

        Raises BrokerUnavailable if another does.
        """
        until = monotonic() + seconds
        while True:
            try:
                return take_lock(os.path.join(self.path, "serving"))
            except Held as held:
                if monotonic() >= until:
                    raise BrokerUnavailable(
                        f"another process, pid {held.pid or 'unknown'}, serves the state in "
                        f"{self.path} already",
                        pid=held.pid,
                    ) from None
            sleep(0.01)

    def segments(self) -> list[Segment]:
        """The segments that there are, the oldest first."""
        return list_segments(self.path)

    def segment_path(self, number: int) -> str:
        return os.path.join(self.path, f"journal-{number:08}.log")

    def set_aside(self, segment: Segment, offset: int) -> str:
        """Cut a segment at `offset`, and keep what stood behind it. Returns where.

        In an order in which a crash loses nothing: a copy first, on the disk, then the cut. Raises
        OSError, and has done nothing then.
        """
        place = os.path.join(self.path, "damaged")
        os.makedirs(place, 0o700, exist_ok=True)
        name = f"{os.path.basename(segment.path)}.from-{offset}"
        aside = os.path.join(place, name)
        number = 1
        while os.path.exists(aside):
            number += 1
            aside = os.path.join(place, f"{name}.{number}")
        with open(segment.path, "r+b") as file:
            file.seek(offset)
            try:
                with open(aside, "xb", opener=_private) as copy:
                    while data := file.read(1 << 20):
                        copy.write(data)
                    copy.flush()
                    os.fsync(copy.fileno())
            except OSError:
                os.unlink(aside)
                raise
            sync_directory(place)
            sync_directory(self.path)
            if offset:
                file.truncate(offset)
                os.fsync(file.fileno())
        if not offset:
            os.unlink(segment.path)
            sync_directory(self.path)
        return aside

    def close(self) -> None:
        os.close(self._serving)
        os.close(self.lock)


def list_segments(path: str) -> list[Segment]:
    """The segments in a state directory, the oldest first."""
    found = [
        Segment(int(match[1]), os.path.join(path, name))
        for name in os.listdir(path)
        if (match := _SEGMENT.fullmatch(name))
    ]
    return sorted(found)


def sync_directory(path: str) -> None:
    """Put the names of files in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)

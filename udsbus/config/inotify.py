"""What Linux tells of directories, and of it what `saves.py` has to know: in which names something
has happened, and which of the files are just being written.

A write tells that whoever wrote has the file open, and may not be done; that it is closed tells
that he is. A package that knows files on all systems (watchfiles) does not tell one from the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterable
from time import monotonic

QUIET_SECONDS = 0.05
"""A save is over when nothing has happened for so long."""
QUIET_MOST_SECONDS = 1.6
"""But it is not waited longer than this for that."""
OPEN_MOST_SECONDS = 30.0
"""A file that is kept open, and not written any more, is not waited for longer than this. So it is
when nobody has it open: a file can be cut short by its name."""

MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
OVERFLOW, ONLY_DIRECTORIES = 0x4000, 0x1000000
WANTED = (
    MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO
    | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLY_DIRECTORIES
)  # fmt: skip
ENDS = CLOSE_WRITE | MOVED_FROM | MOVED_TO | DELETE
"""After these a file is whole, or another."""
EVENT = struct.Struct("iIII")
READ_BYTES = 64 * 1024


class Inotify:
    """Directories that are watched."""

    def __init__(self) -> None:
        """Raises OSError if the system has no room for more, or no inotify."""
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add, self._remove = libc.inotify_add_watch, libc.inotify_rm_watch
            begin = libc.inotify_init1
        except AttributeError:
            raise OSError("this system has no inotify") from None
        self._descriptor = _checked(begin(os.O_NONBLOCK | os.O_CLOEXEC))
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._directories: dict[int, list[str]] = {}
        """By the number of the watch; one directory may have several names."""
        self._written: dict[str, float] = {}
        """Path → when it was written last, by somebody who may have it open."""
        self._moved = 0, 0.0
        """The last of them that has lost its name: by what its new one will be known, and when it
        was written."""

    @property
    def writing(self) -> set[str]:
        """The files that are just being written."""
        return set(self._written)

    def watch(self, directories: Iterable[str]) -> None:
        """These from now on, and no others. One that is not there is left out. Raises OSError if
        the system has no room for more."""
        found: dict[int, list[str]] = {}
        for directory in directories:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                number = _checked(self._add(self._descriptor, os.fsencode(directory), WANTED))
                found.setdefault(number, []).append(directory)
        for number, names in self._directories.items():
            if number not in found:
                self._remove(self._descriptor, number)
            for name in set(names).difference(found.get(number, ())):
                self._forget(name)
        self._directories = found

    def wait(self, seconds: float) -> set[str]:
        """In what something has happened, when it is over; nothing if nothing does for so long."""
        happened: set[str] = set()
        if self._poll.poll(seconds * 1000):
            most = monotonic() + QUIET_MOST_SECONDS
            while True:
                happened |= self._read()
                left = min(QUIET_SECONDS, most - monotonic())
                if left <= 0 or not self._poll.poll(left * 1000):
                    break
        now = monotonic()
        for path, since in list(self._written.items()):
            if now - since >= OPEN_MOST_SECONDS:
                del self._written[path]
                happened.add(path)
        return happened

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self) -> set[str]:
        """In what something has happened, as far as the system has told."""
        happened: set[str] = set()
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return happened
        at = 0
        while at < len(data):
            number, mask, cookie, length = EVENT.unpack_from(data, at)
            at += EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
            if mask & OVERFLOW:  # any close may be among what is lost
                happened |= self._written.keys()
                self._written.clear()
            for directory in self._directories.get(number, ()) if name else ():
                path = os.path.join(directory, name)
                if mask & MODIFY:
                    self._written[path] = monotonic()
                    continue
                happened.add(path)
                if mask & ENDS:
                    since = self._written.pop(path, None)
                    if mask & MOVED_FROM and since is not None:
                        self._moved = cookie, since
                    elif mask & MOVED_TO and self._moved[0] == cookie:
                        self._written[path] = self._moved[1]
        return happened

    def _forget(self, directory: str) -> None:
        for path in self.writing:
            if os.path.dirname(path) == directory:
                del self._written[path]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

"""A lock on a file, held for as long as its descriptor, and those inherited from it, are open."""

from __future__ import annotations

import contextlib
import fcntl
import os


class Held(Exception):
    """Somebody else has the lock. `pid` is what they wrote into the file, None if it is none."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"held by pid {pid or 'unknown'}")
        self.pid = pid


def take_lock(path: str) -> int:
    """Lock the file at `path`, made if need be, and write our pid into it. Returns its descriptor.

    Raises Held, and OSError when the file cannot be opened. Whoever ends leaves the file: removing
    it would let two lock two files of the same name.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise Held(int(pid) if pid.isdigit() else None) from None
    write_pid(fd)
    return fd


def write_pid(fd: int) -> None:
    """Write our pid into a lock that is ours, or that we have inherited. For people only: a disk
    that is full must not keep a broker from its work."""
    text = f"{os.getpid()}\n".encode()
    with contextlib.suppress(OSError):
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))

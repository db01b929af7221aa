"""How a worker says that it is free: with a byte in a named pipe for each call that it could take.

Whoever wants to call takes a byte out, which the kernel gives to one of them only, and then sends
the call. A worker without a byte in its pipe is busy and is passed over; all may wait for one with
`poll`. When the worker is dead, the pipe is at its end. So calls are spread over workers by the
kernel, and nobody need be asked. A lock in shared memory would need an atomic instruction, which
Python has not; an eventfd is Linux's only, and has no name to open it by.

A byte may be lost, with a process that has taken it and dies before it calls. The worker finds that
out when it has been idle for a while, and puts another in.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import termios

from .inherited import not_for_children

IDLE_SECONDS = 0.1
"""A byte that is missing for so long while no call comes was lost with whoever took it."""
BUSY_SECONDS = 1.0
"""The same while others come."""
SELDOM_SECONDS = 3 * IDLE_SECONDS
"""What was missing before a pause as long as this says nothing: a call may have come and gone."""
MAKING = ".new"
"""At the end of the name of a pipe that nobody has open yet."""


class Slots:
    """The worker's end."""

    def __init__(self, path: str, size: int) -> None:
        """`size`: calls at once, at most. Makes the pipe; nothing is free yet."""
        # By its name it is known when somebody has it open: else another would take it for that of
        # a worker that is dead.
        made = path + MAKING
        self._fd = -1
        os.mkfifo(made, 0o600)
        try:
            # Opened for both, so that it is never at its end while the worker lives.
            self._fd = os.open(made, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.rename(made, path)
        except BaseException:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
        not_for_children(self)
        self._size = size
        self.closed = False
        """No more calls are to come."""

    def free(self) -> int:
        """How many calls could be taken now."""
        return _waiting(self._fd)

    def give(self, count: int, in_hand: int) -> None:
        """So many more can be taken, while `in_hand` are carried out."""
        if not self.closed:
            count = min(count, self._size - in_hand - self.free())
            if count > 0:
                os.write(self._fd, b"." * count)

    def take_all(self) -> int:
        """Let nobody take one any more. Returns how many nobody has taken."""
        if self._fd < 0:
            return 0
        self.closed = True
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, self._size):
                taken += len(data)
        return taken

    def close(self) -> None:
        self.closed = True
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Missing:
    """Finds out which bytes are lost: those that are missing for some time whenever one looks,
    also right after a call has come, and one must look often. A byte too many does no harm for
    long: no more are put in than there is room for."""

    def __init__(self) -> None:
        self._since: float | None = None
        """When some were missing first."""
        self._looked = 0.0
        self._least = 0
        """How many were at least, since then."""
        self._begun = 0

    @property
    def suspects(self) -> bool:
        """Whether some were missing when one looked last."""
        return self._since is not None

    def look(self, missing: int, begun: int, now: float) -> int:
        """So many are missing now, and so many calls have ever begun. Returns how many are lost."""
        if missing <= 0:
            self._since = None
            return 0
        if self._since is None or now - self._looked > SELDOM_SECONDS:
            self._since, self._least, self._begun = now, missing, begun
        self._looked = now
        self._least = min(self._least, missing)
        # Where calls come and go, some byte is nearly always on its way.
        if now - self._since < (IDLE_SECONDS if begun == self._begun else BUSY_SECONDS):
            return 0
        self._since = None
        return self._least


class WorkerGone(Exception):
    """Nobody has the other end."""


class Taker:
    """The end of whoever calls."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        """Raises WorkerGone; OSError if this process may not open it, or no more files."""
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise WorkerGone from None

    def take(self) -> bool:
        """Whether a call may be sent. Raises WorkerGone."""
        try:
            taken = os.read(self.fd, 1)
        except BlockingIOError:
            return False
        if not taken:
            raise WorkerGone
        return True

    def gone(self) -> bool:
        """Whether nobody has the other end any more."""
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def waiting(self) -> int:
        """How many calls the worker could take now."""
        return _waiting(self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


def _waiting(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def is_stale(path: str) -> bool:
    """Whether the pipe is of a worker that is dead."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.ENXIO  # nobody has it open for reading
    os.close(fd)
    return False

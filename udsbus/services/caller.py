"""A connection of somebody who calls, as a worker of the sync kind sees it."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from ..wire.framing import Decoder
from .frames import again_frame
from .inherited import not_for_children

log = logging.getLogger("udsbus.services")

BEAT_SECONDS = 1.0
"""How often a worker that has nothing to do shows that it lives."""
SEND_SECONDS = 30.0
"""Whoever called and takes nothing of the answer for so long has given up."""


class Caller:
    """Owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        not_for_children(sock)
        self.socket = sock
        self.fd = sock.fileno()
        self._decoder = Decoder()
        self.waiting: deque[list[Any]] = deque()
        """Calls that have come and are not begun. More than one is against the rules, but does no
        harm."""
        self.closed = False
        self.busy = False
        """A thread carries out its call."""
        self.failed = False
        """And has found it to be of no use any more."""
        self.lost = False
        """Whoever called has gone."""
        self.streams = False
        """What was sent may not have been taken yet."""

    def receive(self) -> bool:
        """Take what has come. False: the other side is gone, or sends rubbish."""
        try:
            data = self.socket.recv(self._decoder.share)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        self.waiting += self._decoder.feed(data)
        if self._decoder.cause is not None:
            log.warning("a connection is closed: %s", self._decoder.cause)
            return False
        return True

    def refuse(self) -> None:
        """It is to be closed though nobody wants that: nothing more can be sent over it, and what
        was sent already is to be sent over another."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)
            self.receive()
            for message in self.waiting:
                self.send(again_frame(message[1]))

    @property
    def idle(self) -> bool:
        """Nothing is under way that was read already."""
        return not self.busy and not self._decoder.partial

    def given_up(self) -> bool:
        """Whether the other side has closed the connection; for the thread that serves it."""
        if self.closed:
            return True
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def send(
        self,
        frame: bytes,
        patience: float | None = SEND_SECONDS,
        waiting: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait until all of it is sent, but for `patience` seconds without any progress at most;
        `waiting` is called each second. False: nobody takes it."""
        rest = memoryview(frame)
        waited = 0.0
        while True:
            try:
                rest = rest[self.socket.send(rest) :]
                waited = 0.0
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return False
            if not rest:
                return True
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            if not poll.poll(BEAT_SECONDS * 1000):
                waited += BEAT_SECONDS
                waiting()
            if self.given_up() or (patience is not None and waited >= patience):
                return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.socket.close()

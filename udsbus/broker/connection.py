"""One connection at the broker: its socket, its decoder and its bounded output."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from ..hub import READ, WRITE, Hub
from ..limits import OUTPUT_PAUSE_BYTES, OUTPUT_SOFT_BYTES
from ..peers import Peer
from ..terms import CloseReason
from ..wire.framing import Decoder
from .behind import Behind
from .lanes import Lane

SEND_BYTES = 256 * 1024
"""Waiting output handed to the kernel at a time; a socket buffer holds less."""


class Connection:
    """Owns one socket. The turn reads from it, queues output on it and flushes it.

    Output that the socket does not take waits in `_waiting` and the connection is *blocked* until
    the hub says that it is writable. Above OUTPUT_PAUSE_BYTES of it the connection is not read
    either: a peer that does not take its replies can ask no more questions.
    """

    __slots__ = (
        "_hub", "_interest", "_recv", "_send", "_waiting", "above_since", "behind", "decoder",
        "ended", "fd", "heard", "heartbeat", "lane", "linger_until", "missed", "name", "number",
        "output", "peer", "requests", "room", "socket", "stalled",
    )  # fmt: skip

    def __init__(self, number: int, sock: socket.socket, peer: Peer, hub: Hub) -> None:
        self.number = number
        self.socket = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.name: str | None = None
        self.lane: Lane | None = None
        """The sequence of requests that goes over it, if its client wants answers to be kept."""
        self.decoder = Decoder()
        self.requests: list[Any] = []
        """Messages read but not carried out yet: more than one turn's share."""
        self.stalled = False
        """Its left-over requests wait until it has taken its replies."""
        self.output: list[bytes] = []
        """Frames of this turn; `flush` sends them."""
        self.ended: CloseReason | None = None
        """Why it will be closed once its output is flushed; nothing more is read from it."""
        self.linger_until: float | None = None
        """When it is closed even if it has not taken its output."""
        self.room = OUTPUT_SOFT_BYTES
        """How many bytes of events may be queued before somebody must look whether it keeps up;
        below 0 while it is behind."""
        self.above_since: float | None = None
        """When more than OUTPUT_SOFT_BYTES were first found waiting, if that is so."""
        self.behind: Behind | None = None
        """What it is to be told when it has taken what waits, if it does not keep up."""
        self.heartbeat = 0.0
        """Seconds between two beats, as agreed with its client; 0: it wants none."""
        self.heard = True
        """There was a sign of life since the last beat."""
        self.missed = 0
        """Beats in a row before which there was none."""
        self._waiting = bytearray()
        self._hub = hub
        self._interest = READ
        self._recv = sock.recv
        self._send: Callable[[Any], int] = sock.send
        hub.add(self.fd, READ)

    @property
    def waiting_bytes(self) -> int:
        """Output that the socket has not taken."""
        return len(self._waiting)

    @property
    def paused(self) -> bool:
        return len(self._waiting) > OUTPUT_PAUSE_BYTES

    def receive(self) -> bytes | None:
        """What the socket has, at most its share; b"" at its end; None when there is nothing.

        A socket error counts as the end, and is remembered as such.
        """
        try:
            return self._recv(self.decoder.share)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            self.end(CloseReason.PEER_RESET)
            return b""

    def has_input(self) -> bool:
        """Whether there is something to receive; the end counts too."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        return True

    def end(self, reason: CloseReason) -> None:
        """Read no more; to be closed when what is queued has been flushed."""
        if self.ended is None:
            self.ended = reason
            self.requests.clear()
            self._set_interest()

    def flush(self) -> bool:
        """Send this turn's output as far as the socket takes it. False: the peer is gone."""
        output = self.output
        if not output:
            return True
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        if self.room != OUTPUT_SOFT_BYTES:
            self.measure()
        if self._waiting:
            self._hold(memoryview(data))
            return True
        try:
            sent = self._send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return False
        if sent != len(data):
            self._hold(memoryview(data)[sent:])
        return True

    def send_waiting(self) -> bool:
        """The socket is writable again: go on where `flush` stopped. False: the peer is gone."""
        try:
            with memoryview(self._waiting)[:SEND_BYTES] as chunk:
                sent = self._send(chunk)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return False
        del self._waiting[:sent]
        self.measure()
        self._set_interest()
        return True

    def hand_over(self, descriptor: int) -> None:
        """Let the peer have this file too, with the first byte that is sent next."""

        def send(data: Any) -> int:
            sent = socket.send_fds(self.socket, [data], [descriptor])
            self._send = self.socket.send
            return sent

        self._send = send

    def drop_output(self) -> None:
        """The turn never happened."""
        self.output.clear()
        self.measure()

    def measure(self) -> None:
        """Set `room` by what waits; nothing of this turn is queued."""
        left = OUTPUT_SOFT_BYTES - len(self._waiting)
        if left >= 0:
            self.above_since = None
        self.room = left if self.behind is None else -1

    def close(self) -> None:
        self._hub.remove(self.fd)
        self.socket.close()

    def _hold(self, data: memoryview) -> None:
        self._waiting += data
        self.measure()
        self._set_interest()

    def _set_interest(self) -> None:
        reading = self.ended is None and not self.paused
        interest = (READ if reading else 0) | (WRITE if self._waiting else 0)
        if interest != self._interest:
            self._interest = interest
            self._hub.change(self.fd, interest)

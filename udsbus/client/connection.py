"""One blocking connection for requests: used by one thread, one exchange at a time."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgpack

from ..errors import ProtocolError, RequestTimeout
from ..limits import RECEIVE_BYTES, SPIN_SECONDS
from ..spinning import Spinning
from ..wire.framing import RESPONSE, Decoder
from .connecting import timeval
from .requests import Call, error_from

SEND_CHUNK = 256 * 1024
"""Bytes handed to the kernel at a time while replies may be coming in."""


class ConnectionEnded(Exception):
    """The broker is gone. `sent`: part of the request had left, so it may have been carried out.
    `told` is what the broker said of it, if it said anything."""

    def __init__(self, sent: bool, told: str | None) -> None:
        super().__init__(told or "the connection ended")
        self.sent = sent
        self.told = told


class Connection:
    """Owns its socket. After anything but an answer (time-out, interrupt, end) it is closed: an
    answer that came later would be taken for that of the next request."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is connected and blocking. Its time-outs are the kernel's (SO_RCVTIMEO): one
        system call waits and receives, where Python's own would poll first."""
        self.ready = True
        """Open, and not in the middle of an exchange (as when a signal handler calls)."""
        self._socket = sock
        self._send_all = sock.sendall
        self._recv = sock.recv
        self._timeout = 0.0
        self._decoder = Decoder()
        self._pack = msgpack.Packer(autoreset=True).pack
        self._msgid = 0
        self._told: str | None = None
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        self._poll = poll.poll
        self._spinning = Spinning()

    def request(self, call: Call[Any], timeout: float) -> Any:
        """The result for one request; raises what the broker answered.

        Raises RequestTimeout, ConnectionEnded.
        """
        try:
            self.ready = False
            self._msgid = msgid = (self._msgid + 1) & 0xFFFF_FFFF
            if timeout != self._timeout:
                self._set_timeout(timeout)
            frame = self._pack((0, msgid, call.method, call.params))
            try:
                self._send_all(frame)
            except BlockingIOError:
                raise RequestTimeout(f"the broker takes no request since {timeout:g} s") from None
            except OSError:
                raise ConnectionEnded(False, self._last_words()) from None
            response = self._response()
            if response[1] != msgid:
                raise ProtocolError(f"the answer is to request {response[1]!r}, not {msgid}")
            self.ready = True
        except BaseException:
            self.close()
            raise
        if response[2] is not None:
            raise error_from(response[2], response[3])
        return response[3]

    def request_many(self, calls: Sequence[Call[Any]], timeout: float) -> list[Any]:
        """The responses to several requests, sent together. Raises like `request`, but what the
        broker refused stands in the responses: [1, msgid, error, result]."""
        try:
            self.ready = False
            first = self._msgid + 1
            pack = self._pack
            frames = [
                pack((0, msgid & 0xFFFF_FFFF, call.method, call.params))
                for msgid, call in enumerate(calls, first)
            ]
            self._msgid = (first + len(frames) - 1) & 0xFFFF_FFFF
            responses = self._exchange(memoryview(b"".join(frames)), len(frames), timeout)
            if responses and responses[-1][1] != self._msgid:
                raise ProtocolError("the answers are to other requests")
            self.ready = True
        except BaseException:
            self.close()
            raise
        return responses

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        """For the thread that uses it, and for a child after a fork."""
        self.ready = False
        self._socket.close()

    def interrupt(self) -> None:
        """For any thread: close it, or end the exchange that is going on, whose thread then closes
        it. Closing here would let the descriptor's number go to another file while that thread
        still waits for it."""
        if self.ready:
            self.close()
        else:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # a thread that ends leaves its connection behind
            self._socket.close()

    def _set_timeout(self, seconds: float) -> None:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, timeval(seconds))
        self._timeout = seconds

    # --- waiting ----------------------------------------------------------------------------

    def _response(self) -> list[Any]:
        """The next response."""
        while True:
            if self._spinning.worthwhile():
                self._spin()
            for message in self._receive():
                if message[0] == RESPONSE:
                    return message  # type: ignore[no-any-return]
                self._notified(message)

    def _spin(self) -> None:
        """Poll a little: it is quicker than to be woken up."""
        poll = self._poll
        until = monotonic() + SPIN_SECONDS
        while monotonic() < until:
            if poll(0):
                self._spinning.hit()
                return
        self._spinning.miss()

    def _exchange(self, data: memoryview, expected: int, timeout: float) -> list[Any]:
        """Send `data` and collect as many responses. Both at once: a broker whose replies are not
        taken does not read on, so sending everything first could wait for ever."""
        until = monotonic() + timeout
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN | select.POLLOUT)
        responses: list[Any] = []
        while len(responses) < expected:
            left = until - monotonic()
            if data:
                try:
                    data = data[self._socket.send(data[:SEND_CHUNK], socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    pass
                except OSError:
                    raise ConnectionEnded(True, self._last_words()) from None
                if not data:
                    poller.modify(self._socket.fileno(), select.POLLIN)
            events = poller.poll(max(left, 0.0) * 1000)
            if not events:
                raise RequestTimeout(f"no answer from the broker within {timeout:g} s")
            if events[0][1] & ~select.POLLOUT:
                for message in self._receive():
                    if message[0] == RESPONSE:
                        responses.append(message)
                    else:
                        self._notified(message)
        return responses

    def _receive(self) -> list[Any]:
        """The messages that complete the next receive, for which it waits up to the time-out."""
        try:
            data = self._recv(RECEIVE_BYTES)
        except BlockingIOError:
            message = f"no answer from the broker within {self._timeout:g} s"
            raise RequestTimeout(message) from None
        except OSError:
            raise ConnectionEnded(True, self._told) from None
        if not data:
            raise ConnectionEnded(True, self._told)
        messages = self._decoder.feed(data)
        if self._decoder.cause is not None:
            raise ProtocolError(f"the broker sent something else: {self._decoder.cause}")
        return messages

    def _notified(self, message: list[Any]) -> None:
        if message[1] == "closing":
            self._told = message[2][1]

    def _last_words(self) -> str | None:
        """What the broker said before it closed the connection under us."""
        with contextlib.suppress(Exception):
            while True:
                for message in self._receive():
                    self._notified(message)
        return self._told

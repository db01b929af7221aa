"""One blocking connection for requests: used by one thread, one exchange at a time."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import msgpack

from ..errors import LimitExceeded, ProtocolError, RequestTimeout
from ..limits import FRAME_BYTES, RECEIVE_BYTES
from ..spinning import Spinning
from ..wire.framing import MSGID_MOST, RESPONSE, Decoder
from .requests import Call, cannot_be_sent, error_from

PACK_TOGETHER = 128
"""Requests of a pipeline that are packed and sent together."""
SEND_CHUNK = 256 * 1024
"""Bytes handed to the kernel at a time while replies may be coming in."""


class ConnectionEnded(Exception):
    """The broker is gone. `sent`: part of the request had left, so it may have been carried out.
    `told` is what the broker said of it: (reason, message), if it said anything."""

    def __init__(self, sent: bool, told: tuple[str, str] | None) -> None:
        super().__init__(told[1] if told is not None else "the connection ended")
        self.sent = sent
        self.told = told


class Connection:
    """Owns its socket. After anything but an answer (time-out, interrupt, end) it is closed: an
    answer that came later would be taken for that of the next request."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is connected and non-blocking."""
        self.ready = True
        """Open, and not in the middle of an exchange (as when a signal handler calls)."""
        self._socket = sock
        self._send = sock.send
        self._recv = sock.recv
        self._decoder = Decoder()
        self._pack = msgpack.Packer(autoreset=True).pack
        self._msgid = 0
        self._told: tuple[str, str] | None = None
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        self._poll = poll.poll
        self._spinning = Spinning()

    def request(self, call: Call[Any], timeout: float) -> Any:
        """The result for one request; raises what the broker answered.

        Raises RequestTimeout, ConnectionEnded.
        """
        self._msgid = msgid = (self._msgid + 1) & MSGID_MOST
        frame = self._frame(msgid, call)
        try:
            self.ready = False
            try:
                sent = self._send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise ConnectionEnded(False, self._last_words()) from None
            if sent == len(frame):
                response = self._response(timeout)
            else:
                response = self._exchange(iter([frame[sent:]]), 1, timeout)[0]
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
        first = self._msgid + 1
        self._msgid = last = (self._msgid + len(calls)) & MSGID_MOST
        frames = list(self._frames(calls, first))  # all or none: one may not be packable
        try:
            self.ready = False
            responses = self._exchange(iter(frames), len(calls), timeout)
            if responses and responses[-1][1] != last:  # a signal handler may have asked since
                raise ProtocolError("the answers are to other requests")
            self.ready = True
        except BaseException:
            self.close()
            raise
        return responses

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def in_exchange(self) -> bool:
        """Whether this thread is in the middle of a request on it.

        From the stack: `ready` can stay false when a second interrupt comes while the first one
        is being handled.
        """
        codes = (Connection.request.__code__, Connection.request_many.__code__)
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code in codes and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back  # type: ignore[assignment]
        return False

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

    # --- waiting ----------------------------------------------------------------------------

    def _response(self, timeout: float) -> list[Any]:
        """The next response."""
        until = monotonic() + timeout
        ready = self._spinning.spin(self._poll)
        while True:
            if not ready:
                # SO_RCVTIMEO would save this system call, but every signal would put it off.
                left = until - monotonic()
                if left <= 0 or not self._poll(left * 1000):
                    raise RequestTimeout(f"no answer from the broker within {timeout:g} s")
            ready = []
            for message in self._receive():
                if message[0] == RESPONSE:
                    return message  # type: ignore[no-any-return]
                self._notified(message)

    def _frame(self, msgid: int, call: Call[Any]) -> bytes:
        try:
            frame: bytes = self._pack((0, msgid, call.method, call.params))
        except (ValueError, TypeError, OverflowError) as error:
            raise cannot_be_sent(call, error) from None
        if len(frame) > FRAME_BYTES:
            raise LimitExceeded(
                f"{call.method}: a request of {len(frame)} bytes; the limit is {FRAME_BYTES}",
                limit="frame_bytes", maximum=FRAME_BYTES, actual=len(frame),
            )  # fmt: skip
        return frame

    def _frames(self, calls: Sequence[Call[Any]], first: int) -> Iterator[bytes]:
        """The requests, some at a time: the broker begins with the first ones while we send."""
        for start in range(0, len(calls), PACK_TOGETHER):
            some = calls[start : start + PACK_TOGETHER]
            yield b"".join(
                [
                    self._frame(msgid & MSGID_MOST, call)
                    for msgid, call in enumerate(some, first + start)
                ]
            )

    def _exchange(self, frames: Iterator[bytes], expected: int, timeout: float) -> list[Any]:
        """Send `frames` and collect as many responses. Both at once: a broker whose replies are
        not taken does not read on, so sending everything first could wait for ever."""
        until = monotonic() + timeout
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN | select.POLLOUT)
        responses: list[Any] = []
        data = memoryview(next(frames, b""))
        sent = False
        while len(responses) < expected:
            if data:
                try:
                    data = data[self._send(data[:SEND_CHUNK]) :]
                    sent = True
                except BlockingIOError:
                    pass
                except OSError:
                    raise ConnectionEnded(sent, self._last_words()) from None
                data = data or memoryview(next(frames, b""))
                if not data:
                    poller.modify(self._socket.fileno(), select.POLLIN)
            left = until - monotonic()
            events = poller.poll(left * 1000) if left > 0 else []
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
        """The messages that complete the next receive."""
        try:
            data = self._recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
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
            self._told = message[2][0], message[2][1]

    def _last_words(self) -> tuple[str, str] | None:
        """What the broker said before it closed the connection under us."""
        with contextlib.suppress(ConnectionEnded, ProtocolError):
            while messages := self._receive():
                for message in messages:
                    self._notified(message)
        return self._told

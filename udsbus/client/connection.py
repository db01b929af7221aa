"""One blocking connection for requests: used by one thread, one exchange at a time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgpack

from ..errors import ProtocolError, RequestTimeout
from ..limits import KEPT_BYTES, REPLY_SPIN_SECONDS
from ..spinning import Spinning
from ..wire.framing import MSGID_MOST, NOTIFICATION, RESPONSE, Decoder
from ..wire.large import is_large, packed
from .connecting import receive_with_files
from .forks import FORKS
from .requests import Call, Many, cannot_be_sent, check_frame, error_from, read_batch

SEND_CHUNK = 256 * 1024
"""Bytes of a long request handed to the kernel at a time."""

ADVICE = 1
"""The word of the version page that says for how many nanoseconds to poll for an answer."""
_POLL = (0, 1)
"""What a page says until there is one."""


class ConnectionEnded(Exception):
    """The broker is gone. `sent`: part of the request had left, so it may have been carried out.
    `told` is what the broker said of it: (reason, message), if it said anything."""

    def __init__(self, sent: bool, told: tuple[str, str] | None) -> None:
        super().__init__(told[1] if told is not None else "the connection ended")
        self.sent = sent
        self.told = told
        self.msgid = 0
        """By which the same request may be sent again."""


class Connection:
    """Owns its socket. After anything but an answer (time-out, interrupt, end) it is closed: an
    answer that came later would be taken for that of the next request."""

    def __init__(self, sock: socket.socket, lane: int = 0, msgid: int = 0) -> None:
        """`sock` is connected and non-blocking. `msgid` is the last that was used in its lane."""
        self.lane = lane
        """The number of the sequence of requests that goes over it; 0: of none."""
        self.bus: tuple[str, int] = ("", 0)
        """Which state it leads to, and its epoch; once the broker has been greeted."""
        self.ready = True
        """Open, and not in the middle of an exchange (as when a signal handler calls)."""
        self.forks = len(FORKS)
        """It belongs to the process that has seen so many."""
        self._socket = sock
        self._send = sock.send
        self._recv: Callable[[int], bytes] = sock.recv
        self._decoder = Decoder()
        self._packer = msgpack.Packer(autoreset=True)
        self._pack = self._packer.pack
        self.msgid = msgid
        self._files: list[int] = []
        """Descriptors that have come, and nobody has taken."""
        self._told: tuple[str, str] | None = None
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        self._poll = poll.poll
        self._spinning = Spinning(REPLY_SPIN_SECONDS)
        self._words: Sequence[int] = _POLL

    def next_msgid(self) -> int:
        """One for another request."""
        self.msgid = msgid = (self.msgid % MSGID_MOST) + 1
        return msgid

    def request(self, call: Call[Any], timeout: float, again: int = 0) -> Any:
        """The result for one request; raises what the broker answered. `again`: the msgid that it
        has, as when it was sent before.

        Raises RequestTimeout, ConnectionEnded.
        """
        expected = again
        if not again:  # not by `next_msgid`: each request comes along here
            self.msgid = expected = (self.msgid % MSGID_MOST) + 1
        try:
            params = call.params
            if len(params) > 1 and is_large(params[1]):
                frame = packed(self._pack, (0, expected, call.method, params))
            else:
                frame = self._pack((0, expected, call.method, params))
        except (ValueError, TypeError, OverflowError) as error:
            raise cannot_be_sent(call.method, error) from None
        if len(frame) > KEPT_BYTES:
            self._forget_buffer()
            check_frame(call.method, len(frame))
        until = monotonic() + timeout
        try:
            self.ready = False
            self._send_frame(frame, until, timeout)
            _, msgid, refused, result = self._responses(until, timeout)[0]
            if msgid != expected:
                raise _out_of_step(msgid, expected)
            self.ready = True
        except BaseException as error:
            self.close()
            if isinstance(error, ConnectionEnded):
                error.msgid = expected
            raise
        if refused is not None:
            raise error_from(refused, result)
        return result

    def request_with_files(self, call: Call[Any], timeout: float) -> tuple[Any, list[int]]:
        """The same for one whose answer may bring the descriptor of a file; they are the caller's
        to close."""
        self._recv = partial(receive_with_files, self._socket, self._files)
        try:
            answer = self.request(call, timeout)
        finally:
            self._recv = self._socket.recv
        files, self._files = self._files, []
        return answer, files

    def heed(self, words: Sequence[int]) -> None:
        """From now on poll for answers only while the broker says in its page that it pays."""
        self._words = words

    def has_news(self) -> bool:
        """Whether something has come unasked: that the broker ends the connection, or has.

        Not by `_poll`, which a signal handler that asks something could not use meanwhile.
        """
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def request_many(self, many: Many, timeout: float) -> None:
        """Have several requests carried out, one after the other. Raises like `request`.

        Goes on where another connection has lost it. Each may take `timeout` seconds.
        """
        requests, frames, results = many.requests, many.frames, many.results
        try:
            self.ready = False
            until = monotonic() + timeout
            for msgid, begin, end in frames:
                self._send_frame(self._batch_frame(msgid, requests[begin:end]), until, timeout)
            while len(results) < len(requests):
                until = monotonic() + timeout
                while many.begun < len(requests) and len(frames) < many.ahead:
                    self.msgid = msgid = (self.msgid % MSGID_MOST) + 1
                    begin = many.begun
                    end = min(begin + many.together, len(requests))
                    self._send_frame(self._batch_frame(msgid, requests[begin:end]), until, timeout)
                    many.begun = end
                    frames.append((msgid, begin, end))
                for response in self._responses(until, timeout):
                    expected, _, end = frames[0] if frames else (None, 0, 0)
                    if response[1] != expected:
                        raise _out_of_step(response[1], expected)
                    frames.popleft()
                    done = len(results)
                    read_batch(response[2], response[3], results, many.refusals)
                    if len(results) != end:  # large results fill a response: ask for the others
                        if frames or len(results) == done:
                            raise ProtocolError("the broker left out a part of a batch")
                        many.begun = len(results)
            self.ready = True
        except BaseException as error:
            self.close()
            if isinstance(error, ConnectionEnded) and frames:
                error.sent = True
            raise

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
        self._words = _POLL  # a page that nobody refers to is unmapped
        self._socket.close()
        self._close_files()

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
            self._close_files()

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())

    # --- waiting ----------------------------------------------------------------------------

    def _send_frame(self, frame: bytes, until: float, timeout: float) -> None:
        try:
            sent = self._send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise ConnectionEnded(False, self._last_words()) from None
        if sent < len(frame):
            self._send_rest(memoryview(frame)[sent:], until, timeout)

    def _send_rest(self, rest: memoryview, until: float, timeout: float) -> None:
        """Send what did not fit into the socket's buffer, as the broker takes it."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        while rest:
            left = until - monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise RequestTimeout(f"the broker took no request within {timeout:g} s")
            try:
                rest = rest[self._send(rest[:SEND_CHUNK]) :]
            except BlockingIOError:
                pass
            except OSError:
                raise ConnectionEnded(True, self._last_words()) from None

    def _responses(self, until: float, timeout: float) -> list[list[Any]]:
        """The next response, and those that came with it."""
        ready = self._spinning.spin(self._poll) if self._words[ADVICE] else []
        while True:
            if not ready:
                # SO_RCVTIMEO would save this system call, but every signal would put it off.
                left = until - monotonic()
                if left <= 0 or not self._poll(left * 1000):
                    raise RequestTimeout(f"no answer from the broker within {timeout:g} s")
            ready = []
            messages = self._receive()
            if len(messages) == 1 and messages[0][0] == RESPONSE:
                return messages
            if messages:
                responses = [each for each in messages if each[0] == RESPONSE]
                if len(responses) < len(messages):
                    self._notified(messages)
                if responses:
                    return responses

    def _forget_buffer(self) -> None:
        self._packer = msgpack.Packer(autoreset=True)
        self._pack = self._packer.pack

    def _batch_frame(self, msgid: int, requests: list[bytes]) -> bytes:
        head = self._pack((0, msgid, "batch"))[1:]  # without "an array of three"
        number = self._packer.pack_array_header(len(requests))
        return b"".join((b"\x94", head, b"\x91", number, *requests))

    def _receive(self) -> list[Any]:
        """The messages that complete the next receive."""
        try:
            data = self._recv(self._decoder.share)
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

    def _notified(self, messages: list[Any]) -> None:
        for message in messages:
            if message[0] == NOTIFICATION and message[1] == "closing":
                self._told = message[2][0], message[2][1]

    def _last_words(self) -> tuple[str, str] | None:
        """What the broker said before it closed the connection under us."""
        with contextlib.suppress(ConnectionEnded, ProtocolError):
            while messages := self._receive():
                self._notified(messages)
        return self._told


def _out_of_step(msgid: int, expected: int | None) -> ProtocolError:
    """A signal handler may have used this connection in the middle of an exchange."""
    return ProtocolError(f"the answer is to request {msgid!r}, not {expected}")

"""One connection of an async client: frames go out, messages come in.

On asyncio the event loop itself calls us when the socket is ready, which saves the switch to a task
and two system calls for each message. Elsewhere tasks wait for the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from ...wire.framing import Decoder
from ..connecting import receive_with_files
from ..forks import FORKS
from .asked import running_asyncio

Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]

SEND_CHUNK = 256 * 1024
"""Bytes of what waits that are handed to the kernel at a time."""
FULL_BYTES = 1024 * 1024
"""With more than this waiting, whoever wants to send more waits too."""


class Link:
    """Owns its socket. What it is called with happens in the event loop's thread, and its
    callbacks are called there, but not while it is being called; neither waits."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[list[Any]], None],
        ended: Callable[[str], None],
    ) -> None:
        """`sock` is connected and non-blocking. `received` gets the messages of a receive; `ended`
        is called once, with the reason, unless it is closed."""
        self.greeted = False
        """The broker has answered `hello` over it."""
        self.closed = False
        self.unread = False
        """The other side has ended it, and has not read all that was sent."""
        self._socket = sock
        self._received = received
        self._ended = ended
        self._decoder = Decoder()
        self._output = bytearray()
        self._later = False
        """The output is flushed when the loop has run what is ready."""
        self._writing = False
        """Somebody waits until the socket takes more."""
        self._drained = anyio.Event()
        self._why = "the connection ended"
        self._loop = running_asyncio()
        self._forks = len(FORKS)
        self._files: list[int] = []
        """Descriptors that have come with the answer to `hello`."""
        self._recv: Callable[[int], bytes] = partial(receive_with_files, sock, self._files)
        self._start: Start | None = None
        self._paused = False
        self._resumed = anyio.Event()

    def start(self, start: Start) -> None:
        """Read from now on; `start` starts a task, if it takes one."""
        self._start = start
        if self._loop is not None:
            self._loop.add_reader(self._socket.fileno(), self._read)
        else:
            start(self._keep_reading)

    def send(self, frame: bytes, alone: bool) -> bool:
        """Send it, as soon as the socket takes it. `alone`: nothing else is under way; otherwise
        what is sent in one pass of the event loop goes together. False: none of it has left, nor
        will."""
        if self._output or self._later:
            self._output += frame
        elif self._loop is not None and not alone:
            self._output += frame
            self._later = True
            self._loop.call_soon(self._flush)
        else:
            return self._send(frame)
        return True

    def pause(self) -> None:
        """Read nothing more until `resume`: what is sent waits in the socket."""
        if not self._paused and not self.closed:
            self._paused = True
            self._resumed = anyio.Event()
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self._resumed.set()
            if self._loop is not None:
                self._loop.add_reader(self._socket.fileno(), self._read)

    def take_files(self) -> list[int]:
        """The descriptors of files that have come; they are the caller's to close, and no more
        are expected."""
        self._recv = self._socket.recv
        files, self._files = self._files, []
        return files

    @property
    def sends(self) -> bool:
        """Something waits until the socket takes it."""
        return bool(self._output) and not self.closed

    @property
    def partial(self) -> bool:
        """A message has come to a part."""
        return self._decoder.partial

    @property
    def full(self) -> bool:
        return len(self._output) > FULL_BYTES

    async def room(self, most: int = FULL_BYTES) -> None:
        """Wait until no more than so many bytes wait to be sent, or it is closed."""
        while len(self._output) > most and not self.closed:
            await self._drained.wait()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._forks != len(FORKS):
            pass  # in a child: what polls for the event loop is the parent's too
        elif self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        else:
            anyio.notify_closing(self._socket)
        self._socket.close()
        for descriptor in self.take_files():
            os.close(descriptor)
        self._output.clear()
        self._drained.set()
        self._resumed.set()
        self._paused = False

    # --- out --------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> bool:
        try:
            sent = self._socket.send(frame)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._break(error)
            return False
        if sent < len(frame):
            self._output += memoryview(frame)[sent:]
            self._write_when_ready()
        return True

    def _flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self._later = False
        while self._output and not self.closed:
            try:
                with memoryview(self._output)[:SEND_CHUNK] as chunk:
                    sent = self._socket.send(chunk)
            except (BlockingIOError, InterruptedError):
                self._write_when_ready()
                return
            except OSError as error:
                self._break(error)
                break
            del self._output[:sent]
        if self._writing and self._loop is not None and not self.closed:
            self._loop.remove_writer(self._socket.fileno())
        self._writing = False
        self._drained.set()

    def _break(self, error: OSError) -> None:
        """Nothing more can be sent. Who reads is to find out, after what the broker has said before
        it went: whoever sends is not ready yet to hear of the end."""
        self._why = f"the connection ended: {error.strerror}"
        self.unread = True
        self._output.clear()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _write_when_ready(self) -> None:
        if not self._writing:
            self._writing = True
            if self._drained.is_set():
                self._drained = anyio.Event()
            if self._loop is not None:
                self._loop.add_writer(self._socket.fileno(), self._flush)
            else:
                assert self._start is not None
                self._start(self._keep_writing)

    async def _keep_writing(self) -> None:
        while self._writing and not self.closed:
            try:
                await anyio.wait_writable(self._socket)
            except (anyio.ClosedResourceError, ValueError):  # closed
                return
            self._flush()

    # --- in ---------------------------------------------------------------------------------

    def _read(self) -> None:
        """What has come."""
        if self.closed:
            return
        try:
            data = self._recv(self._decoder.share)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.unread |= isinstance(error, ConnectionResetError)
            self._end(f"the connection ended: {error.strerror}")
            return
        if not data:
            self._end(self._why)
            return
        messages = self._decoder.feed(data)
        if messages:
            self._received(messages)
        if self._decoder.cause is not None:
            self._end(f"the broker sent something else: {self._decoder.cause}")

    async def _keep_reading(self) -> None:
        while not self.closed:
            if self._paused:
                await self._resumed.wait()
                continue
            try:
                await anyio.wait_readable(self._socket)
            except (anyio.ClosedResourceError, ValueError):  # closed
                return
            self._read()

    def _end(self, why: str) -> None:
        if not self.closed:
            self.close()
            self._ended(why)

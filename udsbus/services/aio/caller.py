"""A connection of somebody who calls, as a worker of the async kind sees it. As in ../caller.py."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from ...client.aio.asked import running_asyncio, wake, waker, woken
from ...client.aio.link import Link
from ...wire.framing import Decoder
from ..frames import Called, again_frame

if TYPE_CHECKING:
    from .worker import AsyncWorker


class AsyncCaller:
    """Owns the socket. `serve` is its task."""

    def __init__(self, worker: AsyncWorker, sock: Any) -> None:
        self._worker = worker
        self.scope: anyio.CancelScope | None = None
        """Of the call in hand."""
        self._waiting: deque[tuple[Called, int]] = deque()
        """Calls that have come and are not begun. More than one is against the rules, but does no
        harm."""
        self._loop = running_asyncio()
        self._waker = waker(self._loop)
        self._socket = sock
        self._link = Link(sock, self._received, self._ended)
        self._link.take_files()  # none are expected
        self._link.start(self._start)

    @property
    def closed(self) -> bool:
        return self._link.closed

    def is_closed(self) -> bool:
        return self._link.closed

    @property
    def idle(self) -> bool:
        """Nothing is under way that was read already."""
        return self.scope is None and not self._waiting and not self._link.partial

    def refuse(self) -> None:
        """Close it though nobody wants that; as a `Caller` of a `Worker`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
            decoder = Decoder()
            for message in decoder.feed(self._socket.recv(decoder.share)):
                self._socket.send(again_frame(message[1]))
        self.close()

    async def serve(self) -> None:
        """Carry out what comes, until it is closed."""
        try:
            while True:
                while self._waiting:
                    await self._worker.carry_out(self, *self._waiting.popleft())
                if self._link.closed:
                    return
                self._waker = waker(self._loop)
                await woken(self._waker)
        finally:
            self.close()  # somebody may wait who would not be answered
            while self._waiting:
                self._worker.over(self._waiting.popleft()[1])

    def give(self, call: Called, number: int) -> None:
        self._waiting.append((call, number))
        wake(self._waker)

    @property
    def sends(self) -> bool:
        """Something is on its way out."""
        return self._link.sends

    def send(self, frame: bytes) -> None:
        if not self._link.closed:
            self._link.send(frame, True)

    async def taken(self) -> None:
        """Until the kernel has taken what is sent."""
        await anyio.lowlevel.checkpoint()
        await self._link.room(0)

    def close(self) -> None:
        self._link.close()
        self._over()

    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._worker._tasks.start_soon(function)

    def _received(self, messages: list[Any]) -> None:
        for message in messages:
            self._worker.begin(self, message)

    def _ended(self, why: str) -> None:
        self._over()

    def _over(self) -> None:
        """Nobody waits for the call in hand any more."""
        self._worker.forget(self)
        wake(self._waker)
        if self.scope is not None:
            self.scope.cancel()

"""One call over one connection of its own to a worker, for the async client. As in asking.py."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ...client.aio.asked import running_asyncio, wake, waker, woken
from ...client.aio.link import Link, Start
from ...client.connecting import open_at_once, open_socket
from ...errors import BrokerUnavailable, RequestTimeout
from ...wire.framing import NOTIFICATION
from ...wire.values import decode
from ..asking import Again, Leaving, Lost, NotTaken, not_connected
from ..failures import raised
from ..finding import RemoteWorker
from ..frames import AGAIN, LEAVING, answer_of, call_frame, is_stream
from ..inherited import not_for_children

if TYPE_CHECKING:
    from typing import Self

    from ...client.aio.client import AsyncClient

ITEMS_AHEAD = 64
BYTES_AHEAD = 256 * 1024
"""Of a stream, received and not taken yet; beyond, nothing more is read, and the worker waits."""


async def begin(
    client: AsyncClient, worker: RemoteWorker[AsyncConversation], service: str, patience: float
) -> AsyncConversation:
    """Connect. Raises NotTaken, Error."""
    path = worker.path + ".sock"
    try:
        sock = open_at_once(path)
        if sock is None:
            sock = await anyio.to_thread.run_sync(partial(open_socket, path, patience))
    except BrokerUnavailable as error:
        raise not_connected(worker, service, error) from None
    return AsyncConversation(worker, service, sock, client._start)


class AsyncConversation:
    def __init__(
        self, worker: RemoteWorker[AsyncConversation], service: str, sock: Any, start: Start
    ) -> None:
        not_for_children(sock)
        self.worker = worker
        self.service = service
        self._loop = running_asyncio()
        self._come: deque[list[Any]] = deque()
        self._bytes = 0
        """Of the items among them."""
        self._waker = waker(self._loop)
        self._msgid = 0
        self._what = service
        self._link = Link(sock, self._received, self._ended)
        self._link.take_files()  # none are expected
        self._link.start(start)

    async def ask(
        self, client: AsyncClient, method: str, payload: bytes, until: float, timeout: float
    ) -> Any:
        """The result, or an AsyncStream; raises what the function has raised.

        Raises NotTaken, Lost, RequestTimeout.
        """
        if self._link.closed:
            raise NotTaken
        try:
            self._msgid += 1
            self._what = f"{self.service}/{method}" if method else self.service
            frame = call_frame(self._msgid, method, payload, until - monotonic())
            if not self._link.send(frame, True):
                raise Again
            answer = await self._next(until, timeout)
            error, result = answer_of(answer, self._msgid, self.service)
        except BaseException:
            self.close()
            raise
        if error is not None:
            if error[0] in (LEAVING, AGAIN):
                self.close()
                raise Leaving if error[0] == LEAVING else Again
            self.back()
            raise raised(error, result)
        if is_stream(result):
            return AsyncStream(self, timeout)
        self.back()
        return decode(result)

    def back(self) -> None:
        """The call is over."""
        if self._come:  # that nobody has asked for
            self.close()
        else:
            self.worker.back(self)

    async def take_item(self, timeout: float) -> list[Any]:
        """The next notification of a stream."""
        message: list[Any] = await self._next(monotonic() + timeout, timeout)
        return message

    async def _next(self, until: float, timeout: float) -> Any:
        while not self._come:
            if self._link.closed:
                raise Again if self._link.unread else Lost
            self._waker = waker(self._loop)
            with anyio.move_on_after(until - monotonic()) as scope:
                await woken(self._waker)
            if scope.cancelled_caught and not self._come:
                raise RequestTimeout(
                    f"{self._what}: no answer from the worker (pid {self.worker.pid}) within "
                    f"{timeout:g} s; it is told to give up, but may have done it"
                )
        message = self._come.popleft()
        self._bytes -= _size(message)
        if not self._is_full():
            self._link.resume()
        return message

    def _is_full(self) -> bool:
        return len(self._come) >= ITEMS_AHEAD or self._bytes >= BYTES_AHEAD

    def close(self) -> None:
        self._link.close()
        wake(self._waker)

    # --- called by the link -------------------------------------------------------------------

    def _received(self, messages: list[Any]) -> None:
        self._come += messages
        self._bytes += sum(map(_size, messages))
        if self._is_full():
            self._link.pause()
        wake(self._waker)

    def _ended(self, why: str) -> None:
        wake(self._waker)


def _size(message: list[Any]) -> int:
    """The bytes of an item of a stream; 0: it is something else."""
    params = message[2]
    if message[0] == NOTIFICATION and type(params) is list and params:
        return len(params[0]) if type(params[0]) is bytes else 0
    return 0


class AsyncStream:
    """What a generator of a worker yields, one after the other. Close it if you leave it early
    (or use `async with`): then the worker stops too."""

    def __init__(self, conversation: AsyncConversation, timeout: float) -> None:
        """`timeout`: seconds to wait for each item."""
        self._conversation: AsyncConversation | None = conversation
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Raises what the generator has raised; WorkerLost, RequestTimeout."""
        conversation = self._conversation
        if conversation is None:
            raise StopAsyncIteration
        try:
            _, kind, params = await conversation.take_item(self._timeout)
        except (Lost, Again):
            self.close()
            from .calling import lost_midway

            raise lost_midway(conversation.service, conversation.worker) from None
        except BaseException:
            self.close()
            raise
        if kind == "item":
            return decode(params[0])
        self._conversation = None
        conversation.back()
        error, details = params
        if error is None:
            raise StopAsyncIteration
        raise raised(error, details)

    def close(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # its event loop may have ended
            self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

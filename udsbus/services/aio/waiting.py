"""The line of those tasks of a client who wait for a worker of one service to be free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING

import anyio

from ...errors import RequestTimeout
from ..finding import LOOK_SECONDS, RemoteWorker, Service

if TYPE_CHECKING:
    from .asking import AsyncConversation

    Take = Callable[
        [Service[AsyncConversation], float], Awaitable[RemoteWorker[AsyncConversation] | None]
    ]


class AsyncLine:
    """The first in the line waits for the workers; the others wait for it."""

    def __init__(self, service: Service[AsyncConversation], take: Take) -> None:
        """`take` takes one that is free, if there is one."""
        self._service = service
        self._take = take
        self._first = anyio.Lock()

    async def wait(self, until: float, timeout: float) -> RemoteWorker[AsyncConversation] | None:
        """One that is free now; None: somebody should look whether there are others.

        Raises RequestTimeout at `until`.
        """
        with anyio.move_on_after(until - monotonic()):
            async with self._first:
                worker = await self._take(self._service, until)
                if worker is not None or not self._service.workers:
                    return worker
                with self._service.hub() as hub, anyio.move_on_after(LOOK_SECONDS):
                    await anyio.wait_readable(hub.fileno())
                return await self._take(self._service, until)
        raise RequestTimeout(self._service.all_busy(timeout))

"""The line of those tasks of a client who wait for a worker of one service to be free."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import anyio

from ...errors import RequestTimeout
from ..finding import LOOK_SECONDS, RemoteWorker, Service

if TYPE_CHECKING:
    from .asking import AsyncConversation


class AsyncLine:
    """The first in the line waits for the workers; the others wait for it."""

    def __init__(self, service: Service[AsyncConversation]) -> None:
        self._service = service
        self._first = anyio.Lock()

    async def wait(self, until: float, timeout: float) -> RemoteWorker[AsyncConversation] | None:
        """One that is free now; None: somebody should look whether there are others.

        Raises RequestTimeout at `until`.
        """
        with anyio.move_on_after(until - monotonic()):
            async with self._first:
                worker = self._service.take()
                if worker is not None or not self._service.workers:
                    return worker
                with anyio.move_on_after(LOOK_SECONDS):
                    await anyio.wait_readable(self._service.hub.fileno())
                return self._service.take()
        raise RequestTimeout(self._service.all_busy(timeout))

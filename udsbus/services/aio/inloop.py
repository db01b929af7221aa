"""A worker for coroutine functions in a thread, with an event loop of its own: for sync clients."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import anyio

from ..current import current
from ..endpoint import Endpoint
from ..offered import Offered
from ..worker import NOBODY, Watchers
from .worker import AsyncWorker


class InLoop:
    """`run` is for one thread, `stop` for any."""

    def __init__(
        self, offered: Offered, endpoint: Endpoint, size: int, watchers: Watchers = NOBODY
    ) -> None:
        self._what = offered, endpoint, size, watchers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: AsyncWorker | None = None
        self._begun = threading.Event()

    def run(self) -> None:
        """Serve until it has left."""
        try:
            anyio.run(self._run)
        finally:
            self._begun.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = AsyncWorker(*self._what)
        self._begun.set()
        await self._worker.run()

    def runs_here(self) -> bool:
        """Whether this thread carries out a call."""
        return current.get(None) is not None

    def stop(self, grace: float) -> None:
        self._begun.wait()
        if self._loop is not None and self._worker is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._worker.leave, grace)

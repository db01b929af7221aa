"""Threads for those functions of a worker with an event loop that are no coroutines.

What has begun in a thread runs to its end, also when nobody waits for it any more; its call is in
hand until then. The threads are daemons, so a function that never ends does not keep the process
alive: anyio's threads would.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

from ...client.aio.asked import running_asyncio, wake, waker, woken


class Job:
    """One function that runs, or is to run, in a thread."""

    def __init__(
        self, function: Callable[[], Any], told: Callable[[], None], soon: Callable[..., Any]
    ) -> None:
        """`told` is called in the event loop when it has ended, or will never begin."""
        self.ended = False
        self._function = function
        self._told = told
        self._soon = soon
        self._waker = waker(running_asyncio())
        self._changing = threading.Lock()
        self._begun = self._dropped = False
        self._then: Callable[[], Any] | None = None
        self._result: Any = None
        self.error: BaseException | None = None
        """What it has raised."""

    async def result(self) -> Any:
        """What it returns, or raises. Cancelled, it goes on if it has begun."""
        try:
            await woken(self._waker)
        except BaseException:
            with self._changing:
                self._dropped = True
                never = not self._begun
            if never:
                self._tell()
            raise
        if self.error is not None:
            raise self.error
        return self._result

    def then(self, function: Callable[[], Any]) -> bool:
        """Let the thread do that too, afterwards. False: it has ended."""
        with self._changing:
            self._then = function
            return not self.ended

    def run(self) -> None:
        """In the thread."""
        with self._changing:
            if self._dropped:
                return
            self._begun = True
        try:
            self._result = self._function()
        except BaseException as error:  # for whoever waits
            self.error = error
        with self._changing:
            self.ended = self._then is None
        if not self.ended and self._then is not None:
            with contextlib.suppress(BaseException):
                self._then()
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._soon(self._tell)

    def _tell(self) -> None:
        self.ended = True
        wake(self._waker)
        self._told()


class Threads:
    """As many as are needed, `most` at most."""

    def __init__(self, name: str, most: int) -> None:
        """For the event loop that runs now."""
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = 0
        self._under_way = 0
        self._soon = _soon()

    def start(self, function: Callable[[], Any], told: Callable[[], None]) -> Job:
        """Carry it out, with the context variables that there are now."""

        def over() -> None:
            self._under_way -= 1
            told()

        job = Job(_in_context(function), over, self._soon)
        self._under_way += 1
        self._jobs.put(job)
        if self._threads < min(self._under_way, self._most):
            self._threads += 1
            name = f"udsbus {self._name} {self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
        return job

    def close(self) -> None:
        """Let them end, when they have nothing more to do."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()


def _in_context(function: Callable[[], Any]) -> Callable[[], Any]:
    context = copy_context()
    return lambda: context.run(function)


def _soon() -> Callable[..., Any]:
    """How a thread has something called in the event loop; RuntimeError when that has ended."""
    loop = running_asyncio()
    if loop is not None:
        return loop.call_soon_threadsafe
    import trio.lowlevel  # only where it runs already

    soon: Callable[..., Any] = trio.lowlevel.current_trio_token().run_sync_soon
    return soon

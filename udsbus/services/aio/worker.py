"""The process that serves, for coroutine functions: each connection is a task, which carries out
one call after the other. A call is cancelled when nobody waits for it any more. Those functions
among them that are no coroutines run in threads.

A task for each call would take longer to make than all the rest of the call; and on asyncio what
comes over a connection is not read in a task, where anyio, if it did not start the event loop
itself, would not know of which kind that is.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from ...errors import Error
from ...peers import peer_credentials
from ...wire.encoding import refusal
from ..caller import BEAT_SECONDS
from ..current import CurrentCall, current
from ..endpoint import Endpoint
from ..frames import (
    Called,
    called,
    end_frame,
    failure_frame,
    fault_frame,
    item_frame,
    leaving_frame,
    refusal_frame,
    result_frame,
    stream_frame,
)
from ..inherited import not_for_children
from ..offered import Function, Offered
from ..worker import (
    COMING_SECONDS,
    FULL_SECONDS,
    IDLE_SECONDS,
    NOBODY,
    Watchers,
)
from .caller import AsyncCaller

log = logging.getLogger("udsbus.services")


class AsyncWorker:
    """Serves one service, in the task that calls `run`."""

    def __init__(
        self,
        offered: Offered,
        endpoint: Endpoint,
        size: int,
        watchers: Watchers = NOBODY,
    ) -> None:
        """As for a `Worker`."""
        self.offered = offered
        self.endpoint = endpoint
        self._size = size
        self._done, self._beat = watchers
        self._slots = endpoint.slots
        self._callers: set[AsyncCaller] = set()
        self._began: dict[int, float] = {}
        """When each call in hand began."""
        self._begun = 0
        """How many calls have begun, ever."""
        self._held: deque[tuple[AsyncCaller, Called]] = deque()
        """Calls beyond those that are carried out at once: somebody has taken a byte twice."""
        self._in_threads: dict[int, threading.Event] = {}
        """Of plain functions that nobody waits for any more: set when they have ended."""
        self._leaving = False
        self._until = self._coming_until = 0.0
        self._coming = 0
        self._threads: anyio.CapacityLimiter | None = None
        self._tasks: anyio.abc.TaskGroup
        self._changed = anyio.Event()

    async def run(self) -> None:
        """Serve until it has left. Cancelled, it leaves at once."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._accept)
                self._tasks.start_soon(self._look_after)
                await self._leave_in_time()
                self._tasks.cancel_scope.cancel()
        finally:
            for caller in list(self._callers):
                caller.close()
            self.endpoint.close()

    def leave(self, grace: float) -> None:
        """Take no more calls, finish those in hand within `grace` seconds, and end `run`."""
        if not self._leaving:
            self._leaving = True
            self._coming = self._size - len(self._began) - self._slots.take_all()
            now = monotonic()
            self._until, self._coming_until = now + grace, now + COMING_SECONDS
            self._changed.set()

    async def _leave_in_time(self) -> None:
        while not self._leaving:
            await self._changed.wait()
            self._changed = anyio.Event()
        while True:
            now = monotonic()
            coming = self._coming > 0 and now < self._coming_until
            busy = self._began or self._held or any(caller.sends for caller in self._callers)
            if not coming and (not busy or now >= self._until):
                return
            self._changed = anyio.Event()
            with anyio.move_on_after(0.02):
                await self._changed.wait()

    async def _accept(self) -> None:
        while True:
            await anyio.wait_readable(self.endpoint.socket)
            while True:
                try:
                    sock, _ = self.endpoint.socket.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._make_room():
                        await anyio.sleep(FULL_SECONDS)
                        break
                    continue
                not_for_children(sock)
                if peer_credentials(sock).uid not in (os.getuid(), 0):
                    sock.close()
                    continue
                sock.setblocking(False)
                caller = AsyncCaller(self, sock)
                self._callers.add(caller)
                self._tasks.start_soon(caller.serve)

    def _make_room(self) -> bool:
        """As in a `Worker`."""
        idle = next((caller for caller in self._callers if caller.idle), None)
        if idle is not None:
            log.warning("%s: too many open files; a connection is closed", self.offered.service)
            idle.refuse()
        return idle is not None

    async def _look_after(self) -> None:
        """Show that it lives, and put bytes back that somebody has taken for nothing."""
        missing, begun = False, 0
        while True:
            self._show()
            for number, ended in list(self._in_threads.items()):
                if ended.is_set():
                    del self._in_threads[number]
                    self.finish(number)
            was_missing, missing = missing, self._slots.free() + len(self._began) < self._size
            idle = not self._began and begun == self._begun and not self._leaving
            if was_missing and missing and idle:
                self._slots.give(self._size, 0)
            begun = self._begun
            await anyio.sleep(IDLE_SECONDS if missing or self._in_threads else BEAT_SECONDS)

    # --- called by the connections ------------------------------------------------------------

    def begin(self, caller: AsyncCaller, message: list[Any]) -> None:
        """A message has come."""
        call = called(message)
        if call is None:
            log.warning("a connection is closed: %.100r is no call", message)
            caller.close()
        elif self._leaving and self._coming <= 0:
            caller.send(leaving_frame(call.msgid))
        else:
            if self._leaving:
                self._coming -= 1
            if len(self._began) >= self._size:
                self._held.append((caller, call))
            else:
                self._begin(caller, call)

    def _begin(self, caller: AsyncCaller, call: Called) -> None:
        self._begun += 1
        self._began[self._begun] = monotonic()
        self._show()
        caller.give(call, self._begun)

    def _show(self) -> None:
        """As in a `Worker`."""
        self._beat(min(self._began.values(), default=None))

    def finish(self, number: int) -> None:
        """One call is done: another can be."""
        del self._began[number]
        while self._held:
            caller, call = self._held.popleft()
            if not caller.closed:
                self._begin(caller, call)
                break
        else:
            self._slots.give(1, len(self._began))
        self._show()
        self._changed.set()

    def forget(self, caller: AsyncCaller) -> None:
        self._callers.discard(caller)

    # --- one call -----------------------------------------------------------------------------

    async def carry_out(self, caller: AsyncCaller, call: Called, number: int) -> None:
        """In the task of the connection."""
        until = None if call.seconds is None else self._began[number] + max(0.0, call.seconds)
        frame = b""
        try:
            seconds = None if until is None else max(0.0, until - monotonic())
            with anyio.move_on_after(seconds) as scope:
                caller.scope = scope
                if caller.closed:
                    return
                frame = await self._called(caller, call, until, scope, number)
        except Exception:  # of what somebody has written, while it was looked at
            log.exception("%s: a call ended in a way that cannot be told", self.offered.service)
            frame = fault_frame(call)
        finally:
            caller.scope = None
            if number in self._in_threads and self._in_threads[number].is_set():
                del self._in_threads[number]
            if number not in self._in_threads:  # else `_look_after` sees when it has ended
                self.finish(number)
            if frame:
                caller.send(frame)
            self._done()

    async def _called(
        self,
        caller: AsyncCaller,
        call: Called,
        until: float | None,
        scope: anyio.CancelScope,
        number: int,
    ) -> bytes:
        """What to answer; b"": nothing any more."""
        try:
            function = self.offered.find(call.method)
            args, kwargs = call.arguments()
            function.check(args, kwargs)
        except Error as error:
            return refusal_frame(call, refusal(error))
        current.set(CurrentCall(function.name, until, caller.is_closed))
        try:
            if not function.is_async:
                ended = self._in_threads[number] = threading.Event()
                made = partial(_and_tell, ended, function.function, *args, **kwargs)
                result = await anyio.to_thread.run_sync(
                    made, abandon_on_cancel=True, limiter=self._limiter()
                )
            else:
                result = function.function(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
            if inspect.isasyncgen(result) or inspect.isgenerator(result):
                scope.deadline = inf
                items = result if inspect.isasyncgen(result) else _in_thread(result)
                return await self._stream(caller, call, function, items, number)
            return result_frame(call, function.name, result)
        except (Exception, SystemExit) as error:  # which would end the event loop
            return failure_frame(call, error)

    async def _stream(
        self,
        caller: AsyncCaller,
        call: Called,
        function: Function,
        items: AsyncIterator[Any],
        number: int,
    ) -> bytes:
        caller.send(stream_frame(call))
        try:
            async for item in items:
                self._began[number] = inf  # whoever called takes his time, and not the call
                self._show()
                caller.send(item_frame(function.name, item))
                await caller.room()
                if caller.closed:
                    return b""
                self._began[number] = monotonic()
                self._show()
                current.get().wait_for_more(call.seconds)
        except (Exception, SystemExit) as error:
            return end_frame(error)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                    await close()
        return end_frame()

    def _limiter(self) -> anyio.CapacityLimiter:
        """anyio's own lets 40 threads run."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(self._size)
        return self._threads


def _and_tell(
    ended: threading.Event, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    try:
        return function(*args, **kwargs)
    finally:
        ended.set()


_END = object()


async def _in_thread(items: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        while (item := await anyio.to_thread.run_sync(next, items, _END)) is not _END:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()

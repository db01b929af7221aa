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
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from ...client.aio.asked import running_asyncio, wake, waker, woken
from ...client.aio.link import Link
from ...errors import Error
from ...peers import peer_credentials
from ...wire.encoding import refusal
from ...wire.framing import Decoder
from ..current import CurrentCall, current
from ..frames import (
    Called,
    again_frame,
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
from ..place import Place
from ..worker import (
    BEAT_SECONDS,
    COMING_SECONDS,
    FULL_SECONDS,
    IDLE_SECONDS,
    NOBODY,
    Watchers,
)

log = logging.getLogger("udsbus.services")


class AsyncWorker:
    """Serves one service, in the task that calls `run`."""

    def __init__(
        self,
        offered: Offered,
        place: Place,
        size: int,
        watchers: Watchers = NOBODY,
    ) -> None:
        """As for a `Worker`."""
        self.offered = offered
        self.place = place
        self._size = size
        self._done, self._beat = watchers
        self._slots = place.slots
        self._lines: set[Line] = set()
        self._began: dict[int, float] = {}
        """When each call in hand began."""
        self._begun = 0
        """How many calls have begun, ever."""
        self._held: deque[tuple[Line, Called]] = deque()
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
            for line in list(self._lines):
                line.close()
            self.place.close()

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
            busy = self._began or self._held or any(line.sends for line in self._lines)
            if not coming and (not busy or now >= self._until):
                return
            self._changed = anyio.Event()
            with anyio.move_on_after(0.02):
                await self._changed.wait()

    async def _accept(self) -> None:
        while True:
            await anyio.wait_readable(self.place.socket)
            while True:
                try:
                    sock, _ = self.place.socket.accept()
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
                line = Line(self, sock)
                self._lines.add(line)
                self._tasks.start_soon(line.serve)

    def _make_room(self) -> bool:
        """As in a `Worker`."""
        idle = next((line for line in self._lines if line.idle), None)
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

    # --- called by the lines ------------------------------------------------------------------

    def begin(self, line: Line, message: list[Any]) -> None:
        """A message has come."""
        call = called(message)
        if call is None:
            log.warning("a connection is closed: %.100r is no call", message)
            line.close()
        elif self._leaving and self._coming <= 0:
            line.send(leaving_frame(call.msgid))
        else:
            if self._leaving:
                self._coming -= 1
            if len(self._began) >= self._size:
                self._held.append((line, call))
            else:
                self._begin(line, call)

    def _begin(self, line: Line, call: Called) -> None:
        self._begun += 1
        self._began[self._begun] = monotonic()
        self._show()
        line.give(call, self._begun)

    def _show(self) -> None:
        """As in a `Worker`."""
        self._beat(min(self._began.values(), default=None))

    def finish(self, number: int) -> None:
        """One call is done: another can be."""
        del self._began[number]
        while self._held:
            line, call = self._held.popleft()
            if not line.closed:
                self._begin(line, call)
                break
        else:
            self._slots.give(1, len(self._began))
        self._show()
        self._changed.set()

    def forget(self, line: Line) -> None:
        self._lines.discard(line)

    # --- one call -----------------------------------------------------------------------------

    async def carry_out(self, line: Line, call: Called, number: int) -> None:
        """In the task of the line."""
        until = None if call.seconds is None else self._began[number] + max(0.0, call.seconds)
        frame = b""
        try:
            seconds = None if until is None else max(0.0, until - monotonic())
            with anyio.move_on_after(seconds) as scope:
                line.scope = scope
                if line.closed:
                    return
                frame = await self._called(line, call, until, scope, number)
        except Exception:  # of what somebody has written, while it was looked at
            log.exception("%s: a call ended in a way that cannot be told", self.offered.service)
            frame = fault_frame(call)
        finally:
            line.scope = None
            if number in self._in_threads and self._in_threads[number].is_set():
                del self._in_threads[number]
            if number not in self._in_threads:  # else `_look_after` sees when it has ended
                self.finish(number)
            if frame:
                line.send(frame)
            self._done()

    async def _called(
        self, line: Line, call: Called, until: float | None, scope: anyio.CancelScope, number: int
    ) -> bytes:
        """What to answer; b"": nothing any more."""
        try:
            function = self.offered.find(call.method)
            args, kwargs = call.arguments()
            function.check(args, kwargs)
        except Error as error:
            return refusal_frame(call, refusal(error))
        current.set(CurrentCall(function.name, until, line.is_closed))
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
                return await self._stream(line, call, function, items, number)
            return result_frame(call, function.name, result)
        except (Exception, SystemExit) as error:  # which would end the event loop
            return failure_frame(call, error)

    async def _stream(
        self,
        line: Line,
        call: Called,
        function: Function,
        items: AsyncIterator[Any],
        number: int,
    ) -> bytes:
        line.send(stream_frame(call))
        try:
            async for item in items:
                self._began[number] = inf  # whoever called takes his time, and not the call
                self._show()
                line.send(item_frame(function.name, item))
                await line.room()
                if line.closed:
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


class Line:
    """A connection of somebody who calls."""

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
        return self.scope is None and not self._waiting

    def refuse(self) -> None:
        """Close it though nobody wants that; as a `Line` of a `Worker`."""
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
                self._worker.finish(self._waiting.popleft()[1])

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

    async def room(self) -> None:
        """Until what is sent has been taken, but for a little."""
        await anyio.lowlevel.checkpoint()
        await self._link.room()

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

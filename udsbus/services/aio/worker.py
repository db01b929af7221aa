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
from collections.abc import AsyncIterator, Callable
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import anyio
import anyio.abc

from ...client.aio.asked import running_asyncio
from ...errors import Error
from ...peers import peer_credentials
from ...wire.encoding import refusal
from ..caller import BEAT_SECONDS
from ..current import CurrentCall, current
from ..endpoint import Endpoint, is_waited_for
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
from ..free import IDLE_SECONDS, Missing
from ..inherited import not_for_children
from ..offered import Function, Offered
from ..worker import (
    COMING_SECONDS,
    FULL_SECONDS,
    NOBODY,
    Watchers,
)
from .caller import AsyncCaller
from .threads import Job, Threads

log = logging.getLogger("udsbus.services")


class InHand:
    """A call from when it has come until nothing is done for it any more."""

    __slots__ = ("job", "over", "raised", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        """When it began, or whoever called wanted the next item; inf: he takes his time."""
        self.job: Job | None = None
        """What its thread does, or has done last, if it has one."""
        self.raised: BaseException | None = None
        """By a thread."""
        self.over = False
        """Its task has done with it."""


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
        self._in_hand: dict[int, InHand] = {}
        """By their numbers."""
        self._begun = 0
        """How many calls have begun, ever."""
        self._held: deque[tuple[AsyncCaller, Called]] = deque()
        """Calls beyond those that are carried out at once: somebody has taken a byte twice."""
        self._missing = Missing()
        self._leaving = False
        self._until = self._coming_until = 0.0
        self._coming = 0
        self._threads: Threads | None = None
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
            if self._threads is not None:
                self._threads.close()
            self.endpoint.close()

    def leave(self, grace: float) -> None:
        """Take no more calls, finish those in hand within `grace` seconds, and end `run`."""
        if not self._leaving:
            self._leaving = True
            self._coming = self._size - len(self._in_hand) - self._slots.take_all()
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
            busy = self._in_hand or self._held or any(caller.sends for caller in self._callers)
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
                    full = error.errno in (errno.EMFILE, errno.ENFILE)
                    if full and not is_waited_for(self.endpoint.socket):
                        break
                    if not full or not self._make_room():
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
                self._tasks.start_soon(self._serve, caller)

    async def _serve(self, caller: AsyncCaller) -> None:
        try:
            await caller.serve()
        except Exception:  # a fault of ours: it shall not end the others
            log.exception("%s: a connection is closed", self.offered.service)

    def _make_room(self) -> bool:
        """As in a `Worker`."""
        idle = next((caller for caller in self._callers if caller.idle), None)
        if idle is not None:
            log.warning("%s: too many open files; a connection is closed", self.offered.service)
            idle.refuse()
        return idle is not None

    async def _look_after(self) -> None:
        """Show that it lives, and put bytes back that somebody has taken for nothing."""
        while not self._leaving:
            self._show()
            lost = self._look_for_missing()
            if lost:
                self._slots.give(lost, len(self._in_hand))
            await anyio.sleep(IDLE_SECONDS / 2 if self._missing.suspects else BEAT_SECONDS)
        while True:
            self._show()
            await anyio.sleep(BEAT_SECONDS)

    def _look_for_missing(self) -> int:
        missing = self._size - len(self._in_hand) - self._slots.free()
        return self._missing.look(missing, self._begun, monotonic())

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
            if len(self._in_hand) >= self._size:
                self._held.append((caller, call))
            else:
                self._begin(caller, call)

    def _begin(self, caller: AsyncCaller, call: Called) -> None:
        self._begun += 1
        self._in_hand[self._begun] = InHand(monotonic())
        if self._missing.suspects:
            self._look_for_missing()
        self._show()
        caller.give(call, self._begun)

    def _show(self) -> None:
        """As in a `Worker`."""
        self._beat(min((hand.since for hand in self._in_hand.values()), default=None))

    def over(self, number: int) -> None:
        """Nothing is to be done for a call any more, but that a thread of it may still run."""
        self._in_hand[number].over = True
        self._finish(number)

    def _finish(self, number: int) -> None:
        """If a call is done, another can be."""
        hand = self._in_hand.get(number)
        if hand is None or not hand.over or (hand.job is not None and not hand.job.ended):
            return
        del self._in_hand[number]
        while self._held:
            caller, call = self._held.popleft()
            if not caller.closed:
                self._begin(caller, call)
                break
        else:
            self._slots.give(1, len(self._in_hand))
        self._show()
        self._changed.set()

    def forget(self, caller: AsyncCaller) -> None:
        self._callers.discard(caller)

    # --- one call -----------------------------------------------------------------------------

    async def carry_out(self, caller: AsyncCaller, call: Called, number: int) -> None:
        """In the task of the connection."""
        hand = self._in_hand[number]
        until = None if call.seconds is None else hand.since + max(0.0, call.seconds)
        frame = b""
        try:
            seconds = None if until is None else max(0.0, until - monotonic())
            with anyio.move_on_after(seconds) as scope:
                caller.scope = scope
                if caller.closed:
                    return
                frame = await self._called(caller, call, until, scope, number)
        except BaseException as error:  # of what somebody has written, while it was looked at
            if self._is_ours(error, hand):
                raise
            log.exception("%s: a call ended in a way that cannot be told", self.offered.service)
            frame = fault_frame(call)
        finally:
            caller.scope = None
            self.over(number)
            if frame:
                caller.send(frame)
            self._done()

    def _is_ours(self, error: BaseException, hand: InHand) -> bool:
        """Whether it is this task that is to end, and not only what was called."""
        if error is hand.raised:
            return False
        if isinstance(error, KeyboardInterrupt):  # in other threads it is never Ctrl-C
            return threading.current_thread() is threading.main_thread()
        if isinstance(error, anyio.get_cancelled_exc_class()):
            # On asyncio also what comes of awaiting a task that somebody has cancelled.
            return running_asyncio() is None or anyio.current_effective_deadline() == -inf
        return False

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
                result = await self._apart(number, partial(function.function, *args, **kwargs))
            else:
                result = function.function(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
            if inspect.isasyncgen(result) or inspect.isgenerator(result):
                scope.deadline = inf
                items = result if inspect.isasyncgen(result) else self._items(number, result)
                return await self._stream(caller, call, function, items, number)
            return result_frame(call, function.name, result)
        except BaseException as error:
            if self._is_ours(error, self._in_hand[number]):
                raise
            return failure_frame(call, error)

    async def _stream(
        self,
        caller: AsyncCaller,
        call: Called,
        function: Function,
        items: AsyncIterator[Any],
        number: int,
    ) -> bytes:
        hand = self._in_hand[number]
        caller.send(stream_frame(call))
        try:
            async for item in items:
                hand.since = inf  # whoever called takes his time, and not the call
                self._show()
                caller.send(item_frame(function.name, item))
                await caller.taken()
                if caller.closed:
                    return b""
                hand.since = monotonic()
                self._show()
                current.get().wait_for_more(call.seconds)
        except BaseException as error:
            if self._is_ours(error, hand):
                raise
            return end_frame(error)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True), contextlib.suppress(BaseException):
                    await close()
        return end_frame()

    # --- functions that are no coroutines -----------------------------------------------------

    async def _apart(self, number: int, function: Callable[[], Any]) -> Any:
        """In a thread. Cancelled, that goes on, and the call stays in hand until it has ended."""
        job = self._start(number, function)
        try:
            return await job.result()
        finally:
            self._in_hand[number].raised = job.error

    def _start(self, number: int, function: Callable[[], Any]) -> Job:
        if self._threads is None:
            self._threads = Threads(self.offered.service, self._size)
        job = self._threads.start(function, partial(self._finish, number))
        self._in_hand[number].job = job
        return job

    async def _items(self, number: int, items: Any) -> AsyncIterator[Any]:
        """What a plain generator yields, which only its thread uses."""
        try:
            while (item := await self._apart(number, partial(next, items, _END))) is not _END:
                yield item
        finally:
            job = self._in_hand[number].job
            if job is None or not job.then(items.close):
                self._start(number, items.close)


_END = object()

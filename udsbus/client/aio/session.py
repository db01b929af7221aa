"""How a request of an async client gets to the broker, and an answer back.

All requests share one connection, and their answers find them by msgid. What is not answered yet
stands in `_asked`, in the order of asking. When the connection is lost, all of it is sent again in
that order over the next one, by the same msgids: together they are one *lane*, in which the broker
knows what it has answered (broker/lanes.py). So no request is carried out twice, whatever is lost
on its way.

A task that is cancelled while it waits leaves its request behind: the answer finds nobody, and is
dropped. Where it must not be (a lock that is granted to nobody), `_make_sure` and `_put_right` see
to that, without any task: they are sent after it over the same connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import msgpack

from ...errors import BrokerUnavailable, Error, InvalidRequest, RequestTimeout
from ...limits import (
    ANSWERS_RESTORED,
    HEARTBEAT_SECONDS,
    RESUME_SECONDS,
    TIMEOUT_MOST,
    UNANSWERED_MOST,
)
from ...paths import resolve_address
from ...wire.framing import MSGID_MOST, RESPONSE
from ...wire.large import is_large, packed
from ...wire.methods import ANSWERS_KEPT
from ...wire.values import encode
from .. import requests
from ..cache import NO_PAGE, Cache
from ..forks import FORKS
from ..pulse import check_heartbeat
from ..requests import (
    Attempt,
    Call,
    Many,
    cannot_be_sent,
    check_frame,
    check_timeout,
    error_from,
    read_batch,
)
from .asked import NEVER, Asked, running_asyncio, wake, waker, woken
from .link import Link

log = logging.getLogger("udsbus.client")

T = TypeVar("T")

ATTEMPTS = 5
"""How often a request is sent when the connection is lost each time: there must be an end, in case
that it is the request which kills the broker."""
LASTED_SECONDS = 1.0
"""A connection that has been lost after so long was not lost because of the request."""
AT_ONCE = min(UNANSWERED_MOST // 4, ANSWERS_RESTORED)
"""Requests on their way whose answers the broker has to keep; others wait for their turn. Those
that wait for something to come are not counted, for they may wait for one of the others."""
ACKNOWLEDGE = 64
"""So many answers of that kind have come, before the broker is told that it may forget them."""


_timeouts: ContextVar[dict[int, float] | None] = ContextVar("udsbus timeouts", default=None)
"""By id of the client: what holds in a block of code, see `timeout_of`."""


def _current_trio_task() -> Any:
    import trio.lowlevel  # only where it runs already

    return trio.lowlevel.current_task()


class AsyncSession:
    """What `AsyncClient` builds on. It belongs to one event loop; `connected.py` connects it."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None,
        name: str | None,
        timeout: float,
        autostart: bool,
        metadata: Any = None,
        heartbeat: float | None = HEARTBEAT_SECONDS,
        cache: bool = True,
    ) -> None:
        check_timeout(timeout)
        check_heartbeat(heartbeat)
        self.address = resolve_address(address)
        """The path of the socket."""
        self.timeout = min(timeout, TIMEOUT_MOST)
        """Seconds that a request may take."""
        self.name = name
        self._session = os.urandom(8).hex()
        self._metadata = None if metadata is None else encode(metadata)
        self._autostart = autostart
        self._heartbeat = heartbeat
        self._caches = cache
        self._cache = Cache(NO_PAGE)
        """What is remembered of keys."""
        self._closed = False
        self._thread = 0
        """That of the event loop; 0: this has not begun."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """If it is asyncio's."""
        self._forks = len(FORKS)
        self._stays = False
        """Something belongs to this client, so it must not be without a connection for long."""
        self._packer = msgpack.Packer(autoreset=True)
        self._pack = self._packer.pack
        self._link: Link | None = None
        self._unreachable: Error | None = None
        """Why there is no connection now."""
        self._asked: dict[int, Asked] = {}
        """By msgid, in the order of asking."""
        self._msgids = itertools.count()
        self._kept = 0
        """How many of them the broker has to keep the answers of, and answers at once."""
        self._received_kept = 0
        """Answers of that kind that have come since the broker was told."""
        self._newest_kept = 0
        """The msgid of the latest request among these."""
        self._looks_at = NEVER
        """When somebody looks at the deadlines next."""
        self._owners: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        """Tasks that have acquired something, or tried, and their numbers."""
        self._owner_numbers = itertools.count(1)
        self._steadfast: dict[int, bool] = {}
        """Task → whether it was cancelled, of those that are not to be just now."""

    def _begin(self) -> None:
        """From now on this belongs to the running event loop."""
        self._thread = threading.get_ident()
        self._loop = running_asyncio()
        self._fewer = anyio.Event()
        """Is set when there are fewer of `_kept`."""
        self._busy = waker(self._loop)
        """Wakes the task that looks at deadlines."""

    @property
    def session(self) -> str:
        """The name by which the broker, and the others, know this client."""
        return self._session

    # --- the way of a request ---------------------------------------------------------------

    async def _call(self, call: Call[T]) -> T:
        """The way of every request."""
        kept = call.method in ANSWERS_KEPT
        patience = self._patience
        if (kept and self._kept >= AT_ONCE) or (self._link is not None and self._link.full):
            await self._less_to_do(kept, patience)
        asked = self._send(call, monotonic() + patience, kept)
        if patience != self.timeout:
            asked.patience = patience
        if not asked.settled:
            await self._answered(asked)
        if asked.error is not None:
            raise asked.error
        return call.read(asked.result)

    async def _call_waiting(
        self,
        ask: Callable[[float | None], Call[T]],
        timeout: float | None,
        attempt: Attempt | None = None,
    ) -> T:
        """The way of a request that the broker answers when the time has come, but within
        `timeout` seconds (None: whenever). `ask` makes the request for the seconds that are left;
        it must do no harm to ask again. If it would, there is an `attempt`, to know it by."""
        until = None if timeout is None else monotonic() + timeout
        call = ask(timeout)
        deadline = NEVER if until is None else until + self._patience
        asked = self._send(call, deadline, call.method in ANSWERS_KEPT, ask)
        asked.until = until
        asked.patience = self._patience
        asked.attempt = attempt is not None
        if not asked.sent:
            self._strand(asked)
        if attempt is not None:
            attempt.connection, attempt.msgid = asked, asked.msgid
        if not asked.settled:
            await self._answered(asked)
        if asked.error is not None:
            raise asked.error
        if asked.result is None and self._closed:  # the goodbye has ended it, before its time
            raise InvalidRequest("this client is closed")
        return call.read(asked.result)

    async def _call_many(self, many: Many) -> None:
        """Fill in the results and refusals of a pipeline."""
        results, packed = many.results, many.requests
        while (done := len(results)) < len(packed):
            batch = self._packed_batch(packed[done : done + many.together])
            read_batch(None, await self._call(batch), results, many.refusals)

    async def _answered(self, asked: Asked) -> None:
        """Wait until it is."""
        while not asked.settled:
            loop = self._loop
            try:
                if loop is None:
                    asked.waker = event = anyio.Event()
                    await event.wait()
                else:
                    asked.waker = future = loop.create_future()
                    await future
            except BaseException as error:
                if (
                    self._steadfast
                    and isinstance(error, asyncio.CancelledError)
                    and (me := self._owner()) in self._steadfast
                ):
                    self._steadfast[me] = True
                    continue
                asked.waker = None
                self._abandon(asked)
                raise

    async def _less_to_do(self, kept: bool, patience: float) -> None:
        """Wait until the broker has done some of it. Raises RequestTimeout."""
        with anyio.move_on_after(patience):
            while True:
                if self._link is not None and self._link.full:
                    await self._link.room()
                elif kept and self._kept >= AT_ONCE:
                    await self._fewer.wait()
                else:
                    return
        raise self._unreachable or RequestTimeout(
            f"the broker took no request within {patience:g} s: too many wait for their answers"
        )

    def _send(
        self,
        call: Call[Any],
        deadline: float,
        kept: bool,
        ask: Callable[[float | None], Call[Any]] | None = None,
    ) -> Asked:
        """Ask, now or when there is a connection. Does not wait."""
        # A child after a fork has the parent's thread, and socket.
        if self._closed or threading.get_ident() != self._thread or self._forks != len(FORKS):
            self._check_usable()
        asked_now = self._asked
        msgid = next(self._msgids) % MSGID_MOST + 1
        while msgid in asked_now:  # it has waited for so long that they began again
            msgid = next(self._msgids) % MSGID_MOST + 1
        asked = Asked(call, msgid, deadline, kept)
        asked.ask = ask
        frame = self._packed(call, msgid)
        alone = not asked_now
        asked_now[msgid] = asked
        self._kept += kept and ask is None
        link = self._link
        if link is not None and link.greeted:
            asked.sent = link.send(frame, alone)
        else:
            self._need_connection()
        if deadline < self._looks_at:
            self._looks_at = deadline
            wake(self._busy)
        return asked

    def _packed(self, call: Call[Any], msgid: int) -> bytes:
        params: Any = call.params
        if type(params) is bytes:  # those of a batch
            head: bytes = self._pack((0, msgid, call.method))
            return b"\x94" + head[1:] + params
        try:
            if len(params) > 1 and is_large(params[1]):
                frame: bytes = packed(self._pack, (0, msgid, call.method, params))
            else:
                frame = self._pack((0, msgid, call.method, params))
        except (ValueError, TypeError, OverflowError) as error:
            self._packer = msgpack.Packer(autoreset=True)
            self._pack = self._packer.pack
            raise cannot_be_sent(call.method, error) from None
        check_frame(call.method, len(frame))
        return frame

    def _packed_batch(self, packed: list[bytes]) -> Call[Any]:
        params: Any = b"".join((b"\x91", self._packer.pack_array_header(len(packed)), *packed))
        return Call("batch", params, requests.as_is)

    def _notify(self, call: Call[Any]) -> None:
        """Tell the broker something that needs no answer, if there is a connection."""
        link = self._link
        if link is not None and link.greeted and self._forks == len(FORKS):
            link.send(self._pack((2, call.method, call.params)), False)

    # --- what nobody waits for ----------------------------------------------------------------

    def _abandon(self, asked: Asked) -> None:
        """Nobody waits for the answer any more."""
        if asked.settled:
            return
        asked.abandoned = True
        if not asked.sent:
            self._drop(asked)
        elif asked.ask is not None:
            self._notify(requests.cancel(asked.msgid))

    def _make_sure(self, call: Call[Any]) -> None:
        """Have something carried out, however long it takes, unless this client is closed before,
        with which all that belongs to it goes anyway."""
        if not self._closed:
            self._send(call, NEVER, call.method in ANSWERS_KEPT).insists = True

    def _put_right(
        self,
        call: Call[Any],
        attempt: Attempt | None = None,
        then: Callable[[Any], Call[Any] | None] | None = None,
    ) -> None:
        """The same. With `attempt`, `call` is sent in its place; and `then` makes of its result
        what is to be sent after it."""
        asked: Asked | None = None if attempt is None else attempt.connection
        if asked is None:
            self._make_sure(call)
        elif self._asked.get(asked.msgid) is asked:
            asked.call, asked.ask, asked.then = call, None, then
            asked.abandoned = False
            self._kept += 1
        elif asked.settled and asked.error is None:
            self._go_on(then, asked.result)  # it came when the task had been cancelled already

    def _go_on(self, then: Callable[[Any], Call[Any] | None] | None, result: Any) -> None:
        following = None if then is None else then(result)
        if following is not None:
            self._make_sure(following)

    # --- what comes in ------------------------------------------------------------------------

    def _received(self, messages: list[Any]) -> None:
        for message in messages:
            if message[0] == RESPONSE:
                asked = self._asked.get(message[1])
                if asked is not None:
                    error, result = message[2], message[3]
                    self._drop(asked)
                    if asked.kept:
                        self._received_kept += 1
                        self._newest_kept = asked.msgid
                    self._settle(
                        asked, result, None if error is None else error_from(error, result)
                    )
                elif message[1] == 0:
                    self._greeted(message[2], message[3])
            else:
                self._notified(message[1], message[2])
        if self._received_kept >= ACKNOWLEDGE and self._received_kept >= len(self._asked):
            self._acknowledge()

    def _settle(self, asked: Asked, result: Any, error: Error | None) -> None:
        asked.settle(result, error)
        if asked.reply is not None and error is None:
            asked.reply(result)
        elif asked.refused is not None and error is not None:
            asked.refused(error)
        elif asked.then is not None and error is None:
            self._go_on(asked.then, result)

    def _drop(self, asked: Asked) -> None:
        """It is not on its way any more."""
        if self._asked.pop(asked.msgid, None) is None:
            return
        if asked.kept and asked.ask is None:
            if self._kept == AT_ONCE:
                self._fewer.set()
                self._fewer = anyio.Event()
            self._kept -= 1

    def _acknowledge(self) -> None:
        """The broker need not keep the answers that have come."""
        newest = self._newest_kept
        missing = [msgid for msgid, asked in self._asked.items() if asked.kept]
        self._notify(requests.received(newest, missing))
        self._received_kept = 0

    def _greeted(self, error: Any, result: Any) -> None:
        raise NotImplementedError

    def _notified(self, kind: str, params: list[Any]) -> None:
        raise NotImplementedError

    def _need_connection(self) -> None:
        raise NotImplementedError

    # --- one connection after the other -------------------------------------------------------

    def _lost(self, after: float) -> None:
        """The connection is lost, which has lasted `after` seconds."""
        for asked in list(self._asked.values()):
            if asked.reply is not None or asked.abandoned:
                self._drop(asked)
                continue
            if asked.ask is not None:
                self._strand(asked)
            if asked.sent:
                asked.lost = 1 if after > LASTED_SECONDS else asked.lost + 1
                if asked.lost == ATTEMPTS:
                    self._drop(asked)
                    asked.settle(
                        None,
                        BrokerUnavailable(
                            f"{self.address}: the connection was lost {ATTEMPTS} times, "
                            "each time before it was answered"
                        ),
                    )

    def _strand(self, asked: Asked) -> None:
        """One that may wait for ever for its answer does not wait for ever for a connection."""
        seconds = self.timeout if asked.patience is None else asked.patience
        asked.stranded_until = monotonic() + seconds
        if asked.stranded_until < self._looks_at:
            self._looks_at = asked.stranded_until
            wake(self._busy)

    def _send_again(self, same_state: bool, same_broker: bool, away: float) -> None:
        """There is a connection again. `same_state`: the broker knows the answers that were given;
        `same_broker`: it is the one that gave them. `away`: for how long there was none."""
        link = self._link
        assert link is not None
        now = monotonic()
        uncertain = [asked for asked in self._asked.values() if asked.sent and asked.kept]
        # Another broker knows the newest answers only.
        known = same_broker or len(uncertain) <= ANSWERS_RESTORED
        for asked in list(self._asked.values()):
            if asked.abandoned:  # while there was no connection; whoever asked knows that it failed
                self._drop(asked)
                continue
            if asked.sent and asked.kept and asked.attempt:
                why = ""
                if not same_state or (asked.call.fleeting and not same_broker):
                    why = ", since it is another broker that answers now"
                elif away > RESUME_SECONDS / 2:
                    why = f", since it took {away:.0f} s until one answered, too long for answers"
                elif not known:
                    why = f", since more than {ANSWERS_RESTORED} were on their way"
                if why:
                    self._drop(asked)
                    self._settle(asked, None, self._uncertain(why))
                    continue
            call = asked.call
            if asked.ask is not None:
                left = None if asked.until is None else max(0.0, asked.until - now)
                call = asked.ask(left)
            asked.sent = True
            asked.stranded_until = NEVER
            link.send(self._packed(call, asked.msgid), False)

    def _fail_all(self, error: Error) -> None:
        """There will be no connection."""
        for asked in list(self._asked.values()):
            self._drop(asked)
            self._settle(asked, None, error)

    async def _look_at_deadlines(self) -> None:
        """Tell those who have waited for too long. One task for all: a timer for each request would
        take longer than all the rest here."""
        while True:
            self._busy = waker(self._loop)
            deadlines = (min(one.deadline, one.stranded_until) for one in self._asked.values())
            first = min(deadlines, default=NEVER)
            self._looks_at = first
            with anyio.move_on_after(max(0.0, first - monotonic())):
                await woken(self._busy)
                continue  # there is an earlier one
            now = monotonic()
            for asked in list(self._asked.values()):
                if min(asked.deadline, asked.stranded_until) <= now:
                    self._time_out(asked)

    def _time_out(self, asked: Asked) -> None:
        error: Error
        uncertain = asked.sent and asked.kept
        seconds = self.timeout if asked.patience is None else asked.patience
        if self._link is not None and self._link.greeted:
            then = "; nobody knows whether the request was carried out" if uncertain else ""
            error = RequestTimeout(f"no answer from the broker within {seconds:g} s{then}")
        elif uncertain:
            error = self._uncertain(f" ({self._unreachable})" if self._unreachable else "")
        else:
            error = self._unreachable or BrokerUnavailable(
                f"{self.address}: there was no connection within {seconds:g} s"
            )
        asked.deadline = asked.stranded_until = NEVER
        if not asked.sent:
            self._drop(asked)
        elif asked.ask is not None:
            self._notify(requests.cancel(asked.msgid))
        asked.settle(None, error)
        asked.waker = None
        asked.abandoned = True

    def _uncertain(self, then: str = "") -> Error:
        return BrokerUnavailable(
            f"{self.address}: the connection ended before it answered; nobody knows whether the "
            f"request was carried out, so it was not sent again{then}"
        )

    # --- what the sync client does otherwise --------------------------------------------------

    @contextlib.contextmanager
    def timeout_of(self, seconds: float) -> Iterator[None]:
        """Within the block, a request may take so many seconds, whatever the client's `timeout` is;
        also one of a task that is started in it.

        with client.timeout_of(0.5):
            await client.get("colour")
        """
        check_timeout(seconds)
        others = _timeouts.get() or {}
        token = _timeouts.set({**others, id(self): min(seconds, TIMEOUT_MOST)})
        try:
            yield
        finally:
            _timeouts.reset(token)

    @property
    def _patience(self) -> float:
        """Seconds that a request of this task may take."""
        own = _timeouts.get()
        return self.timeout if own is None else own.get(id(self), self.timeout)

    def _notice_fork(self) -> None:
        """A child after a fork cannot use this at all."""

    def _stay(self) -> None:
        """Keep a connection, also while nothing is asked: something is to go when none is left."""
        self._stays = True
        self._need_connection()

    def _owner(self) -> int:
        """Who holds a lock, in this client: the task. By a number that no other gets: what `id`
        gives a task another may have after its end, and would seem to hold its locks."""
        if threading.get_ident() != self._thread:
            self._check_usable()
        task: Any = asyncio.current_task() if self._loop is not None else _current_trio_task()
        number = self._owners.get(task)
        if number is None:
            number = self._owners[task] = next(self._owner_numbers)
        return number

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """What reads files, and takes a while."""
        return await anyio.to_thread.run_sync(partial(function, *args))

    async def _outcome(self, result: Awaitable[T] | T) -> T:
        """What a function of the user's has returned, async or not."""
        return await result if isawaitable(result) else result

    async def _give_way(self) -> None:
        """To other tasks, and to a cancellation."""
        await anyio.lowlevel.checkpoint()

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """What must be done although this task is being cancelled, which it is afterwards. A scope
        of anyio does not shield from `Task.cancel` of asyncio, so of `asyncio.timeout`."""
        me = self._owner()
        outer = me in self._steadfast
        self._steadfast.setdefault(me, False)
        try:
            with anyio.CancelScope(shield=True):
                yield
        finally:
            if not outer and self._steadfast.pop(me):
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()  # for it counts
                task.cancel()

    def _check_usable(self) -> None:
        if self._forks != len(FORKS):
            raise InvalidRequest(
                "this client is the parent's; a child after a fork needs one of its own"
            )
        if self._closed:
            raise InvalidRequest("this client is closed")
        if not self._thread:
            raise InvalidRequest(
                "this client is not connected: `async with udsbus.connect_async() as client:`"
            )
        if threading.get_ident() == self._thread:
            return
        raise InvalidRequest(
            "this client is used in another thread than that of its event loop; there, "
            "`asyncio.run_coroutine_threadsafe` or `anyio.from_thread.run` do it"
        )

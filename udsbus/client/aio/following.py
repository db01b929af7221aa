"""What an async client's user holds: watches and subscriptions."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from ...errors import Error, InvalidRequest
from ...limits import ASYNC_WATCH_BACKLOG, SUBSCRIPTION_BACKLOG
from ...messages import DISCONNECT
from ...wire.values import decode
from .. import requests
from ..backlog import Backlog
from ..following import (
    Change,
    Message,
    belong,
    key_of,
    read_told,
)
from ..lateness import Lateness
from ..requests import Call
from ..subscribing import RawMessage, SubscriptionCore
from ..subscribing import Step as MessageStep
from ..watching import State, Step, Told, WatchCore
from .asked import Waker, wake, waker, woken

if TYPE_CHECKING:
    from typing import Self

    from .base import AsyncBase

log = logging.getLogger("udsbus.client")

T = TypeVar("T")
Item = TypeVar("Item")
Taken = TypeVar("Taken")

_serials = itertools.count(1)


class AsyncFollower(Generic[T, Item]):
    """A watch or a subscription. `T` is what has come in, `Item` what the user gets of it."""

    def __init__(self, client: AsyncBase, backlog: Backlog[T]) -> None:
        self.serial = next(_serials)
        self.refusal: Error | None = None
        self.started = False
        """The broker has confirmed it, or refused it."""
        self._client = client  # kept alive for as long as this is followed
        self._backlog = backlog
        self._waiters: set[Waker] = set()
        """Of the tasks that wait until something comes."""
        self._begun = False
        self._confirmed = anyio.Event()

    @property
    def closed(self) -> bool:
        """Whether it has ended: by `close`, with its client, or refused by the broker."""
        return self._backlog.closed

    @property
    def waiting(self) -> int:
        """How much has come and was not taken yet."""
        return len(self._backlog)

    async def start(self) -> Self:
        """Wait until the broker has confirmed it. `async with` does that, and awaiting this.

        Raises what the broker refuses it with, RequestTimeout, BrokerUnavailable.
        """
        if not self.started:
            if not self._begun:
                self._begun = True
                self._client._follow(self)
            try:
                with anyio.move_on_after(self._client._patience):
                    await self._confirmed.wait()
                if not self.started:
                    raise self._client._not_in_time()
            except BaseException:
                self.close()
                raise
        if self.refusal is not None:
            raise self.refusal
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.start().__await__()

    async def get(self, timeout: float | None = None) -> Item | None:
        """The next one; None when none comes within `timeout` seconds or it is closed.

        Raises UnsupportedValue for a value that cannot be read; it goes on. When the broker refuses
        to take it up again after a lost connection, that is raised.
        """
        item = await self._next_of(self._backlog.take, timeout)
        return None if item is None else self._read(item)

    async def _next_of(
        self, take: Callable[[], Taken | None], timeout: float | None
    ) -> Taken | None:
        """What `take` takes from the backlog, as soon as there is something."""
        if timeout is not None and type(timeout) not in (int, float):
            raise InvalidRequest(f"timeout must be a number of seconds, not {timeout!r}")
        if not self.started:
            await self.start()
        item = take()
        if item is None and not self.closed:
            with anyio.move_on_after(timeout):
                while (item := take()) is None and not self.closed:
                    await self._something()
        if item is None:
            if self.closed and self.refusal is not None:
                raise self.refusal
            return None
        self._taken()
        return item

    async def _something(self) -> None:
        """Wait until something comes."""
        mine = waker(self._client._loop)
        self._waiters.add(mine)
        try:
            await woken(mine)
        finally:
            self._waiters.discard(mine)

    def close(self) -> None:
        """End it: nobody waits any longer, and the broker sends no more. Does not wait."""
        self._client._leave(self)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        item = await self.get()
        if item is None:
            raise StopAsyncIteration
        return item

    def _read(self, item: T) -> Item:
        raise NotImplementedError

    def _taken(self) -> None:
        """An item has been taken."""

    # --- called when something comes in ------------------------------------------------------

    def begin(self, ask: Ask, same_bus: bool) -> None:
        """On a connection that has just been made: ask for what is followed."""
        raise NotImplementedError

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        """What gives the request that tells the broker that this is over, or None when it does not
        know of it. Does not keep this alive."""
        raise NotImplementedError

    def notified(self, kind: str, params: list[Any]) -> None:
        """A notification of the broker, to be taken or ignored."""
        raise NotImplementedError

    def beat(self, revision: int) -> None:
        """The broker has told of everything up to `revision`."""

    def interrupted(self, heard: float) -> None:
        """The connection is lost, over which something came at `heard` for the last time."""
        raise NotImplementedError

    @property
    def live(self) -> bool:
        """Everything that comes over the connection as it is now goes on to the user."""
        raise NotImplementedError

    def refuse(self, error: Error) -> None:
        if self.closed:
            return
        self.refusal = error
        if self.started:
            log.error("a watch or subscription could not be taken up again: %s", error)
        self.wake()

    def wake(self) -> None:
        """It is over: nobody shall wait any longer."""
        self._backlog.close()
        self._has_started()
        self._wake_all()

    def _put(self, items: list[T]) -> None:
        if items:
            self._backlog.put(items, self._client._pulse.heard)
            self._wake_all()

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            wake(waiter)

    def _has_started(self) -> None:
        self.started = True
        self._confirmed.set()


Answer = Callable[[Any], None]
Ask = Callable[[Call[Any], Answer], None]


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    What = TypeVarWithDefault("What", default=Change)
    """What a watch gives, see `Watch`."""
else:
    What = TypeVar("What")


class AsyncWatch(AsyncFollower[Told, What], Generic[What]):
    """The changes of the keys that match a pattern, in order, without a gap.

        async with client.watch("config/**") as watch:
            async for change in watch: ...

    A lost connection is taken up again by itself; when changes were missed meanwhile, the present
    state follows (`kind == "present"`, and `deleted` for keys that are gone) and `started_over`
    counts it. When you take changes more slowly than they come, it lets go until you have caught
    up, and then goes on where it was, or starts over: so it takes no more memory than its backlog.
    """

    def __init__(self, client: AsyncBase, core: WatchCore, conflate: bool) -> None:
        backlog = Backlog[Told](BACKLOG_MOST, key_of, conflate)
        super().__init__(client, backlog)
        self._core = core
        self._lateness = Lateness()
        self._next: tuple[Ask, Call[Any]] | None = None
        """The next page of a list, which waits until there is room for it."""
        self.let_go = 0
        """How often it was ahead of you, and has let go."""
        self._away = False
        self._complete = 0.0
        """When it was interrupted, the time up to which it had everything."""

    @property
    def pattern(self) -> str:
        return self._core.pattern

    @property
    def started_over(self) -> int:
        """How often changes were missed and the present state was told instead."""
        return self._core.started_over

    @property
    def skipped(self) -> int:
        """How many changes were left out for a newer one of the same key: by this watch, or by the
        broker, which counts for all that this client watches."""
        return self._backlog.skipped + self._lateness.left_out

    @property
    def conflated(self) -> int:
        """How often changes began to be left out, because this client did not take them from the
        broker."""
        return self._lateness.conflations

    @property
    def lag(self) -> float:
        """Seconds by which what you have taken may be behind the bus, at most.

        While something waits to be taken, the age of the oldest of it. Else the time since the
        broker was last heard of: so it grows while all is quiet, and begins anew with each change
        and each heartbeat. While the connection is lost, or hangs, it goes on growing, until what
        was missed has come. What the system has not handed to this process yet is not counted.
        """
        oldest = self._backlog.oldest
        if oldest is None:
            oldest = self._client._pulse.heard if self._core.live else self._complete
        return max(0.0, monotonic() - oldest)

    @property
    def state(self) -> State:
        """As of a `Watch`. It is `interrupted` too while it has let go."""
        if self.closed:
            return "closed"
        state, link = self._core.state, self._client._link
        if state in ("listing", "live") and (self._away or link is None or not link.greeted):
            return "interrupted"
        return state

    def __repr__(self) -> str:
        return f"<udsbus.AsyncWatch {self.pattern!r} ({self.state})>"

    async def get_transaction(self, timeout: float | None = None) -> list[What]:
        """All changes of the next revision that has any for this watch; empty when none comes
        within `timeout` seconds or the watch is closed. More is said at `Watch`."""
        take = partial(self._backlog.take_together, belong)
        group = await self._next_of(take, timeout)
        found = []
        for index, told in enumerate(group or ()):
            try:
                found.append(self._read(told))
            except BaseException:
                assert group is not None
                self._backlog.put_back(
                    group[:index] + group[index + 1 :], self._client._pulse.heard
                )
                raise
        return found

    def _read(self, item: Told) -> What:
        return read_told(self.pattern, item)  # type: ignore[return-value]

    def _taken(self) -> None:
        if (self._away or self._next is not None) and len(
            self._backlog
        ) <= ASYNC_WATCH_BACKLOG // 2:
            if self._next is not None:
                (ask, call), self._next = self._next, None
                ask(call, partial(self._go_on, ask, self._core.listed))
            else:
                self._away = False
                self._client._begin_again(self)

    def begin(self, ask: Ask, same_bus: bool) -> None:
        if self._away:
            self._missed_bus = self._missed_bus or not same_bus
            self._client._told_of.pop(self.serial, None)  # nothing is asked: it need not beat
            return
        self._next = None
        self._lateness.connected()
        same = same_bus and not self._missed_bus
        self._missed_bus = False
        call = self._core.start(session=self._client.session, same_bus=same)
        ask(call, partial(self._go_on, ask, self._core.started))

    _missed_bus = False
    """While it was away, the broker has lost the revisions that this has seen."""

    def _go_on(self, ask: Ask, read: Callable[[Any], Step], answer: Any) -> None:
        step = read(answer)
        self._put(step.told)
        if step.next is not None:
            if len(self._backlog) > ASYNC_WATCH_BACKLOG:
                self._next = ask, step.next
                self._has_started()  # there is room only when what has come is taken
            else:
                ask(step.next, partial(self._go_on, ask, self._core.listed))
        elif self._core.live:
            self._has_started()

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unwatch(core.number)

    def notified(self, kind: str, params: list[Any]) -> None:
        self._lateness.notified(kind, params)
        if self._away:
            return
        self._put(self._core.notified(kind, params))
        if len(self._backlog) > ASYNC_WATCH_BACKLOG and self._core.live:
            self._away = True
            self.let_go += 1
            self._client._let_go(self.serial)
            self.interrupted(self._client._pulse.heard)

    def beat(self, revision: int) -> None:
        self._core.beat(revision)

    def interrupted(self, heard: float) -> None:
        if self._core.live:
            self._complete = heard
        self._next = None  # a page of a list that begins anew
        self._core.lost()

    @property
    def live(self) -> bool:
        return self._core.live


BACKLOG_MOST = 1 << 60
"""It lets go long before that."""


class AsyncSubscription(AsyncFollower[RawMessage, Message]):
    """The messages published to the topics that match, from now on; before them, what was retained.

        async with client.subscribe("news/*") as subscription:
            async for message in subscription: ...

    Messages are not kept by the broker, but for the last one of a topic that was published with
    `retain`. What is published while the connection is lost is missed, and `interruptions` counts
    how often that may have happened; what was retained meanwhile is told afterwards. When you take
    messages more slowly than they come, the oldest are dropped: see `dropped`. When this client
    does not take them from the broker, its `policy` decides.
    """

    def __init__(self, client: AsyncBase, core: SubscriptionCore) -> None:
        super().__init__(client, Backlog[RawMessage](SUBSCRIPTION_BACKLOG))
        self._core = core
        self.interruptions = 0
        self._lateness = Lateness()

    @property
    def patterns(self) -> tuple[str, ...]:
        return self._core.patterns

    @property
    def policy(self) -> str:
        return self._core.policy

    def __repr__(self) -> str:
        state = "closed" if self.closed else "live" if self.live else "interrupted"
        return f"<udsbus.AsyncSubscription {', '.join(map(repr, self.patterns))} ({state})>"

    @property
    def dropped(self) -> int:
        """How many messages were dropped because they were not taken in time: by this subscription,
        or by the broker, which counts for all that this client subscribes to."""
        by_broker = 0 if self.policy == DISCONNECT else self._lateness.dropped
        return self._backlog.skipped + by_broker

    def _read(self, item: RawMessage) -> Message:
        return Message(item.topic, decode(item.message), item.retained)

    def begin(self, ask: Ask, same_bus: bool) -> None:
        self._lateness.connected()
        ask(self._core.start(same_bus=same_bus), partial(self._begun_anew, ask))

    def _begun_anew(self, ask: Ask, answer: Any) -> None:
        if self.started:
            self.interruptions += 1
        self._go_on(ask, self._core.started, answer)

    def _go_on(self, ask: Ask, read: Callable[[Any], MessageStep], answer: Any) -> None:
        step = read(answer)
        self._put(step.messages)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        else:
            self._has_started()

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unsubscribe(core.number)

    def notified(self, kind: str, params: list[Any]) -> None:
        if kind != "message":
            self._lateness.notified(kind, params)
            return
        self._put(self._core.message(*params))

    def interrupted(self, heard: float) -> None:
        self._core.interrupt()

    @property
    def live(self) -> bool:
        return self._core.live

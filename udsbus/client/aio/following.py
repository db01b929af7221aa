"""What an async client's user holds: watches and subscriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from ...errors import Error, InvalidRequest
from ...limits import ASYNC_WATCH_BACKLOG, SUBSCRIPTION_BACKLOG
from ...wire.values import decode
from ..followed import Ask, Followed, FollowedChanges, FollowedMessages, Message, What, belong
from ..requests import Call
from ..subscribing import RawMessage, SubscriptionCore
from ..watching import State, Step, Told, WatchCore
from .asked import Waker, wake, waker, woken

if TYPE_CHECKING:
    from typing import Self

    from .base import AsyncBase

log = logging.getLogger("udsbus.client")

Raw = TypeVar("Raw")
Item = TypeVar("Item")
Taken = TypeVar("Taken")


class AsyncFollower(Followed[Raw], Generic[Raw, Item]):
    """A watch or a subscription. `Raw` is what has come in, `Item` what the user gets of it."""

    def __init__(self, client: AsyncBase) -> None:
        super().__init__(client)
        self._client = client  # kept alive for as long as this is followed
        self._waiters: set[Waker] = set()
        """Of the tasks that wait until something comes."""
        self._begun = False
        self._confirmed = anyio.Event()

    @property
    def started(self) -> bool:
        return self._confirmed.is_set()

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

        Raises UnsupportedValue for a value that cannot be read, and of a `strict` watch
        MissedChanges once for each gap; it goes on. When the broker refuses to take it up again
        after a lost connection, that is raised.
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

    def _read(self, item: Raw) -> Item:
        raise NotImplementedError

    def _taken(self) -> None:
        """An item has been taken."""

    # --- called when something comes in ------------------------------------------------------

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

    def _put(self, items: list[Raw]) -> None:
        if items:
            self._backlog.put(items, self._client._pulse.heard)
            self._wake_all()

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            wake(waiter)

    def _has_started(self) -> None:
        self._confirmed.set()


class AsyncWatch(FollowedChanges[What], AsyncFollower[Told, What], Generic[What]):
    """The changes of the keys that match a pattern, in order, without a gap.

        async with client.watch("config/**") as watch:
            async for change in watch: ...

    A lost connection is taken up again by itself; when changes were missed meanwhile, the present
    state follows (`kind == "present"`, and `deleted` for keys that are gone) and `started_over`
    counts it. When you take changes more slowly than they come, it lets go until you have caught
    up, and then goes on where it was, or starts over: so it takes no more memory than its backlog.
    """

    def __init__(
        self,
        client: AsyncBase,
        core: WatchCore,
        conflate: bool,
        read: Callable[[bytes], Any] = decode,
    ) -> None:
        super().__init__(client, core, BACKLOG_MOST, conflate, read)
        self._next: tuple[Ask, Call[Any]] | None = None
        """The next page of a list, which waits until there is room for it."""
        self.let_go = 0
        """How often it was ahead of you, and has let go."""
        self._away = False
        self._missed_bus = False
        """While it was away, the broker has lost the revisions that this has seen."""

    @property
    def state(self) -> State:
        """As of a `Watch`. It is `interrupted` too while it has let go."""
        state, link = super().state, self._client._link
        if state in ("listing", "live") and (self._away or link is None or not link.greeted):
            return "interrupted"
        return state

    async def get_transaction(self, timeout: float | None = None) -> list[What]:
        """All changes of the next revision that has any for this watch; empty when none comes
        within `timeout` seconds or the watch is closed. More is said at `Watch`."""
        group = await self._next_of(partial(self._backlog.take_together, belong), timeout)
        return self._read_together(group or [])

    @property
    def _heard(self) -> float:
        return self._client._pulse.heard

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

    def notified(self, kind: str, params: list[Any]) -> None:
        told = [] if self._away else self._core.notified(kind, params)
        if not told:
            self._lateness.notified(kind, params)
            return
        self._put(told)
        if len(self._backlog) > ASYNC_WATCH_BACKLOG and self._core.live:
            self._away = True
            self.let_go += 1
            self._client._let_go(self.serial)
            self.interrupted(self._client._pulse.heard)

    def interrupted(self, heard: float) -> None:
        self._next = None  # a page of a list that begins anew
        super().interrupted(heard)


BACKLOG_MOST = 1 << 60
"""It lets go long before that."""


class AsyncSubscription(FollowedMessages, AsyncFollower[RawMessage, Message]):
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
        super().__init__(client, core, SUBSCRIPTION_BACKLOG)

"""How an async client begins, follows what happens, and ends."""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio

from ...errors import Error, InvalidRequest, RequestTimeout
from ...limits import CALLS_GRACE, HEARTBEAT_SECONDS, REQUEST_TIMEOUT
from ...patterns import check_name, check_pattern
from ...wire.values import decode
from .. import requests
from ..binding import MISSING
from ..followed import Change, ChangeKind, Message, Policy
from ..requests import Call
from ..subscribing import SubscriptionCore
from ..watching import CaughtUp, WatchCore
from .asked import NEVER
from .bound import AsyncBound
from .connected import AsyncConnected
from .following import AsyncFollower, AsyncSubscription, AsyncWatch
from .holding import AsyncHoldings
from .methods import AsyncMethods

if TYPE_CHECKING:
    from typing import Self

    from ...services.aio.calling import AsyncCalls
    from ...services.aio.serving import AsyncServed

log = logging.getLogger("udsbus.client")

Function = Callable[[Change], Awaitable[object] | object]
Called = TypeVar("Called", bound=Callable[[Change], Awaitable[object] | object])
T = TypeVar("T")
Heard = TypeVar("Heard", bound=Callable[[Message], Awaitable[object] | object])
Kicked = TypeVar("Kicked", bound=Callable[[], object])


class AsyncBase(AsyncConnected, AsyncMethods):
    """What `AsyncClient` builds on. Used with `async with`, by any number of tasks of one event
    loop; no task of it is left when the block has ended."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        timeout: float = REQUEST_TIMEOUT,
        autostart: bool = False,
        metadata: Any = None,
        heartbeat: float | None = HEARTBEAT_SECONDS,
        cache: bool = True,
    ) -> None:
        super().__init__(address, name, timeout, autostart, metadata, heartbeat, cache)
        self._served: list[AsyncServed] = []
        self._calling: AsyncCalls | None = None
        self.holdings = AsyncHoldings(self)
        """The locks that are held; for `udsbus.primitives`."""
        self._followers: dict[int, weakref.ref[AsyncFollower[Any, Any]]] = {}
        """By serial number. Weak: a watch that nobody holds any more is over."""
        self._told_of: dict[int, Callable[[], Call[Any] | None]] = {}
        """What the broker was asked for on this very connection, by serial number, and how to tell
        it that it is over."""
        self._dropped: deque[int] = deque()
        """The serial numbers of those that nobody holds any more."""
        self._when_kicked: list[Callable[[], object]] = []

    # --- what happens -----------------------------------------------------------------------

    @overload
    def watch(
        self,
        pattern: str,
        *,
        from_revision: int | None = ...,
        initial: Literal[False] = ...,
        conflate: bool = ...,
        kinds: Iterable[ChangeKind] | None = ...,
        ignore_own: bool = ...,
        previous: bool = ...,
        strict: bool = ...,
    ) -> AsyncWatch[Change]: ...
    @overload
    def watch(
        self,
        pattern: str,
        *,
        from_revision: int | None = ...,
        initial: bool,
        conflate: bool = ...,
        kinds: Iterable[ChangeKind] | None = ...,
        ignore_own: bool = ...,
        previous: bool = ...,
        strict: bool = ...,
    ) -> AsyncWatch[Change | CaughtUp]: ...
    def watch(
        self,
        pattern: str,
        *,
        from_revision: int | None = None,
        initial: bool = False,
        conflate: bool = False,
        kinds: Iterable[ChangeKind] | None = None,
        ignore_own: bool = False,
        previous: bool = False,
        strict: bool = False,
    ) -> AsyncWatch[Any]:
        """Follow the changes of the keys that match, from now on; or from after `from_revision`.

        It begins with `async with`, or when it is awaited. `initial`: first tell what is there
        (`kind == "present"`), then `CaughtUp`, then what changes, without a gap or a double.
        `conflate`: of changes not taken yet, only the newest of each key. `kinds`: only changes of
        these. `ignore_own`: none that this client has made. `previous`: with the value that there
        was before each change. What is told of a state, at the beginning or after changes were
        missed, is all that is there, whatever the `kinds` and whoever made it. `strict`: when
        changes were missed, MissedChanges is raised before that.
        """
        return self._watch(
            pattern, from_revision, initial, conflate, kinds, ignore_own, previous, strict
        )

    def _watch(
        self,
        pattern: str,
        from_revision: int | None,
        initial: bool,
        conflate: bool = False,
        kinds: Iterable[str] | None = None,
        ignore_own: bool = False,
        previous: bool = False,
        strict: bool = False,
        marks: bool = True,
        read: Callable[[bytes], Any] = decode,
    ) -> AsyncWatch[Any]:
        self._check_open()
        core = WatchCore(
            pattern,
            from_revision=from_revision,
            initial=initial,
            kinds=kinds,
            ignore_own=ignore_own,
            previous=previous,
            strict=strict,
            marks=marks,
        )
        return AsyncWatch(self, core, conflate, read)

    @overload
    def bind(self, key: str, into: type[T], *, default: T = ...) -> AsyncBound[T]: ...
    @overload
    def bind(self, key: str, into: Any = None, *, default: Any = ...) -> AsyncBound[Any]: ...
    def bind(self, key: str, into: Any = None, *, default: Any = MISSING) -> AsyncBound[Any]:
        """An object whose `value` is always the newest one of `key`, made into an `into`: a
        dataclass, a pydantic model, a TypedDict, or whatever else pydantic can check.

            async with client.bind("config/app", into=AppConfig) as config:
                serve(config.value.workers)

        It begins with `async with`, or when it is awaited. A value that is no `into` is not taken:
        the one before it stays, and `config.error` and the log say why. `default` is the value
        while the key is not there. Raises SchemaViolation when what is there now is no `into`, and
        Conflict when nothing is, unless there is a default; MissingExtra without the extra `bind`
        if there is an `into`.
        """
        check_name(key)
        return AsyncBound(self, key, into, default)

    def subscribe(
        self,
        *patterns: str,
        policy: Policy = "drop_oldest",
        retained: bool = True,
        echo: bool = True,
    ) -> AsyncSubscription:
        """Receive the messages published from now on to the topics that match. It begins with
        `async with`, or when it is awaited.

        `retained`: first the last message of each of them that was published with `retain`
        (`Message.retained` tells them apart). `echo`: also what this client publishes itself.
        `policy` says what the broker does when this process does not take them as they come, and
        megabytes of them wait: `drop_oldest` drops the oldest, and `dropped` counts them;
        `disconnect` ends the connection, which comes back by itself, and `interruptions` counts
        that; `block` lets publishers wait that are ready to, and drops what others publish.
        """
        self._check_open()
        session = self.session
        core = SubscriptionCore(
            patterns, policy=policy, retained=retained, echo=echo, own_session=lambda: session
        )
        return AsyncSubscription(self, core)

    @property
    def in_sync(self) -> bool:
        """Whether what this client follows is up to date, as far as it can know: each watch and
        subscription is live on a connection over which the broker was heard of within the last two
        heartbeats. True when nothing is followed, for then nothing can be behind.

        Asks nobody. What has come and was not taken yet is no matter here: see `AsyncWatch.lag`.
        """
        followers = self._following()
        if not followers:
            return True
        if self._link is None or not self._link.greeted or not self._pulse.is_fresh(monotonic()):
            return False
        return all(follower.live for follower in followers)

    @overload
    def on_change(self, pattern: str, *, initial: bool = ...) -> Callable[[Called], Called]: ...
    @overload
    def on_change(
        self, pattern: str, function: Function, *, initial: bool = ...
    ) -> AsyncWatch[Change]: ...
    def on_change(
        self, pattern: str, function: Function | None = None, *, initial: bool = False
    ) -> AsyncWatch[Change] | Callable[[Called], Called]:
        """Call a function, async or not, with each `Change` of the keys that match; a decorator.

            @client.on_change("config/**")
            async def reload(change): ...

        Each has a task of its own, which ends with the client, and is called for one change after
        the other. An exception is logged and the watch goes on. With `function` it returns the
        watch, to close it, or to await until it has begun.
        """
        check_pattern(pattern)
        if function is not None:
            return self._call_for(pattern, function, initial)

        def decorate(function: Called) -> Called:
            self._call_for(pattern, function, initial)
            return function

        return decorate

    def _call_for(
        self,
        pattern: str,
        function: Function,
        initial: bool,
        read: Callable[[bytes], Any] = decode,
    ) -> AsyncWatch[Change]:
        if not callable(function):
            raise InvalidRequest(f"on_change calls a function, not {type(function).__name__}")
        self._check_usable()
        watch: AsyncWatch[Change] = self._watch(pattern, None, initial, marks=False, read=read)
        self._tasks.start_soon(self._call_with_each, watch, function, f"on_change({pattern!r})")
        return watch

    @overload
    def on_message(
        self, pattern: str, *, policy: Policy = ..., retained: bool = ..., echo: bool = ...
    ) -> Callable[[Heard], Heard]: ...
    @overload
    def on_message(
        self,
        pattern: str,
        function: Callable[[Message], Awaitable[object] | object],
        *,
        policy: Policy = ...,
        retained: bool = ...,
        echo: bool = ...,
    ) -> AsyncSubscription: ...
    def on_message(
        self,
        pattern: str,
        function: Callable[[Message], Awaitable[object] | object] | None = None,
        *,
        policy: Policy = "drop_oldest",
        retained: bool = True,
        echo: bool = True,
    ) -> AsyncSubscription | Callable[[Heard], Heard]:
        """Call a function, async or not, with each `Message` of the topics that match; a decorator.

            @client.on_message("news/*")
            async def print_it(message): ...

        As with `on_change`; the options are those of `subscribe`. With `function` it returns the
        subscription, to close it, or to await until it has begun.
        """
        check_pattern(pattern)

        def call(function: Callable[[Message], Awaitable[object] | object]) -> AsyncSubscription:
            if not callable(function):
                raise InvalidRequest(f"on_message calls a function, not {type(function).__name__}")
            self._check_usable()
            subscription = self.subscribe(pattern, policy=policy, retained=retained, echo=echo)
            called = f"on_message({pattern!r})"
            self._tasks.start_soon(self._call_with_each, subscription, function, called)
            return subscription

        if function is not None:
            return call(function)

        def decorate(function: Heard) -> Heard:
            call(function)
            return function

        return decorate

    async def _call_with_each(
        self, source: AsyncFollower[Any, Any], function: Callable[[Any], Any], called: str
    ) -> None:
        while not source.closed:
            try:
                item = await source.get()
                if item is not None:
                    result = function(item)
                    if isawaitable(result):
                        await result
            except Exception:
                if source.refusal is not None:
                    log.exception("%s has ended", called)
                    return
                log.exception(
                    "%s: %r failed; it is called for the next all the same", called, function
                )

    def _follow(self, follower: AsyncFollower[Any, Any]) -> None:
        self._check_usable()
        serial = follower.serial

        def dropped(_: object) -> None:  # the collector may call this in any thread
            self._dropped.append(serial)

        self._followers[serial] = weakref.ref(follower, dropped)
        self._begin_again(follower)
        self._need_connection()

    def _begin_again(self, follower: AsyncFollower[Any, Any]) -> None:
        if self._link is not None and self._link.greeted:
            self._begin_following(follower, True)

    def _leave(self, follower: AsyncFollower[Any, Any]) -> None:
        self._followers.pop(follower.serial, None)
        self._let_go(follower.serial)
        follower.wake()

    def _let_go(self, serial: int) -> None:
        """Tell the broker that something is not followed, for now or for good."""
        cease = self._told_of.pop(serial, None)
        call = None if cease is None else cease()
        if call is not None:
            self._notify(call)

    def _follow_again(self, same_bus: bool) -> None:
        self._told_of.clear()
        for follower in self._following():
            self._begin_following(follower, same_bus)

    def _following(self) -> list[AsyncFollower[Any, Any]]:
        """What is followed, and still held by somebody."""
        found = [reference() for reference in list(self._followers.values())]
        return [follower for follower in found if follower is not None]

    def _follows(self) -> bool:
        return bool(self._told_of)

    def _ended(self, why: str) -> None:
        for follower in self._following():
            follower.interrupted(self._pulse.heard)
        super()._ended(why)

    def _begin_following(self, follower: AsyncFollower[Any, Any], same_bus: bool) -> None:
        serial = follower.serial
        cease = self._told_of[serial] = follower.ceaser()
        refuse = follower.refuse

        def ask(call: Call[Any], answer: Callable[[Any], None]) -> None:
            def answered(result: Any) -> None:
                answer(result)
                if self._told_of.get(serial) is not cease:  # it was left before it had an answer
                    over = cease()
                    if over is not None:
                        self._notify(over)

            if self._told_of.get(serial) is cease:
                asked = self._send(call, NEVER, False)
                asked.reply, asked.refused = answered, refuse

        try:
            follower.begin(ask, same_bus)
        except (ValueError, TypeError, OverflowError) as error:
            follower.refuse(InvalidRequest(f"this cannot be asked for: {error}"))

    def _notified(self, kind: str, params: list[Any]) -> None:
        super()._notified(kind, params)
        while self._dropped:
            serial = self._dropped.popleft()
            self._followers.pop(serial, None)
            self._let_go(serial)
        if kind == "closing":
            if self._was_kicked:
                self._tell_kicked()
            return
        if kind == "ping":
            self._notify(requests.pong(params[0]))
            for follower in self._following():
                follower.beat(params[0])
            return
        for reference in list(self._followers.values()):  # not by `_following`: all comes this way
            if (follows := reference()) is not None:
                follows.notified(kind, params)

    def _wanted(self) -> bool:
        return super()._wanted() or bool(self._followers)

    def _not_in_time(self) -> Error:
        return self._unreachable or RequestTimeout(
            f"no answer from the broker within {self._patience:g} s"
        )

    # --- begins and ends ----------------------------------------------------------------------

    def on_kick(self, function: Kicked) -> Kicked:
        """Call a function when this client is kicked; a decorator. At once, in the event loop, so
        it must not wait for anything."""
        if not callable(function):
            raise InvalidRequest(f"on_kick calls a function, not {type(function).__name__}")
        self._when_kicked.append(function)
        self._stay()
        return function

    def _tell_kicked(self) -> None:
        for function in self._when_kicked:
            try:
                function()
            except Exception:
                log.exception("%r failed, which was called because of a kick", function)

    async def __aenter__(self) -> Self:
        if self._thread or self._closed:
            raise InvalidRequest("this client has begun already; each block needs one of its own")
        self._begin()
        self._tasks, self._scopes = anyio.create_task_group(), set()
        await self._tasks.__aenter__()
        try:
            await self._connect_first()
            self._start(self._keep_connected)
            self._start(self._look_at_deadlines)
        except BaseException as error:
            self._closed = True
            await self._end_tasks(error)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        finally:  # which may be cancelled, see `_undisturbed`
            await self._end_tasks(error)

    async def serve(self, *, grace: float = CALLS_GRACE) -> None:
        """Serve what `service` has declared until SIGTERM or Ctrl-C comes; then take no more calls,
        finish those in hand within `grace` seconds, and return. For the main thread."""
        from ...services.aio.serving import serve_until_told

        await serve_until_told(self._served, grace)

    async def close(self) -> None:
        """Close the connection and end every watch. May be called twice, and by a task of its own;
        the end of the `async with` block does it."""
        if self._closed or not self._thread:
            self._closed = True
            return
        served, self._served = self._served, []
        try:
            if served:  # while others can be told of it
                from ...services.aio.serving import stop_all

                await stop_all(served, self.timeout)
        finally:  # which may be cancelled
            await self._close()

    async def _own_offers(self) -> None:
        """Wait until all that this client serves is offered."""
        for each in self._served:
            await each.offered()

    async def _close(self) -> None:
        if self._calling is not None:
            self._calling.close()
        for follower in self._following():
            self._leave(follower)
        try:
            with anyio.CancelScope(shield=True):
                await self._say_goodbye()
        finally:
            self._closed = True
            self._fail_all(InvalidRequest("this client is closed"))
            self._hang_up()

    async def _end_tasks(self, error: BaseException | None) -> None:
        """No task is left after this. What the block raised is not put into an exception group, but
        it is the group's to know whether it was cancelled because one of its tasks failed."""
        self._hang_up()
        for scope in list(self._scopes):
            scope.cancel()
        self._tasks.cancel_scope.cancel()
        if isinstance(error, anyio.get_cancelled_exc_class()):
            await self._tasks.__aexit__(type(error), error, error.__traceback__)
        else:
            await self._tasks.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        raise TypeError("an async client is used with `async with`")

    def __exit__(self, *_: object) -> None:
        """There is none without `async`."""

    def __reduce__(self) -> Any:
        raise TypeError("an async client cannot be pickled; the other process needs one of its own")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._thread else "not connected"
        return f"<udsbus.AsyncClient {self.address} ({state})>"

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this client is closed")

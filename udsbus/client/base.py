"""How a sync client begins, follows what happens, survives a fork, and ends.

Watches and subscriptions share a connection of their own and one background thread, which start
with the first of them (`events.py`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..errors import InvalidRequest
from ..limits import CALLS_GRACE, HEARTBEAT_SECONDS, REQUEST_TIMEOUT
from ..patterns import check_name, check_pattern
from ..wire.values import decode
from . import unpickling
from .binding import MISSING
from .bound import Bound
from .callbacks import Callbacks
from .events import Events
from .followed import Change, ChangeKind, Message, Policy
from .following import Subscription, Watch
from .forks import told
from .holding import Holdings
from .methods import Methods
from .requests import Call
from .subscribing import SubscriptionCore
from .watching import CaughtUp, WatchCore

if TYPE_CHECKING:
    from typing import Self

    from ..services.calling import Calls
    from ..services.serving import Served

Function = Callable[[Change], object]
T = TypeVar("T")
Heard = TypeVar("Heard", bound=Callable[[Message], object])
Kicked = TypeVar("Kicked", bound=Callable[[], object])


class Base(Methods):
    """What `Client` builds on. May be used by many threads, and after a fork in the child too."""

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
        this = weakref.ref(self)

        def hello() -> Call[dict[str, Any]]:
            client = this()
            if client is None:
                raise InvalidRequest("nobody holds this client any more")
            return client._hello(heartbeat=heartbeat)

        self._events = Events(self.address, self.timeout, hello, heartbeat)
        weakref.finalize(self, self._events.abandon).atexit = False
        self._callbacks = Callbacks(self._events)
        self.holdings = Holdings(self)
        """The locks that are held; for `udsbus.primitives`."""
        self._served: list[Served] = []
        self._calling: Calls | None = None
        self._begin()
        told.add(self)
        self.origin = self._session
        """The session of the client that this one stands for in its process; for `unpickling`."""
        unpickling.known[self.origin] = self

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
    ) -> Watch[Change]: ...
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
    ) -> Watch[Change | CaughtUp]: ...
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
    ) -> Watch[Any]:
        """Follow the changes of the keys that match, from now on; or from after `from_revision`.

        `initial`: first tell what is there (`kind == "present"`), then `CaughtUp`, then what
        changes, without a gap or a double. `conflate`: of changes not taken yet, only the newest of
        each key. `kinds`: only changes of these. `ignore_own`: none that this client has made.
        `previous`: with the value that there was before each change. What is told of a state, at
        the beginning or after changes were missed, is all that is there, whatever the `kinds` and
        whoever made it. `strict`: when changes were missed, MissedChanges is raised before that.
        """
        return self._watch(
            pattern, from_revision, initial, conflate, kinds, ignore_own, previous, strict
        )

    @overload
    def on_change(self, pattern: str, *, initial: bool = ...) -> Callable[[Function], Function]: ...
    @overload
    def on_change(
        self, pattern: str, function: Function, *, initial: bool = ...
    ) -> Watch[Change]: ...
    def on_change(
        self, pattern: str, function: Function | None = None, *, initial: bool = False
    ) -> Watch[Change] | Callable[[Function], Function]:
        """Call a function with each `Change` of the keys that match; a decorator.

            @client.on_change("config/**")
            def reload(change): ...

        The functions of a client are called one at a time, in a thread of their own, and may use
        the client. An exception is logged and the watch goes on. That thread ends with the
        program: it does not keep it alive. With `function` it returns the Watch, to close it.
        """
        check_pattern(pattern)
        if function is not None:
            return self._watch(pattern, None, initial, function=function)

        def decorate(function: Function) -> Function:
            self._watch(pattern, None, initial, function=function)
            return function

        return decorate

    @overload
    def bind(self, key: str, into: type[T], *, default: T = ...) -> Bound[T]: ...
    @overload
    def bind(self, key: str, into: Any = None, *, default: Any = ...) -> Bound[Any]: ...
    def bind(self, key: str, into: Any = None, *, default: Any = MISSING) -> Bound[Any]:
        """An object whose `value` is always the newest one of `key`, made into an `into`: a
        dataclass, a pydantic model, a TypedDict, or whatever else pydantic can check.

            config = client.bind("config/app", into=AppConfig)
            serve(config.value.workers)

        A value that is no `into` is not taken: the one before it stays, and `config.error` and the
        log say why. `default` is the value while the key is not there. Raises SchemaViolation when
        what is there now is no `into`, and Conflict when nothing is, unless there is a default;
        MissingExtra without the extra `bind` if there is an `into`.
        """
        check_name(key)
        return Bound(self, key, into, default)

    def subscribe(
        self,
        *patterns: str,
        policy: Policy = "drop_oldest",
        retained: bool = True,
        echo: bool = True,
    ) -> Subscription:
        """Receive the messages published from now on to the topics that match.

        `retained`: first the last message of each of them that was published with `retain`
        (`Message.retained` tells them apart). `echo`: also what this client publishes itself, by
        whichever thread.
        `policy` says what the broker does when this process does not take them as they come, and
        megabytes of them wait: `drop_oldest` drops the oldest, and `dropped` counts them;
        `disconnect` ends the connection, which comes back by itself, and `interruptions` counts
        that; `block` lets publishers wait that are ready to, and drops what others publish.
        """
        return self._subscribe(patterns, policy, retained, echo)

    @overload
    def on_message(
        self, pattern: str, *, policy: Policy = ..., retained: bool = ..., echo: bool = ...
    ) -> Callable[[Heard], Heard]: ...
    @overload
    def on_message(
        self,
        pattern: str,
        function: Callable[[Message], object],
        *,
        policy: Policy = ...,
        retained: bool = ...,
        echo: bool = ...,
    ) -> Subscription: ...
    def on_message(
        self,
        pattern: str,
        function: Callable[[Message], object] | None = None,
        *,
        policy: Policy = "drop_oldest",
        retained: bool = True,
        echo: bool = True,
    ) -> Subscription | Callable[[Heard], Heard]:
        """Call a function with each `Message` of the topics that match; a decorator.

            @client.on_message("news/*")
            def print_it(message): ...

        As with `on_change`; the options are those of `subscribe`. With `function` it returns the
        Subscription, to close it.
        """
        check_pattern(pattern)
        if function is not None:
            return self._subscribe((pattern,), policy, retained, echo, function)

        def decorate(function: Heard) -> Heard:
            self._subscribe((pattern,), policy, retained, echo, function)
            return function

        return decorate

    @property
    def in_sync(self) -> bool:
        """Whether what this client follows is up to date, as far as it can know: each watch and
        subscription is live on a connection over which the broker was heard of within the last two
        heartbeats. True when nothing is followed, for then nothing can be behind.

        Asks nobody. What has come and was not taken yet is no matter here: see `Watch.lag`.
        """
        return self._events.in_sync

    # --- ends -------------------------------------------------------------------------------

    def on_kick(self, function: Kicked) -> Kicked:
        """Call a function when this client is kicked; a decorator. At once, in the thread that
        reads its events, so it must not wait for anything."""
        if not callable(function):
            raise InvalidRequest(f"on_kick calls a function, not {type(function).__name__}")
        self._events.when_kicked.append(function)
        self._stay()
        return function

    def serve(self, *, grace: float = CALLS_GRACE) -> None:
        """Serve what `service` has declared until SIGTERM or Ctrl-C comes; then take no more calls,
        finish those in hand within `grace` seconds, and return. For the main thread, which has
        nothing else to do."""
        from ..services.serving import serve_until_told

        serve_until_told(self._served, grace)

    def close(self) -> None:
        """Close every connection and end every watch. May be called twice, and in a callback."""
        served, self._served = self._served, []
        if served:  # while others can be told of it
            from ..services.serving import stop_all

            stop_all(served, self.timeout)
        closed, self._closed = self._closed, True
        if self._calling is not None:
            self._calling.close()
        self._events.close()  # before the goodbye: nobody shall come back after it
        if not closed:
            self._say_goodbye()
        self._callbacks.close()
        self._interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        """In another process it is a client of its own, of the same bus and by the same name; all
        that comes from one client is one client there."""
        return unpickling.client_like, (self.origin, self.address, self._options())

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<udsbus.Client {self.address} ({state})>"

    # --- inside -----------------------------------------------------------------------------

    def _own_offers(self) -> None:
        """All that this client serves is offered already."""

    def _stay(self) -> None:
        super()._stay()
        self._events.ensure_running()

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
        function: Function | None = None,
        read: Callable[[bytes], Any] = decode,
    ) -> Watch[Any]:
        self._check_open()
        if function is not None and not callable(function):
            raise InvalidRequest(f"on_change calls a function, not {type(function).__name__}")
        core = WatchCore(
            pattern,
            from_revision=from_revision,
            initial=initial,
            kinds=kinds,
            ignore_own=ignore_own,
            previous=previous,
            strict=strict,
            marks=function is None,
        )
        told = self._callbacks.came if function is not None else None
        watch = Watch[Any](self, core, conflate, told, read)
        if function is not None:
            self._callbacks.add(watch, function, f"on_change({pattern!r})")
        self._events.follow(watch, self._patience)
        return watch

    def _subscribe(
        self,
        patterns: tuple[str, ...],
        policy: Policy,
        retained: bool,
        echo: bool,
        function: Callable[[Message], object] | None = None,
    ) -> Subscription:
        self._check_open()
        if function is not None and not callable(function):
            raise InvalidRequest(f"on_message calls a function, not {type(function).__name__}")
        this = weakref.ref(self)  # which what the events know must not keep alive

        def own_session() -> str:
            client = this()
            return "" if client is None else client.session

        core = SubscriptionCore(
            patterns, policy=policy, retained=retained, echo=echo, own_session=own_session
        )
        told = None if function is None else self._callbacks.came
        subscription = Subscription(self, core, told)
        if function is not None:
            self._callbacks.add(subscription, function, f"on_message({patterns[0]!r})")
        self._events.follow(subscription, self._patience)
        return subscription

    # --- called at a fork -------------------------------------------------------------------

    def before_fork(self) -> None:
        self._events.pause()

    def after_fork_in_parent(self) -> None:
        self._events.go_on()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections alone; our own are made when needed."""
        self._forget_parent()
        self._served, self._calling = [], None
        self.holdings.forget()
        self._events.after_fork()
        if self._callbacks.after_fork():
            self._events.ensure_running()
        super().after_fork_in_child()

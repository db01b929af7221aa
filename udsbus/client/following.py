"""What a sync client's user holds: watches and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any, Literal, NamedTuple

from ..limits import SUBSCRIPTION_BACKLOG, WATCH_BACKLOG
from ..wire.values import decode
from . import requests
from .backlog import Backlog
from .events import Events
from .follower import Answer, Follower
from .requests import Call
from .subscribing import RawMessage, SubscriptionCore
from .subscribing import Step as MessageStep
from .watching import RawChange, Step, WatchCore

Kind = Literal["created", "updated", "deleted", "expired", "released", "present"]


class Change(NamedTuple):
    """One key has changed."""

    revision: int
    kind: Kind
    """`created`, `updated`, `deleted`, `expired`, `released` (its client is gone); `present` for a
    key of the initial state, or of the state told after changes were missed."""
    key: str
    value: Any
    """The new value; None when the key is gone."""


class Message(NamedTuple):
    """A published message."""

    topic: str
    value: Any
    retained: bool = False
    """It was published before, with `retain`, and is the last of its topic: see `subscribe`."""


class Watch(Follower):
    """The changes of the keys that match a pattern, in order, without a gap.

    Iterate over it, or call `get`. A lost connection is taken up again by itself; when changes
    were missed meanwhile, the present state follows (`kind == "present"`, and `deleted` for keys
    that are gone) and `started_over` counts it. When you take changes more slowly than they come,
    you get the newest of each key and `skipped` counts the others.
    """

    def __init__(
        self,
        events: Events,
        owner: object,
        core: WatchCore,
        conflate: bool,
        on_changes: Callable[[Watch, int], None] | None,
    ) -> None:
        self._core = core
        super().__init__(owner)
        self._events = events
        self._backlog = Backlog[RawChange](WATCH_BACKLOG, lambda change: change.key, conflate)
        self._on_changes = on_changes
        self.attended = on_changes is None
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
    def closed(self) -> bool:
        """Whether it has ended: by `close`, with its client, or refused by the broker."""
        return self._backlog.closed

    @property
    def waiting(self) -> int:
        """How many changes have come and were not taken yet."""
        return len(self._backlog)

    @property
    def skipped(self) -> int:
        """How many changes were left out for a newer one of the same key."""
        return self._backlog.skipped

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
            oldest = self._events.heard if self._core.live else self._complete
        return max(0.0, monotonic() - oldest)

    def get(self, timeout: float | None = None) -> Change | None:
        """The next change; None when none comes within `timeout` seconds or the watch is closed.

        Raises UnsupportedValue for a value that cannot be read; the watch goes on. When the broker
        refuses to take it up again after a lost connection, that is raised.
        """
        change = self._events.take(self._backlog, timeout)
        if change is None:
            if self._backlog.closed and self.refusal is not None:
                raise self.refusal
            return None
        revision, kind, key, value = change
        return Change(revision, kind, key, None if value is None else decode(value))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Change]:
        """The changes as they come, until the watch or its client is closed."""
        while (change := self.get()) is not None:
            yield change

    def close(self) -> None:
        """End it: nobody waits any longer, and the broker sends no more."""
        self._events.leave(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- called by the event thread -----------------------------------------------------------

    def begin(self, ask: Callable[[Call[Any], Answer], None], same_bus: bool) -> None:
        started = partial(self._go_on, ask, self._core.started)
        ask(self._core.start(same_bus=same_bus), started)

    def _go_on(
        self,
        ask: Callable[[Call[Any], Answer], None],
        read: Callable[[Any], Step],
        answer: Any,
    ) -> None:
        step = read(answer)
        self._tell(step.changes)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        elif self._core.live:
            self.started.open()

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unwatch(core.number)

    def notified(self, kind: str, params: list[Any]) -> None:
        if kind == "change" and self._core.matches(params[2]):
            self._tell(self._core.change(RawChange(*params[:4])))

    def wake(self) -> None:
        self._backlog.close()

    def after_fork(self) -> None:
        super().after_fork()
        self._backlog.after_fork()

    def beat(self, revision: int) -> None:
        self._core.beat(revision)

    def interrupted(self, heard: float) -> None:
        if self._core.live:
            self._complete = heard
            self._core.interrupt()

    @property
    def live(self) -> bool:
        return self._core.live

    def _tell(self, changes: list[RawChange]) -> None:
        if changes:
            self._backlog.put(changes, self._events.heard)
            if self._on_changes is not None:
                self._on_changes(self, len(changes))


class Subscription(Follower):
    """The messages published to the topics that match, from now on; before them, what was retained.

    Iterate over it, or call `get`. Messages are not kept by the broker, but for the last one of a
    topic that was published with `retain`. What is published while the connection is lost is
    missed, and `interruptions` counts how often that may have happened; what was retained meanwhile
    is told afterwards. When you take messages more slowly than they come, the oldest are dropped:
    see `dropped`.
    """

    def __init__(self, events: Events, owner: object, core: SubscriptionCore) -> None:
        self._core = core
        super().__init__(owner)
        self._events = events
        self.interruptions = 0
        self._backlog = Backlog[RawMessage](SUBSCRIPTION_BACKLOG)

    @property
    def patterns(self) -> tuple[str, ...]:
        return self._core.patterns

    @property
    def closed(self) -> bool:
        """Whether it has ended: by `close`, with its client, or refused by the broker."""
        return self._backlog.closed

    @property
    def waiting(self) -> int:
        """How many messages have come and were not taken yet."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """How many messages were dropped because they were not taken in time."""
        return self._backlog.skipped

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None when none comes within `timeout` seconds or it is closed.

        Raises UnsupportedValue for one that cannot be read; the subscription goes on. When the
        broker refuses to take it up again after a lost connection, that is raised.
        """
        message = self._events.take(self._backlog, timeout)
        if message is None:
            if self._backlog.closed and self.refusal is not None:
                raise self.refusal
            return None
        return Message(message.topic, decode(message.message), message.retained)

    def __iter__(self) -> Iterator[Message]:
        """The messages as they come, until the subscription or its client is closed."""
        while (message := self.get()) is not None:
            yield message

    def close(self) -> None:
        """End it: nobody waits any longer, and the broker sends no more."""
        self._events.leave(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- called by the event thread -----------------------------------------------------------

    def begin(self, ask: Callable[[Call[Any], Answer], None], same_bus: bool) -> None:
        ask(self._core.start(same_bus=same_bus), partial(self._begun_anew, ask))

    def _begun_anew(self, ask: Callable[[Call[Any], Answer], None], answer: Any) -> None:
        if self.started.is_open:
            self.interruptions += 1
        self._go_on(ask, self._core.started, answer)

    def _go_on(
        self,
        ask: Callable[[Call[Any], Answer], None],
        read: Callable[[Any], MessageStep],
        answer: Any,
    ) -> None:
        step = read(answer)
        self._tell(step.messages)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        else:
            self.started.open()

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unsubscribe(core.number)

    def notified(self, kind: str, params: list[Any]) -> None:
        if kind == "message":
            self._tell(self._core.message(*params))

    def interrupted(self, heard: float) -> None:
        self._core.interrupt()

    @property
    def live(self) -> bool:
        return self._core.live

    def wake(self) -> None:
        self._backlog.close()

    def after_fork(self) -> None:
        super().after_fork()
        self._backlog.after_fork()

    def _tell(self, messages: list[RawMessage]) -> None:
        if messages:
            self._backlog.put(messages, self._events.heard)

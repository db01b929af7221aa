"""What a sync client's user holds: watches and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

if not TYPE_CHECKING:
    from typing import TypeVar

from ..errors import MissedChanges
from ..limits import SUBSCRIPTION_BACKLOG, WATCH_BACKLOG
from ..messages import DISCONNECT
from ..wire.values import decode
from . import requests
from .backlog import Backlog
from .events import Events
from .follower import Answer, Follower
from .lateness import Lateness
from .requests import Call
from .subscribing import RawMessage, SubscriptionCore
from .subscribing import Step as MessageStep
from .watching import PRESENT, CaughtUp, Missed, RawChange, State, Step, Told, WatchCore

ChangeKind = Literal["created", "updated", "deleted", "expired", "released"]
Kind = ChangeKind | Literal["present"]

Policy = Literal["drop_oldest", "disconnect", "block"]


class Change(NamedTuple):
    """One key has changed."""

    revision: int
    kind: Kind
    """`created`, `updated`, `deleted`, `expired`, `released` (its client is gone); `present` for a
    key of the initial state, or of the state told after changes were missed."""
    key: str
    value: Any
    """The new value; None when the key is gone."""
    previous: Any = None
    """With `watch(previous=True)`, the value right before; None when the key was absent, and in
    what is told of a state."""


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Change)
    """What a watch gives. A `Watch` of which nothing more is said gives changes."""
else:
    T = TypeVar("T")


class Message(NamedTuple):
    """A published message."""

    topic: str
    value: Any
    retained: bool = False
    """It was published before, with `retain`, and is the last of its topic: see `subscribe`."""


class Watch(Follower, Generic[T]):
    """The changes of the keys that match a pattern, in order, without a gap.

    Iterate over it, or call `get`. A lost connection is taken up again by itself; when changes
    were missed meanwhile, the present state follows (`kind == "present"`, and `deleted` for keys
    that are gone) and `started_over` counts it. When you take changes more slowly than they come,
    you get the newest of each key and `skipped` counts the others. So you do when this process
    does not take them from the broker: `conflated` counts how often either has begun.

    A `Watch[Change | CaughtUp]` is one that begins with the initial state: `CaughtUp` comes when
    all of it has been told, also when that is told once more. docs/watching.md says more.
    """

    def __init__(
        self,
        events: Events,
        owner: object,
        core: WatchCore,
        session: Callable[[], str],
        conflate: bool,
        on_changes: Callable[[Watch[T], int], None] | None,
    ) -> None:
        self._core = core
        super().__init__(owner)
        self._events = events
        self._session = session
        self._backlog = Backlog[Told](WATCH_BACKLOG, key_of, conflate)
        self._lateness = Lateness()
        self._on_changes = on_changes
        self._complete = 0.0
        """When it was interrupted, the time up to which it had everything."""

    @property
    def pattern(self) -> str:
        return self._core.pattern

    @property
    def state(self) -> State:
        """`starting`: the broker has not answered yet. `listing`: what is there is being read, at
        the beginning or because changes were missed. `live`: each change comes as it happens.
        `interrupted`: the connection is lost, and being taken up again. `closed`: it has ended."""
        return "closed" if self._backlog.closed else self._core.state

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
        """How many changes were left out for a newer one of the same key: by this watch, or by the
        broker, which counts for all that this client watches."""
        return self._backlog.skipped + self._lateness.left_out

    @property
    def conflated(self) -> int:
        """How often changes began to be left out: the broker did when they were not taken from it,
        or this watch when they were not taken from it."""
        return self._backlog.conflations + self._lateness.conflations

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

    def get(self, timeout: float | None = None) -> T | None:
        """The next change; None when none comes within `timeout` seconds or the watch is closed.

        Raises UnsupportedValue for a value that cannot be read, and MissedChanges once for each gap
        if the watch is `strict`; the watch goes on. When the broker refuses to take it up again
        after a lost connection, that is raised.
        """
        # mypy makes something else of the union than it is.
        told: Told | None = self._events.take(self._backlog, self._backlog.take, timeout)  # type: ignore[assignment]
        if told is None:
            self._raise_refusal()
            return None
        return self._read(told)

    def get_transaction(self, timeout: float | None = None) -> list[T]:
        """All changes of the next revision that has any for this watch; empty when none comes
        within `timeout` seconds or the watch is closed.

        Of an initial state, and of one told after changes were missed, it is what has come of it so
        far; `CaughtUp` comes alone. Changes that were left out for newer ones are missing from
        theirs. Raises like `get`; the other changes of that revision come with the next call.
        """
        take = partial(self._backlog.take_together, belong)
        group = self._events.take(self._backlog, take, timeout)
        if group is None:
            self._raise_refusal()
            return []
        found = []
        for index, told in enumerate(group):
            try:
                found.append(self._read(told))
            except BaseException:
                self._backlog.put_back(group[:index] + group[index + 1 :], self._events.heard)
                raise
        return found

    def __iter__(self) -> Iterator[T]:
        """The changes as they come, until the watch or its client is closed."""
        while (change := self.get()) is not None:
            yield change

    def close(self) -> None:
        """End it: nobody waits any longer, and the broker sends no more."""
        self._events.leave(self)

    def __repr__(self) -> str:
        return f"<udsbus.Watch {self.pattern!r} ({self.state})>"

    def __enter__(self) -> Watch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_refusal(self) -> None:
        if self._backlog.closed and self.refusal is not None:
            raise self.refusal

    def _read(self, told: Told) -> T:
        return read_told(self.pattern, told)  # type: ignore[return-value]

    # --- called by the event thread -----------------------------------------------------------

    def begin(self, ask: Callable[[Call[Any], Answer], None], same_bus: bool) -> None:
        self._lateness.connected()
        call = self._core.start(session=self._session(), same_bus=same_bus)
        ask(call, partial(self._go_on, ask, self._core.started))

    def _go_on(
        self,
        ask: Callable[[Call[Any], Answer], None],
        read: Callable[[Any], Step],
        answer: Any,
    ) -> None:
        step = read(answer)
        self._tell(step.told)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        elif self._core.live:
            self.started.open()

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unwatch(core.number)

    def notified(self, kind: str, params: list[Any]) -> None:
        self._lateness.notified(kind, params)
        self._tell(self._core.notified(kind, params))

    def interrupted(self, heard: float) -> None:
        if self._core.live:
            self._complete = heard
        self._core.lost()

    def wake(self) -> None:
        self._backlog.close()

    def after_fork(self) -> None:
        super().after_fork()
        self._backlog.after_fork()

    def beat(self, revision: int) -> None:
        self._core.beat(revision)

    @property
    def live(self) -> bool:
        return self._core.live

    def _tell(self, told: list[Told]) -> None:
        if told:
            self._backlog.put(told, self._events.heard)
            if self._on_changes is not None:
                self._on_changes(self, len(told))


def read_told(pattern: str, told: Told) -> Change | CaughtUp:
    """What the user of a watch gets. Raises MissedChanges, UnsupportedValue."""
    if isinstance(told, Missed):
        raise MissedChanges(
            f"changes of {pattern!r} after revision {told.after_revision} were missed; "
            f"what is there at revision {told.revision} follows",
            after_revision=told.after_revision,
            revision=told.revision,
        )
    if isinstance(told, CaughtUp):
        return told
    revision, kind, key, value, previous = told
    return Change(
        revision,
        kind,  # type: ignore[arg-type]
        key,
        None if value is None else decode(value),
        None if previous is None else decode(previous),
    )


def key_of(told: Told) -> Hashable | None:
    """What a newer one replaces: the change of the same key. `Missed` has its place before the
    state that it announces, and `CaughtUp` behind it."""
    if isinstance(told, RawChange):
        return told.key
    return told if isinstance(told, Missed) else None


def belong(one: Told, following: Told) -> bool:
    """Whether they are told together."""
    if not isinstance(one, RawChange) or not isinstance(following, RawChange):
        return False
    if one.kind == PRESENT or following.kind == PRESENT:
        return one.kind == following.kind
    return one.revision == following.revision


class Subscription(Follower):
    """The messages published to the topics that match, from now on; before them, what was retained.

    Iterate over it, or call `get`.

    Messages are not kept by the broker, but for the last one of a topic that was published with
    `retain`. What is published while the connection is lost is missed, and `interruptions` counts
    how often that may have happened; what was retained meanwhile is told afterwards. When you take
    messages more slowly than they come, the oldest are dropped: see `dropped`. When this process
    does not take them from the broker, its `policy` decides.
    """

    def __init__(
        self,
        events: Events,
        owner: object,
        core: SubscriptionCore,
        on_messages: Callable[[Subscription, int], None] | None = None,
    ) -> None:
        self._backlog = Backlog[RawMessage](SUBSCRIPTION_BACKLOG)
        self._on_messages = on_messages
        super().__init__(owner)
        self._events = events
        self._core = core
        self.interruptions = 0
        self._lateness = Lateness()

    @property
    def patterns(self) -> tuple[str, ...]:
        return self._core.patterns

    @property
    def policy(self) -> str:
        return self._core.policy

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
        """How many messages were dropped because they were not taken in time: by this subscription,
        or by the broker, which counts for all that this client subscribes to."""
        by_broker = 0 if self.policy == DISCONNECT else self._lateness.dropped
        return self._backlog.skipped + by_broker

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None when none comes within `timeout` seconds or it is closed.

        Raises UnsupportedValue for one that cannot be read; the subscription goes on. When the
        broker refuses to take it up again after a lost connection, that is raised.
        """
        message = self._events.take(self._backlog, self._backlog.take, timeout)
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

    def __repr__(self) -> str:
        state = "closed" if self.closed else "live" if self.live else "interrupted"
        return f"<udsbus.Subscription {', '.join(map(repr, self.patterns))} ({state})>"

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- called by the event thread -----------------------------------------------------------

    def begin(self, ask: Callable[[Call[Any], Answer], None], same_bus: bool) -> None:
        self._lateness.connected()
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
        if kind != "message":
            self._lateness.notified(kind, params)
            return
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
            if self._on_messages is not None:
                self._on_messages(self, len(messages))

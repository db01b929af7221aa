"""What both clients know of watches and subscriptions: what is followed, as its user gets it, and
what is to be told of it. Without waiting, which each client does in its own way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from ..errors import Error, MissedChanges
from ..terms import DISCONNECT
from ..wire.values import decode
from . import requests
from .backlog import Backlog
from .lateness import Lateness
from .requests import Call
from .subscribing import RawMessage, Step, SubscriptionCore
from .watching import PRESENT, CaughtUp, Missed, RawChange, State, Told, WatchCore

ChangeKind = Literal["created", "updated", "deleted", "expired", "released"]
Kind = ChangeKind | Literal["present"]

Policy = Literal["drop_oldest", "disconnect", "block"]

Answer = Callable[[Any], None]
Ask = Callable[[Call[Any], Answer], None]
"""Asks the broker for something, and has its answer read."""

_serials = itertools.count(1)
_new: Any = tuple.__new__


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


class Message(NamedTuple):
    """A published message."""

    topic: str
    value: Any
    retained: bool = False
    """It was published before, with `retain`, and is the last of its topic: see `subscribe`."""


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    What = TypeVarWithDefault("What", default=Change)
    """What a watch gives. One of which nothing more is said gives changes."""
else:
    What = TypeVar("What")

Raw = TypeVar("Raw")


class Followed(Generic[Raw]):
    """A watch or a subscription, as whoever reads its connection sees it. `Raw` is what comes."""

    _backlog: Backlog[Raw]
    _lateness: Lateness

    def __init__(self, owner: object) -> None:
        self.serial = next(_serials)
        self.refusal: Error | None = None
        """Why the broker has ended it."""
        self._owner = owner  # kept alive for as long as this is followed

    @property
    def closed(self) -> bool:
        """Whether it has ended: by `close`, with its client, or refused by the broker."""
        return self._backlog.closed

    @property
    def waiting(self) -> int:
        """How much has come and was not taken yet."""
        return len(self._backlog)

    @property
    def started(self) -> bool:
        """The broker has confirmed it, or refused it."""
        raise NotImplementedError

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
        """The connection is lost, over which something came at `heard` for the last time; `begin`
        comes when there is another."""
        raise NotImplementedError

    def doubt(self) -> None:
        """An interrupt came while what was received was handed on: it may have been lost."""
        raise NotImplementedError

    @property
    def live(self) -> bool:
        """Everything that comes over the connection as it is now goes on to the user."""
        raise NotImplementedError

    def _has_started(self) -> None:
        """Whoever waits for that need not any longer."""
        raise NotImplementedError

    def _put(self, items: list[Raw]) -> None:
        """Let the user have these."""
        raise NotImplementedError


class FollowedChanges(Followed[Told], Generic[What]):
    """What a watch is in both clients."""

    def __init__(
        self,
        owner: object,
        core: WatchCore,
        limit: int,
        conflate: bool,
        read: Callable[[bytes], Any] = decode,
    ) -> None:
        """`read` makes values of what was sent."""
        super().__init__(owner)
        self._core = core
        self._read_value = read
        self._backlog = Backlog[Told](limit, key_of, conflate)
        self._lateness = Lateness()
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
        return "closed" if self.closed else self._core.state

    @property
    def started_over(self) -> int:
        """How often changes were missed and the present state was told instead."""
        return self._core.started_over

    @property
    def skipped(self) -> int:
        """How many changes were left out for a newer one of the same key: by this watch, or by the
        broker, which counts for all that this client watches."""
        return self._backlog.skipped + self._core.left_out + self._lateness.left_out

    @property
    def conflated(self) -> int:
        """How often changes began to be left out: the broker did when they were not taken from it,
        or this watch when they were not taken from it."""
        return self._backlog.conflations + self._core.conflations + self._lateness.conflations

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
            oldest = self._heard if self._core.live else self._complete
        return max(0.0, monotonic() - oldest)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.pattern!r} ({self.state})>"

    @property
    def _heard(self) -> float:
        """When something last came over the connection."""
        raise NotImplementedError

    def _read(self, told: Told) -> What:
        return read_told(self.pattern, told, self._read_value)  # type: ignore[return-value]

    def _read_together(self, group: list[Told]) -> list[What]:
        """Of those, none is lost when one cannot be read: the others are there to be taken."""
        found = []
        for index, told in enumerate(group):
            try:
                found.append(self._read(told))
            except BaseException:
                self._backlog.put_back(group[:index] + group[index + 1 :], self._heard)
                raise
        return found

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unwatch(core.number)

    def beat(self, revision: int) -> None:
        self._core.beat(revision)

    def interrupted(self, heard: float) -> None:
        if self._core.live:
            self._complete = heard
        self._core.lost()

    def doubt(self) -> None:
        self._core.doubt()

    @property
    def live(self) -> bool:
        return self._core.live


def read_told(pattern: str, told: Told, read: Callable[[bytes], Any]) -> Change | CaughtUp:
    """What the user of a watch gets. Raises MissedChanges, UnsupportedValue."""
    if type(told) is RawChange:
        revision, kind, key, value, previous = told
        now = None if value is None else read(value)
        fields = revision, kind, key, now, None if previous is None else read(previous)
        change: Change = _new(Change, fields)
        return change
    if isinstance(told, Missed):
        raise MissedChanges(
            f"changes of {pattern!r} after revision {told.after_revision} were missed; "
            f"what is there at revision {told.revision} follows",
            after_revision=told.after_revision,
            revision=told.revision,
        )
    assert isinstance(told, CaughtUp)
    return told


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


class FollowedMessages(Followed[RawMessage]):
    """What a subscription is in both clients."""

    def __init__(self, owner: object, core: SubscriptionCore, limit: int) -> None:
        super().__init__(owner)
        self._core = core
        self._backlog = Backlog[RawMessage](limit)
        self._lateness = Lateness()
        self.interruptions = 0

    @property
    def patterns(self) -> tuple[str, ...]:
        return self._core.patterns

    @property
    def policy(self) -> str:
        return self._core.policy

    @property
    def dropped(self) -> int:
        """How many messages were dropped because they were not taken in time: by this subscription,
        or by the broker, which counts for all that this client subscribes to."""
        by_broker = 0 if self.policy == DISCONNECT else self._lateness.dropped
        return self._backlog.skipped + by_broker

    def __repr__(self) -> str:
        state = "closed" if self.closed else "live" if self.live else "interrupted"
        patterns = ", ".join(map(repr, self.patterns))
        return f"<udsbus.{type(self).__name__} {patterns} ({state})>"

    def _read(self, item: RawMessage) -> Message:
        return Message(item.topic, decode(item.message), item.retained)

    def begin(self, ask: Ask, same_bus: bool) -> None:
        self._lateness.connected()
        ask(self._core.start(same_bus=same_bus), partial(self._begun_anew, ask))

    def _begun_anew(self, ask: Ask, answer: Any) -> None:
        if self.started:
            self.interruptions += 1
        self._go_on(ask, self._core.started, answer)

    def _go_on(self, ask: Ask, read: Callable[[Any], Step], answer: Any) -> None:
        step = read(answer)
        self._put(step.messages)
        if step.next is not None:
            ask(step.next, partial(self._go_on, ask, self._core.listed))
        else:
            self._has_started()

    def notified(self, kind: str, params: list[Any]) -> None:
        if kind != "message":
            self._lateness.notified(kind, params)
            return
        self._put(self._core.message(*params))

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        core = self._core
        return lambda: None if core.number is None else requests.unsubscribe(core.number)

    def interrupted(self, heard: float) -> None:
        self._core.interrupt()

    def doubt(self) -> None:
        self._core.doubt()

    @property
    def live(self) -> bool:
        return self._core.live

"""Messages: who subscribes, what is published, and what of it is retained.

A message is an effect that changes nothing. The last one of its topic that is to be *retained* is
also a key of the broker's own, `$sys/retained/TOPIC`, and survives what a key survives.

Who subscribes by the policy `block` asks publishers to wait for him; those do that say so. The
broker tells here which connections are behind. A message is published when no such subscriber of
its topic is, and until then it stands in a line, first come, first served; or it is not published
at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .. import messages as m
from ..errors import Conflict, InvalidRequest
from ..limits import OUTPUT_PAUSE_BYTES, VALUE_BYTES
from ..patterns import RETAINED_KEYS, check_name, check_pattern, check_writable, shown
from ..terms import BLOCK, DELETED, DISCONNECT, DROP_OLDEST
from .interest import Interest
from .keyspace import Entry, Keyspace
from .registrations import Registrations
from .rules import check_value
from .waiting import NOBODY, Waiter, WaitingList

_new: Any = tuple.__new__
"""Makes a named tuple without its Python-level `__new__`, in half the time."""


class Keys(Protocol):
    """What messages need of the engine that they are a part of."""

    revision: int
    effects: list[m.Effect]
    sessions: dict[int, str]

    def is_of(self, origin: int, session: str) -> bool: ...
    def hold(self, key: str, value: bytes, session: str | None, origin: int) -> int: ...
    def let_go(self, key: str, origin: int, kind: str) -> None: ...
    def entry(self, key: str) -> Entry | None: ...


class Publication(NamedTuple):
    """What waits to be published."""

    topic: str
    message: bytes


class Publishing:
    def __init__(
        self, keys: Keys, keyspace: Keyspace, registrations: Registrations, waiting: WaitingList
    ) -> None:
        self.handlers: dict[type, Callable[..., Any]] = {
            m.Subscribe: self._subscribe,
            m.Unsubscribe: self._unsubscribe,
            m.Publish: self._publish,
            m.Unretain: self._unretain,
        }
        self.blocking = Interest()
        """Who subscribes by the policy `block`."""
        self.disconnecting = Interest()
        """And by `disconnect`."""
        self.behind: set[int] = set()
        """Connections that are."""
        self.unsettled = False
        """Somebody who waits may have done so for long enough: `settle` wants to be called."""
        self._keys = keys
        self._keyspace = keyspace
        self._registrations = registrations
        self._subscriptions = registrations.subscriptions
        self._detailed = registrations.detailed
        self._choosy = registrations.choosy
        self._waiting = waiting
        self._line: OrderedDict[int, Waiter] = OrderedDict()

    @property
    def retained(self) -> int:
        """How many messages are retained."""
        return self._keyspace.number_below(RETAINED_KEYS)

    # --- who wants to know ------------------------------------------------------------------

    def _subscribe(
        self,
        origin: int,
        now: float,
        patterns: list[str],
        echo: bool = True,
        details: bool = False,
        policy: str = DROP_OLDEST,
    ) -> int | tuple[int, int, int]:
        for pattern in patterns:
            check_pattern(pattern)
        interests = [self._subscriptions if echo else self._registrations.quiet]
        if policy == BLOCK:
            interests.append(self.blocking)
        elif policy == DISCONNECT:
            interests.append(self.disconnecting)
        number = self._registrations.add(origin, patterns, *interests, details=details)
        return (number, self._keys.revision, self.retained) if details else number

    def _unsubscribe(self, origin: int, now: float, subscription: int) -> bool:
        quiet = self._registrations.quiet
        was_there = self._registrations.remove(origin, subscription, self._subscriptions, quiet)
        self.look()
        return was_there

    # --- what is said -----------------------------------------------------------------------

    def _publish(
        self,
        origin: int,
        now: float,
        topic: str,
        message: bytes,
        retain: bool = False,
        wait: float | None = None,
    ) -> Any:
        if not self._subscriptions.remembers(topic):
            check_writable(topic, "topic")
        if not 0 < len(message) <= VALUE_BYTES:
            check_value(topic, message)
        if wait is not None:
            if retain:
                raise InvalidRequest("a message is retained at once, so it cannot `wait` as well")
            return self._publish_when_taken(origin, now, topic, message, wait)
        return self._send(origin, topic, message, False, retain)

    def _unretain(self, origin: int, now: float, topic: str) -> bool:
        check_writable(topic, "topic")
        key = RETAINED_KEYS + topic
        if self._keys.entry(key) is None:
            return False
        self._keys.let_go(key, origin, DELETED)
        return True

    def _send(
        self, origin: int, topic: str, message: bytes, waited: bool, retain: bool = False
    ) -> int:
        """Send a message to those who subscribe now. Returns how many they are."""
        revision: int | None = None
        if retain:
            key = RETAINED_KEYS + topic
            check_name(key, "key of a retained message")
            revision = self._keys.hold(key, message, None, origin)
        subscribers = self._subscriptions.find(topic)
        if self._registrations.quiet_patterns:
            subscribers += self._others(origin, topic, subscribers)
        if subscribers:
            detailed: tuple[int, ...] = ()
            about: tuple[int | None, str | None] = (None, None)
            without = subscribers
            wanting = self._choosy if revision is None else self._detailed
            if wanting:
                without, detailed = _parted(subscribers, wanting)
                if detailed:
                    about = revision, self._keys.sessions.get(origin)
            told = topic, message, without, detailed, about, waited
            self._keys.effects.append(_new(m.Message, told))
        return len(subscribers)

    def _others(self, origin: int, topic: str, subscribers: tuple[int, ...]) -> tuple[int, ...]:
        """Those besides `subscribers` who subscribe to what others publish, and are others."""
        known, session = set(subscribers), self._keys.sessions.get(origin)
        return tuple(
            [
                each
                for each in self._registrations.quiet.find(topic)
                if each not in known
                and each != origin
                and (session is None or self._keys.sessions.get(each) != session)
            ]
        )

    # --- what waits until it is taken -------------------------------------------------------

    def _publish_when_taken(
        self, origin: int, now: float, topic: str, message: bytes, wait: float
    ) -> Any:
        """Publish when nobody is behind whom it has to wait for, within `wait` seconds.

        Raises Conflict, now or as the answer, if that does not come; InvalidRequest for a
        connection that would have to wait and has no session.
        """
        # While those in line may go on, whoever comes stands behind them.
        blocked = self._blocked(topic)
        if not blocked and (wait <= 0 or not self.unsettled):
            return self._send(origin, topic, message, True)
        if wait <= 0:
            raise _in_the_way(topic, wait)
        wanted = Publication(topic, message)
        later = self._waiting.wait(self, wanted, origin, now, wait, "to wait for subscribers")

        def sent(receivers: int | None) -> int:
            if receivers is None:
                raise _in_the_way(topic, wait)
            return receivers

        return m.Later(later.ticket, sent)

    def fell_behind(self, connection: int) -> None:
        """A connection does not keep up."""
        self.behind.add(connection)

    def caught_up(self, connection: int) -> None:
        """It does again, or is gone."""
        self.behind.discard(connection)
        self.look()

    def look(self) -> None:
        """There may be nobody any more to wait for."""
        if self._line:
            self.unsettled = True
            self._waiting.hurry()

    def settle(self) -> None:
        """Publish what need not wait any longer; of that at most about as much as a connection may
        have waiting, so that whoever falls behind by it is seen to before the next."""
        self.unsettled = False
        size = 0
        for waiter in list(self._line.values()):
            topic, message = waiter.wanted
            if self._blocked(topic):
                continue
            if size > OUTPUT_PAUSE_BYTES:
                self.look()
                return
            if self._keys.is_of(waiter.origin, waiter.session):
                size += len(message)
                receivers = self._send(waiter.origin, topic, message, True)
                self._waiting.answer(waiter, receivers)
            else:
                self._waiting.answer(waiter, NOBODY)

    def _blocked(self, topic: str) -> bool:
        """Whether a subscriber is behind that publishers shall wait for."""
        behind = self.behind
        return bool(behind) and not behind.isdisjoint(self.blocking.find(topic))

    # --- the host of those who wait ---------------------------------------------------------

    def line(self, wanted: Publication) -> OrderedDict[int, Waiter]:
        """All stand in one line."""
        return self._line

    def came(self, waiter: Waiter, again: bool) -> None:
        """Somebody waits."""
        if again:
            self.look()

    def went(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""


def _parted(
    subscribers: tuple[int, ...], wanting: dict[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Those who want no details of a message, and those who do."""
    if len(subscribers) == 1:
        return ((), subscribers) if subscribers[0] in wanting else (subscribers, ())
    without = tuple([each for each in subscribers if each not in wanting])
    if without:
        return without, tuple([each for each in subscribers if each in wanting])
    return without, subscribers


def _in_the_way(topic: str, wait: float) -> Conflict:
    return Conflict(
        f"a subscriber of {shown(topic)} for whom publishers shall wait is behind, and did not "
        f"catch up within {wait:.3g} s; the message was sent to nobody",
        topic=topic,
    )

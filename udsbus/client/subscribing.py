"""The core of a subscription, sans I/O: what to ask the broker, and which messages the user gets.

The edge (a thread, a task) sends the `Call`s it gets from here, feeds the answers back, and hands
the messages on. A message is not kept by the broker, so what is published while there is no
connection is missed; but the last message of a topic that was *retained* is a key of the broker's
own, with a revision. So of these each that has not been told is told once, whatever happens:

- with `subscribe` the broker tells its revision. Those retained up to there are listed, page by
  page; what comes meanwhile waits. Those retained later come by themselves.
- a message that is retained comes with its revision. After a lost connection only what was
  retained since then is told.

    start ──► starting ──► live ◄──┐
                 │           │     │
                 └─► listing ┼─────┘
                             └─ (connection lost) ─► start
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InvalidRequest
from ..limits import KEY_BYTES, KEY_SEGMENTS
from ..patterns import RETAINED_KEYS, check_pattern, matcher
from ..terms import DROP_OLDEST, POLICIES
from . import requests
from .requests import Call

_new: Any = tuple.__new__
"""Makes a named tuple in half the time."""


class RawMessage(NamedTuple):
    """A message as it came from the broker, still encoded."""

    topic: str
    message: bytes
    retained: bool
    """It was published before, and kept for who comes later."""


class Step(NamedTuple):
    """What follows from an answer: messages to tell, and what to ask next (None: nothing)."""

    messages: list[RawMessage]
    next: Call[Any] | None


class SubscriptionCore:
    """One subscription. Raises InvalidRequest for a malformed pattern."""

    def __init__(
        self,
        patterns: tuple[str, ...],
        *,
        policy: str = DROP_OLDEST,
        retained: bool = True,
        echo: bool = True,
        own_session: Callable[[], str] = str,
    ) -> None:
        """`own_session` tells by which session this client publishes, if not all is echoed."""
        if not patterns:
            raise InvalidRequest("subscribe to at least one pattern of topics")
        for pattern in patterns:
            check_pattern(pattern)
        if policy not in POLICIES:
            raise InvalidRequest(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        self.patterns = patterns
        self.policy = policy
        self.number: int | None = None
        """What the broker calls it on this connection."""
        self.live = False
        """What comes is told at once."""
        self._matchers = [matcher(pattern) for pattern in patterns]
        self._wants_retained = retained
        self._echo = echo
        self._own_session = own_session
        self._since = 0
        """All that is retained up to this revision has been told, or is not to be."""
        self._before = 0
        """What `_since` was before what was read last."""
        self._base = 0
        """The revision at which the subscription began on this connection."""
        self._at = 0
        """The pattern whose retained messages are being listed."""
        self._told: dict[str, int] = {}
        """While listing: the revisions told of, by topic. The list may be cut off."""
        self._held: list[tuple[RawMessage, int | None]] = []
        """While listing: the messages that came meanwhile, each with its revision."""

    def start(self, *, same_bus: bool = True) -> Call[Any]:
        """What to ask on a new connection; `same_bus`: revisions have not begun anew."""
        self.interrupt()
        if not same_bus:
            self._since, self._told = 0, {}
        return requests.subscribe(self.patterns, self.policy, self._echo)

    def doubt(self) -> None:
        """What it has read last may not have come to the user: an interrupt came in between. What
        is retained of that is told once more, on the next connection."""
        self._since, self._told = self._before, {}

    def interrupt(self) -> None:
        """The connection is lost; `start` is next."""
        self.number, self.live = None, False
        self._held = []

    def started(self, answer: Any) -> Step:
        """The answer to `start`."""
        self._before = self._since
        self.number, self._base, retained = answer
        self._at = 0
        if retained and self._wants_retained:
            return Step([], self._page(None))
        return Step(self._go_live(), None)

    def listed(self, page: Any) -> Step:
        """The answer to a page of the list."""
        self._before = self._since
        items, after = page
        told = []
        for key, message, revision in items:
            topic = key.removeprefix(RETAINED_KEYS)
            if self._is_news(topic, revision):
                self._told[topic] = revision
                told.append(RawMessage(topic, message, True))
        if after is None:
            self._at += 1
        if self._at < len(self.patterns):
            return Step(told, self._page(after))
        return Step(told + self._go_live(), None)

    def message(
        self,
        topic: str,
        message: bytes,
        revision: int | None = None,
        session: str | None = None,
        *_: object,
    ) -> list[RawMessage]:
        """A message for some subscription of the connection: what to tell of it now."""
        self._before = self._since
        for matches in self._matchers:
            if matches(topic):
                break
        else:
            return []
        if not self._echo and session is not None and session == self._own_session():
            return []
        if self.number is None or (revision is not None and revision <= self._base):
            return []  # it was published before this began; what is retained, the list has
        raw: RawMessage = _new(RawMessage, (topic, message, False))
        if not self.live:
            self._held.append((raw, revision))
            return []
        if revision is not None:
            self._since = revision
        return [raw]

    def _page(self, after: str | None) -> Call[Any]:
        pattern = RETAINED_KEYS + self.patterns[self._at]
        if len(pattern.encode()) > KEY_BYTES or pattern.count("/") >= KEY_SEGMENTS:
            pattern = f"{RETAINED_KEYS}**"  # what is too long a pattern may match a short topic
        return requests.raw_items_page(pattern, after)

    def _is_news(self, topic: str, revision: int) -> bool:
        """Whether a retained message is to be told, which is not if it comes, or came, by itself,
        or was listed before, for another pattern or over another connection."""
        if not self._since < revision <= self._base or self._told.get(topic) == revision:
            return False
        return self._matchers[self._at](topic)

    def _go_live(self) -> list[RawMessage]:
        self.live = True
        self._since, self._told = max(self._since, self._base), {}
        held, self._held = self._held, []
        self._since = max([self._since, *(revision for _, revision in held if revision)])
        return [raw for raw, _ in held]

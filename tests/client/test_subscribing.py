"""The core of a subscription against a simulated broker: what was retained is told once, in
order, whatever is lost on the way."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from udsbus import InvalidRequest, LimitExceeded
from udsbus import messages as m
from udsbus.client.requests import Call
from udsbus.client.subscribing import RawMessage, SubscriptionCore
from udsbus.engine import Engine
from udsbus.limits import KEY_SEGMENTS
from udsbus.patterns import RETAINED_KEYS, matcher
from udsbus.wire import values
from udsbus.wire.methods import METHODS

PAGE_KEYS = 2
TOPICS = ["a/b", "a/c", "a/d/e", "a", "c"]
OTHER = 99
"""A connection of another client."""


class SubscribedBus:
    """The engine on one side, a core on the other, and between them what is on its way."""

    def __init__(self, patterns: list[str], retained: bool, echo: bool) -> None:
        self.core = SubscriptionCore(
            tuple(patterns), retained=retained, echo=echo, own_session=lambda: "mine"
        )
        self._wants = [matcher(pattern) for pattern in patterns]
        self._retained = retained
        self._echo = echo
        self._published = 0
        self._connection = 0
        self.told: list[RawMessage] = []
        self._mine: set[int] = set()
        """What this client has published itself."""
        self._due: set[int] = set()
        """What was sent to it, and came through, of what was published after it subscribed."""
        self._new_engine()
        self._reconnect(same_bus=True)

    def _new_engine(self) -> None:
        self._engine = Engine(values)

    def _reconnect(self, *, same_bus: bool) -> None:
        if not self.core.live:  # what waited for the list is lost with what was on its way
            self._due &= {values.decode(raw.message) for raw in self.told}
        self._connection += 1
        self._engine.sessions[self._connection] = "mine"
        # Another subscription of the same connection, so that everything comes.
        self._engine.execute(self._connection, m.Subscribe(["**"], True, True), 0.0)
        self._subscribed = False
        self._pending: list[Any] = []
        """Messages that are sent when the turn ends."""
        self._turn: list[Any] = []
        """What the broker has to say before them."""
        self._frames: list[Any] = []
        """What is on its way."""
        self._asked: Call[Any] | None = self.core.start(same_bus=same_bus)

    # --- steps: the bus ---

    def publish(self, topic: str, retain: bool, mine: bool = False) -> None:
        self._published += 1
        number = self._published
        origin = self._connection if mine else OTHER
        if mine:
            self._mine.add(number)
        before = len(self._engine.effects)
        self._engine.execute(origin, m.Publish(topic, values.encode(number), retain), 0.0)
        for effect in self._engine.effects[before:]:
            if isinstance(effect, m.Message):
                self._pending.append(("message", number, self._subscribed, effect))

    def unretain(self, topic: str) -> None:
        self._engine.execute(OTHER, m.Unretain(topic), 0.0)

    def answer(self) -> None:
        call, self._asked = self._asked, None
        if call is None:
            return
        params = _as_received(call.params)
        if call.method == "items":
            options = params[1] if len(params) > 1 else {}
            params = [params[0], {**options, "limit": PAGE_KEYS}]
        command, _ = METHODS[call.method].parse(params)
        if call.method == "subscribe":  # what was published before goes to who was there before
            self._turn, self._pending = self._turn + self._pending, []
        result = self._engine.execute(self._connection, command, 0.0)  # type: ignore[arg-type]
        self._subscribed = True
        self._turn.append(("answer", call.method, _as_received(result)))

    def end_turn(self) -> None:
        self._engine.take_effects()
        self._frames += self._turn + self._pending
        self._turn, self._pending = [], []

    # --- steps: the subscription ---

    def receive(self) -> None:
        if not self._frames:
            return
        frame = self._frames.pop(0)
        if frame[0] == "message":
            _, number, subscribed, effect = frame
            if subscribed and any(wants(effect.topic) for wants in self._wants):
                self._due.add(number)
            self.told += self.core.message(effect.topic, effect.message, *effect.about)
        else:
            read = self.core.started if frame[1] == "subscribe" else self.core.listed
            step = read(frame[2])
            self.told += step.messages
            self._asked = step.next

    def round_trip(self) -> None:
        self.answer()
        self.end_turn()
        while self._frames:
            self.receive()

    def cut(self) -> None:
        self.end_turn()
        self._engine.disconnect(self._connection)
        del self._engine.sessions[self._connection]
        self._reconnect(same_bus=True)

    def restart(self) -> None:
        self._new_engine()
        self._reconnect(same_bus=False)

    def catch_up(self) -> None:
        self.end_turn()
        while self._asked is not None or self._frames:
            self.round_trip()
        assert self.core.live
        self._check()

    def _check(self) -> None:
        numbers = [values.decode(raw.message) for raw in self.told]
        assert len(set(numbers)) == len(numbers), "nothing is told twice"
        assert all(any(wants(raw.topic) for wants in self._wants) for raw in self.told)
        live = {n for n, raw in zip(numbers, self.told, strict=True) if not raw.retained}
        due = self._due if self._echo else self._due - self._mine
        assert due <= set(numbers), "what was sent to it is told"
        if not self._echo:
            assert not live & self._mine
        for topic in TOPICS:
            of = [n for n, raw in zip(numbers, self.told, strict=True) if raw.topic == topic]
            assert of == sorted(of), "in order"
        if self._retained:
            for key, entry in self._engine.keyspace.below(RETAINED_KEYS):
                number = values.decode(entry[0])
                topic = key.removeprefix(RETAINED_KEYS)
                if any(wants(topic) for wants in self._wants) and (
                    self._echo or number not in self._mine
                ):
                    assert number in numbers, "what is retained is told"
        else:
            assert len(live) == len(numbers)


def _as_received(content: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(content), strict_map_key=False)


def step(function: Any, *arguments: Any) -> Any:
    return (function, *arguments)


STEPS: list[Any] = [
    *[step(SubscribedBus.publish, topic, True) for topic in TOPICS],
    *[step(SubscribedBus.publish, topic, False) for topic in TOPICS],
    *[step(SubscribedBus.publish, topic, True, True) for topic in TOPICS[:2]],
    step(SubscribedBus.publish, "a/b", False, True),
    *[step(SubscribedBus.unretain, topic) for topic in TOPICS],
    *[step(SubscribedBus.answer)] * 3,
    *[step(SubscribedBus.end_turn)] * 2,
    *[step(SubscribedBus.receive)] * 4,
    *[step(SubscribedBus.round_trip)] * 4,
    *[step(SubscribedBus.cut)] * 3,
    step(SubscribedBus.restart),
    step(SubscribedBus.catch_up),
]


@settings(
    max_examples=1_500, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    patterns=st.sampled_from([["a/**"], ["**"], ["a/*", "**"], ["a/b", "a/*", "c"], ["a/b"]]),
    retained=st.sampled_from([True, True, True, False]),
    echo=st.booleans(),
    steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40),
)
def test_what_is_retained_is_told_once(
    patterns: list[str], retained: bool, echo: bool, steps: list[Any]
) -> None:
    bus = SubscribedBus(patterns, retained, echo)
    for function, *arguments in steps:
        function(bus, *arguments)
    bus.catch_up()


def test_what_was_retained_before_is_marked_and_what_comes_is_not() -> None:
    bus = SubscribedBus(["a/*"], True, True)
    for topic in ("a/b", "a/c", "c"):
        bus.publish(topic, True)
    bus.catch_up()
    bus.publish("a/b", True)
    bus.catch_up()
    assert [(raw.topic, raw.retained) for raw in bus.told] == [
        ("a/b", True), ("a/c", True), ("a/b", False),
    ]  # fmt: skip


def test_after_a_lost_connection_only_what_is_new() -> None:
    bus = SubscribedBus(["a/*"], True, True)
    for topic in ("a/b", "a/c", "a/d"):
        bus.publish(topic, True)
    bus.catch_up()
    bus.publish("a/c", True)
    bus.catch_up()
    bus.cut()
    bus.publish("a/d", True)
    bus.publish("a/b", False)  # missed, for it is nowhere
    bus.cut()
    bus.catch_up()
    assert [(raw.topic, raw.retained) for raw in bus.told[4:]] == [("a/d", True)]


def test_a_pattern_that_is_too_long_with_what_stands_before_it() -> None:
    """It may match a short topic all the same."""
    pattern = "/".join(["**"] * (KEY_SEGMENTS - 1) + ["b"])
    bus = SubscribedBus([pattern], True, True)
    bus.publish("a/b", True)
    bus.publish("a/c", True)
    bus.catch_up()
    assert [raw.topic for raw in bus.told] == ["a/b"]


def test_without_details_from_another_subscription() -> None:
    """A message may come without them."""
    core = SubscriptionCore(("a",))
    assert core.message("a", b"\x01") == []  # it has not begun
    core.start()
    assert core.started([7, 5, 0]) == ([], None)
    assert core.message("a", b"\x01") == [RawMessage("a", b"\x01", False)]
    assert core.message("a", b"\x01", 5, None) == []
    assert core.message("a", b"\x01", 6, None, "and more") == [RawMessage("a", b"\x01", False)]
    assert core.message("b", b"\x01") == []


@pytest.mark.parametrize(
    ("patterns", "error"),
    [((), InvalidRequest), (("a", "a/b*"), InvalidRequest), (("k" * 2_000,), LimitExceeded)],
)
def test_malformed_patterns(patterns: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        SubscriptionCore(patterns)

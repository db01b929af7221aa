"""Who gets a message, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import AccessDenied, InvalidRequest, LimitExceeded
from udsbus.limits import KEY_BYTES, KEY_SEGMENTS
from udsbus.patterns import RETAINED_KEYS, matcher
from udsbus.terms import CREATED, DELETED, DROP_OLDEST

from .support import examples, new_engine, recorded

ME, TOO, YOU, ANYBODY = 1, 2, 3, 4
SESSIONS = {ME: "mine", TOO: "mine", YOU: "yours"}
PATTERNS = ["a", "a/*", "**", "a/b", "b"]
TOPICS = ["a", "a/b", "b"]


def engine_of(*connections: int) -> Engine:
    engine = new_engine()
    engine.keep_undo()
    engine.sessions.update({each: SESSIONS[each] for each in connections if each in SESSIONS})
    return engine


def run(engine: Engine, origin: int, command: Any, now: float = 0.0) -> Any:
    return engine.execute(origin, command, now)


# --- who gets it ----------------------------------------------------------------------------------

connections = st.sampled_from([ME, TOO, YOU, ANYBODY])
subscriptions = st.builds(
    m.Subscribe,
    st.lists(st.sampled_from(PATTERNS), max_size=3),
    st.booleans(),
    st.booleans(),
    st.just(DROP_OLDEST),
)
steps = st.lists(
    st.one_of(
        st.tuples(connections, subscriptions),
        st.tuples(connections, subscriptions),
        st.tuples(connections, st.builds(m.Unsubscribe, st.integers(1, 6))),
        st.tuples(
            connections,
            st.builds(m.Publish, st.sampled_from(TOPICS), st.just(b"x"), st.booleans(), st.none()),
        ),
        st.tuples(connections, st.just("gone")),
        st.just("settle"),
        st.just("undo"),
    ),
    max_size=20,
)


class Plain:
    """The same with a list of who wants what."""

    def __init__(self) -> None:
        self.wanted: dict[int, tuple[int, m.Subscribe]] = {}
        self.number = 0

    def publish(self, origin: int, topic: str, retain: bool) -> tuple[set[int], set[int]]:
        """Who gets it, without details and with them."""
        session = SESSIONS.get(origin)
        told, detailed = set(), set()
        for connection, wish in self.wanted.values():
            mine = connection == origin or (session and SESSIONS.get(connection) == session)
            matches = any(matcher(pattern)(topic) for pattern in wish.patterns)
            if matches and (wish.echo or not mine):
                told.add(connection)
            if wish.details and (retain or not wish.echo):
                detailed.add(connection)
        return told - detailed, told & detailed


@given(steps)
@examples(500)
def test_each_gets_what_any_of_his_subscriptions_wants(steps: Any) -> None:
    engine, plain = engine_of(*SESSIONS), Plain()
    settled = dict(plain.wanted)
    for step in steps:
        if step == "settle":
            engine.take_effects()
            engine.settle()
            settled = dict(plain.wanted)
        elif step == "undo":
            engine.undo()
            plain.wanted = dict(settled)
        elif step[1] == "gone":
            engine.disconnect(step[0])
            engine.settle()
            plain.wanted = {n: each for n, each in plain.wanted.items() if each[0] != step[0]}
            settled = dict(plain.wanted)
        else:
            origin, command = step
            result = run(engine, origin, command)
            if isinstance(command, m.Subscribe):
                plain.number += 1
                number = result[0] if command.details else result
                assert number == plain.number
                plain.wanted[number] = origin, command
            elif isinstance(command, m.Unsubscribe):
                there = plain.wanted.get(command.subscription, (None,))[0] == origin
                assert result is there
                if there:
                    del plain.wanted[command.subscription]
            else:
                without, detailed = plain.publish(origin, command.topic, command.retain)
                effects = engine.take_effects()
                kept = [one for one in effects if isinstance(one, m.Change)]
                effects = [one for one in effects if one not in kept]
                assert len(kept) == command.retain
                assert result == len(without) + len(detailed)
                if not result:
                    assert effects == []
                    continue
                (message,) = effects
                assert isinstance(message, m.Message)
                assert len(set(message.subscribers)) == len(message.subscribers)
                assert (set(message.subscribers), set(message.detailed)) == (without, detailed)
                if detailed:
                    revision = engine.revision if command.retain else None
                    assert message.about == (revision, SESSIONS.get(origin))
    patterns = sum(len(each.patterns) for _, each in plain.wanted.values())
    assert engine.registrations.patterns == patterns


# --- what is kept ---------------------------------------------------------------------------------


def test_a_message_that_is_retained_is_a_key_of_the_broker() -> None:
    engine = engine_of(ME, YOU)
    assert run(engine, YOU, m.Subscribe(["a"], True, True)) == (1, 0, 0)
    assert run(engine, ME, m.Publish("a", b"x", True)) == 1
    key = f"{RETAINED_KEYS}a"
    assert engine.take_effects() == [
        m.Change(1, CREATED, key, b"x", None, ME, None, "mine"),
        m.Message("a", b"x", (), (YOU,), (1, "mine")),
    ]
    assert run(engine, ME, m.Publish("a", b"y")) == 1
    assert run(engine, ANYBODY, m.Get(key)) == b"x"
    assert run(engine, ANYBODY, m.Publish("b/c", b"z", True)) == 0
    assert run(engine, ME, m.Subscribe(["a"], True, True)) == (2, 2, 2)
    assert run(engine, ANYBODY, m.Items(f"{RETAINED_KEYS}**"))[0] == [
        (key, b"x", 1), (f"{RETAINED_KEYS}b/c", b"z", 2),
    ]  # fmt: skip


def test_unretain() -> None:
    engine = engine_of()
    assert run(engine, ME, m.Unretain("a")) is False
    run(engine, ME, m.Publish("a", b"x", True))
    engine.settle()
    assert run(engine, YOU, m.Unretain("a")) is True
    assert engine.publishing.retained == 0
    engine.undo()
    assert engine.publishing.retained == 1
    assert run(engine, YOU, m.Unretain("a")) is True
    assert engine.take_effects()[-1] == m.Change(
        2, DELETED, f"{RETAINED_KEYS}a", None, None, YOU, b"x"
    )


def test_what_is_undone_is_not_retained() -> None:
    engine = engine_of()
    run(engine, ME, m.Publish("a", b"x", True))
    engine.settle()
    run(engine, ME, m.Publish("a", b"y", True))
    run(engine, ME, m.Publish("b", b"y", True))
    engine.undo()
    assert run(engine, ME, m.Items(f"{RETAINED_KEYS}**"))[0] == [(f"{RETAINED_KEYS}a", b"x", 1)]
    assert engine.revision == 1


def test_it_is_there_again_when_it_is_replayed() -> None:
    engine, other = engine_of(), engine_of()
    run(engine, ME, m.Publish("a", b"x", True))
    run(engine, ME, m.Publish("b", b"x", True))
    run(engine, ME, m.Unretain("a"))
    other.replay(recorded(engine.take_effects()))
    assert other.keyspace.entries == engine.keyspace.entries
    assert other.publishing.retained == 1


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (m.Publish("$sys/a", b"x", True), AccessDenied),
        (m.Publish("a/*", b"x", True), InvalidRequest),
        (m.Publish("a", b"", True), InvalidRequest),
        (m.Publish("k" * (KEY_BYTES - len(RETAINED_KEYS) + 1), b"x", True), LimitExceeded),
        (m.Publish("/".join("k" * (KEY_SEGMENTS - 1)), b"x", True), LimitExceeded),
        (m.Unretain("$sys/a"), AccessDenied),
        (m.Unretain(""), InvalidRequest),
        (m.Set(f"{RETAINED_KEYS}a", b"x"), AccessDenied),
        (m.Delete(f"{RETAINED_KEYS}a"), AccessDenied),
    ],
)
def test_what_is_refused(command: Any, refusal: type[Exception]) -> None:
    engine = engine_of()
    run(engine, YOU, m.Subscribe(["**"]))
    with pytest.raises(refusal):
        run(engine, ME, command)
    assert engine.take_effects() == []
    assert engine.publishing.retained == 0


def test_a_topic_too_long_to_be_retained_can_be_published() -> None:
    engine = engine_of()
    topic = "k" * KEY_BYTES
    run(engine, YOU, m.Subscribe(["**"]))
    assert run(engine, ME, m.Publish(topic, b"x")) == 1
    with pytest.raises(LimitExceeded, match="key of a retained message"):
        run(engine, ME, m.Publish(topic, b"x", True))

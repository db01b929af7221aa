"""Publishers that wait for subscribers who are behind."""

from __future__ import annotations

from typing import Any

import pytest

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import Conflict, InvalidRequest, LimitExceeded
from udsbus.limits import OUTPUT_PAUSE_BYTES, WAITS_PER_CONNECTION
from udsbus.terms import BLOCK, DISCONNECT, DROP_OLDEST

from .support import new_engine

SLOW, OTHER, PUBLISHER, SECOND = 1, 2, 3, 4


def engine_with(policy: str = BLOCK) -> Engine:
    """One that is behind, and subscribes to `t/*`; another that keeps up, and publishers."""
    engine = new_engine()
    engine.keep_undo()
    engine.sessions.update({PUBLISHER: "p", SECOND: "s"})
    engine.execute(SLOW, m.Subscribe(["t/*"], policy=policy), 0.0)
    engine.execute(OTHER, m.Subscribe(["**"]), 0.0)
    engine.settle()
    engine.publishing.fell_behind(SLOW)
    return engine


def publish(
    engine: Engine,
    text: bytes,
    wait: float | None = 5.0,
    origin: int = PUBLISHER,
    topic: str = "t/a",
) -> Any:
    return engine.execute(origin, m.Publish(topic, text, wait=wait), 0.0)


def sent(engine: Engine) -> list[bytes]:
    return [effect.message for effect in engine.take_effects() if isinstance(effect, m.Message)]


def answers(engine: Engine) -> list[tuple[int, Any]]:
    found, engine.waiting.answers = engine.waiting.answers, []
    return found


def test_first_come_first_served_when_nobody_is_behind_any_more() -> None:
    engine = engine_with()
    first, second = publish(engine, b"1"), publish(engine, b"2", origin=SECOND)
    assert isinstance(first, m.Later)
    assert isinstance(second, m.Later)
    assert publish(engine, b"3", topic="u") == 1
    assert publish(engine, b"4", wait=None) == 2
    assert sent(engine) == [b"3", b"4"]
    assert engine.next_deadline() == 5.0
    engine.publishing.caught_up(SLOW)
    assert engine.next_deadline() == 0.0
    engine.tend(1.0)
    assert answers(engine) == [(first.ticket, 2), (second.ticket, 2)]
    assert sent(engine) == [b"1", b"2"]
    assert not engine.publishing.unsettled


def test_it_is_refused_when_its_time_is_over() -> None:
    engine = engine_with()
    later = publish(engine, b"1")
    engine.tend(5.0)
    assert answers(engine) == [(later.ticket, None)]
    assert later.to_native is not None
    assert later.to_native(2) == 2
    with pytest.raises(Conflict, match=r"'t/a'.* within 5 s; the message was sent to nobody"):
        later.to_native(None)
    with pytest.raises(Conflict, match="within 0 s"):
        publish(engine, b"1", wait=0)
    engine.publishing.caught_up(SLOW)
    engine.tend(6.0)
    assert sent(engine) == []


@pytest.mark.parametrize("policy", [DROP_OLDEST, DISCONNECT])
def test_nobody_waits_for_the_other_policies(policy: str) -> None:
    assert publish(engine_with(policy), b"1") == 2


def test_who_goes_does_not_publish_any_more() -> None:
    engine = engine_with()
    publish(engine, b"1")
    engine.disconnect(PUBLISHER)
    engine.publishing.caught_up(SLOW)
    engine.tend(1.0)
    assert sent(engine) == []
    assert not engine.publishing.unsettled


@pytest.mark.parametrize("how", ["disconnects", "unsubscribes"])
def test_for_who_is_not_there_any_more_nobody_waits(how: str) -> None:
    engine = engine_with()
    later = publish(engine, b"1")
    if how == "disconnects":
        engine.disconnect(SLOW)
    else:
        assert engine.execute(SLOW, m.Unsubscribe(1), 0.0)
    engine.tend(0.0)
    assert answers(engine) == [(later.ticket, 1)]


def test_an_undo_lets_them_wait_on() -> None:
    engine = engine_with()
    later = publish(engine, b"1")
    engine.settle()
    engine.publishing.caught_up(SLOW)
    engine.tend(1.0)
    assert sent(engine) == [b"1"]
    engine.undo()
    assert later.ticket in engine.waiting.waiters
    assert engine.next_deadline() == 0.0
    engine.tend(1.0)
    assert sent(engine) == [b"1"]
    assert answers(engine) == [(later.ticket, 2)]


def test_whoever_asked_in_a_turn_that_is_undone_does_not_wait() -> None:
    engine = engine_with()
    publish(engine, b"1")
    engine.undo()
    engine.publishing.caught_up(SLOW)
    engine.tend(1.0)
    assert sent(engine) == []


def test_they_are_let_go_a_piece_at_a_time() -> None:
    engine = engine_with()
    large = bytes(OUTPUT_PAUSE_BYTES)
    for _ in range(5):
        publish(engine, large)
    engine.publishing.caught_up(SLOW)
    engine.tend(1.0)
    assert len(sent(engine)) == 2
    assert engine.next_deadline() == 0.0
    engine.publishing.fell_behind(SLOW)  # by these
    engine.tend(1.0)
    assert sent(engine) == []
    engine.publishing.caught_up(SLOW)
    for _ in range(2):
        engine.tend(1.0)
    assert len(sent(engine)) == 3


def test_what_cannot_wait() -> None:
    engine = engine_with()
    with pytest.raises(InvalidRequest, match="session"):
        publish(engine, b"1", origin=OTHER)
    for _ in range(WAITS_PER_CONNECTION):
        publish(engine, b"1")
    with pytest.raises(LimitExceeded):
        publish(engine, b"1")


def test_nobody_overtakes_those_who_may_go_on() -> None:
    engine = engine_with()
    publish(engine, b"first")
    engine.publishing.caught_up(SLOW)
    assert isinstance(publish(engine, b"second", origin=SECOND), m.Later)
    engine.tend(0.0)
    assert sent(engine) == [b"first", b"second"]

"""The engine by example. test_engine_model.py is the thorough part."""

from __future__ import annotations

from inspect import signature
from math import inf
from typing import get_args

import pytest

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import AccessDenied, Conflict, Error, InvalidRequest, LimitExceeded
from udsbus.limits import EXPIRIES_PER_TURN, KEY_BYTES
from udsbus.terms import CREATED, DELETED, EXPIRED, UPDATED

from .support import new_engine, steps

ME, YOU = 1, 2
"""Two connections."""


@pytest.fixture
def engine() -> Engine:
    return new_engine()


def changes(engine: Engine) -> list[tuple[int, str, str]]:
    """(revision, kind, key) of what has changed since the last look."""
    return [e[:3] for e in engine.take_effects() if isinstance(e, m.Change)]


# --- keys and revisions ---------------------------------------------------------------------


def test_a_write_takes_a_revision_and_a_read_takes_none(engine: Engine) -> None:
    assert engine.execute(ME, m.Set("a", b"1"), 0.0) == 1
    assert engine.execute(YOU, m.Set("a", b"2"), 0.0) == 2
    assert engine.execute(YOU, m.Get("a"), 0.0) == b"2"
    assert engine.execute(YOU, m.GetEntry("a"), 0.0) == (b"2", 2, None)
    assert engine.revision == 2


def test_an_effect_says_what_changed_and_who_asked(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", ttl=5.0), 10.0)
    engine.execute(YOU, m.Delete("a"), 11.0)
    assert engine.take_effects() == [
        m.Change(1, CREATED, "a", b"1", deadline=15.0, origin=ME),
        m.Change(2, DELETED, "a", None, deadline=None, origin=YOU, before=b"1"),
    ]
    assert engine.take_effects() == []


def test_set_can_expect_a_revision(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", if_revision=0), 0.0)
    engine.execute(ME, m.Set("a", b"2", if_revision=1), 0.0)
    with pytest.raises(Conflict, match="'a' is at revision 2, not at revision 1") as caught:
        engine.execute(YOU, m.Set("a", b"3", if_revision=1), 0.0)
    assert caught.value.details == {"key": "a", "expected": 1, "revision": 2}
    with pytest.raises(Conflict, match="'a' is at revision 2, not absent"):
        engine.execute(YOU, m.Set("a", b"3", if_revision=0), 0.0)
    with pytest.raises(Conflict, match="'b' is absent, not at revision 7"):
        engine.execute(YOU, m.Delete("b", if_revision=7), 0.0)
    assert engine.revision == 2


def test_set_if_changed_keeps_quiet_about_the_same_bytes(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1"), 0.0)
    engine.take_effects()
    assert engine.execute(ME, m.Set("a", b"1", if_changed=True), 0.0) == 1
    assert changes(engine) == []
    assert engine.execute(ME, m.Set("a", b"2", if_changed=True), 0.0) == 2
    assert changes(engine) == [(2, UPDATED, "a")]


def test_set_many_is_one_revision(engine: Engine) -> None:
    assert engine.execute(ME, m.SetMany({"a": b"1", "b": b"2"}), 0.0) == 1
    assert changes(engine) == [(1, CREATED, "a"), (1, CREATED, "b")]
    assert engine.execute(ME, m.SetMany({}), 0.0) == 1


def test_delete_says_whether_there_was_something(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1"), 0.0)
    assert engine.execute(ME, m.Delete("a"), 0.0) is True
    assert engine.execute(ME, m.Delete("a"), 0.0) is False
    assert engine.revision == 2


def test_increment_counts_from_zero_and_keeps_the_time_to_live(engine: Engine) -> None:
    assert engine.execute(ME, m.Increment("n"), 0.0) == 1
    engine.execute(ME, m.Expire("n", 9.0), 0.0)
    assert engine.execute(ME, m.Increment("n", by=1.5), 4.0) == 2.5
    assert engine.execute(ME, m.GetEntry("n"), 4.0) == (b"2.5", 2, 5.0)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (m.Get("a//b"), InvalidRequest),
        (m.Get("*"), InvalidRequest),
        (m.GetMany(["a", ""]), InvalidRequest),
        (m.Set("*", b"1"), InvalidRequest),
        (m.Set("$sys/a", b"1"), AccessDenied),
        (m.Set("a", b""), InvalidRequest),
        (m.Set("k" * (KEY_BYTES + 1), b"1"), LimitExceeded),
        (m.SetMany({"b": b"1", "$sys/a": b"1"}), AccessDenied),
        (m.Delete("$sys/a"), AccessDenied),
        (m.Delete("a", if_revision=9), Conflict),
        (m.Increment("a"), InvalidRequest),
        (m.Expire("$sys/a", 1.0), AccessDenied),
        (m.Persist("/"), InvalidRequest),
        (m.Keys("a*"), InvalidRequest),
        (m.Watch("a//b"), InvalidRequest),
        (m.Subscribe(["a", "b*"]), InvalidRequest),
        (m.Publish("$sys/a", b"1"), AccessDenied),
        (m.Publish("a", b""), InvalidRequest),
        (m.Transaction([("a", 2)], [m.Delete("a")]), Conflict),
        (m.Transaction([], [m.Set("b", b"1"), m.Increment("a")]), InvalidRequest),
    ],
)
def test_what_is_refused_has_not_happened(
    engine: Engine, command: m.EngineCommand, error: type[Error]
) -> None:
    engine.execute(ME, m.Set("a", b"no number"), 0.0)
    engine.take_effects()
    engine.settle()
    with pytest.raises(error) as caught:
        engine.execute(ME, command, 0.0)
    assert type(caught.value) is error
    assert engine.take_effects() == []
    assert engine.keyspace.entries == {"a": (b"no number", 1, None)}
    assert engine.revision == len(engine.log) == 1
    assert not engine.watches
    assert not engine.subscriptions
    assert not engine.has_patterns(ME)


def test_the_brokers_own_keys_can_be_asked_for(engine: Engine) -> None:
    assert engine.execute(ME, m.Get("$sys/a"), 0.0) is None
    engine.execute(ME, m.Watch("$sys/**"), 0.0)
    assert engine.watches.find("$sys/a") == (ME,)


# --- time -----------------------------------------------------------------------------------


def test_a_key_expires_at_its_deadline_and_that_is_a_change(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", ttl=5.0), 10.0)
    assert engine.next_deadline() == 15.0
    engine.take_effects()
    engine.tend(14.9)
    assert engine.execute(ME, m.Ttl("a"), 14.0) == 1.0
    engine.tend(15.0)
    assert engine.take_effects() == [m.Change(2, EXPIRED, "a", None, before=b"1")]
    assert engine.next_deadline() == inf


def test_a_key_that_is_renewed_expires_at_its_last_deadline(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", ttl=5.0), 0.0)
    engine.execute(ME, m.Expire("a", 5.0), 4.0)
    engine.take_effects()
    engine.tend(5.0)
    assert changes(engine) == []
    assert engine.next_deadline() == 9.0
    engine.tend(9.0)
    assert changes(engine) == [(2, EXPIRED, "a")]


def test_nobody_sees_a_key_after_its_deadline_even_if_it_is_still_there(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", ttl=5.0), 0.0)
    assert engine.execute(ME, m.Get("a"), 5.0) is None
    assert engine.execute(ME, m.GetEntry("a"), 5.0) is None
    assert engine.execute(ME, m.Exists("a"), 5.0) is False
    assert engine.execute(ME, m.Ttl("a"), 5.0) is None
    assert engine.execute(ME, m.GetMany(["a"]), 5.0) == [None]
    assert engine.execute(ME, m.Keys("**"), 5.0) == ([], None)
    assert engine.execute(ME, m.Items("a"), 5.0) == ([], None)
    assert engine.execute(ME, m.Count("**"), 5.0) == (0, None)
    assert engine.revision == 1


def test_a_write_to_a_key_after_its_deadline_tells_the_expiry_first(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1", ttl=5.0), 0.0)
    assert engine.execute(ME, m.Set("a", b"2", if_revision=0), 5.0) == 3
    assert changes(engine) == [(1, CREATED, "a"), (2, EXPIRED, "a"), (3, CREATED, "a")]


def test_expire_and_persist_move_the_deadline_without_a_change(engine: Engine) -> None:
    engine.execute(ME, m.Set("a", b"1"), 0.0)
    engine.take_effects()
    assert engine.execute(ME, m.Expire("a", 5.0), 1.0) is True
    assert engine.execute(ME, m.Persist("a"), 2.0) is True
    assert engine.execute(ME, m.Persist("a"), 3.0) is False
    effects = engine.take_effects()
    assert effects[:2] == [m.DeadlineMoved("a", 6.0), m.DeadlineMoved("a", None)]
    assert engine.revision == 1
    engine.tend(100.0)
    assert engine.execute(ME, m.Get("a"), 100.0) == b"1"
    assert engine.execute(ME, m.Expire("b", 5.0), 1.0) is False
    assert engine.execute(ME, m.Persist("b"), 1.0) is False


def test_many_that_expire_at_once_share_several_turns(engine: Engine) -> None:
    total = 2 * EXPIRIES_PER_TURN + 1
    for number in range(total):
        engine.execute(ME, m.Set(f"k/{number}", b"1", ttl=1.0), 0.0)
    engine.take_effects()
    expired = []
    while engine.next_deadline() < inf:
        engine.tend(1.0)
        expired.append(len(changes(engine)))
    assert expired == [EXPIRIES_PER_TURN, EXPIRIES_PER_TURN, 1]
    assert engine.revision == 2 * total


# --- watches and messages -------------------------------------------------------------------


def test_a_watch_begins_at_a_revision(engine: Engine) -> None:
    engine.execute(ME, m.Set("a/b", b"1"), 0.0)
    assert engine.execute(YOU, m.Watch("a/*"), 0.0) == (1, 1, [])
    assert engine.watches.find("a/b") == (YOU,)
    assert engine.watches.find("a") == ()


def test_a_watch_goes_on_where_it_was(engine: Engine) -> None:
    for key in ("a/b", "c", "a/d"):
        engine.execute(ME, m.Set(key, b"1"), 0.0)
    _, revision, missed = engine.execute(YOU, m.Watch("a/*", from_revision=1), 0.0)
    assert revision == 3
    assert missed == [(3, CREATED, "a/d", b"1")]
    assert engine.execute(YOU, m.Watch("a/*", from_revision=3), 0.0)[2] == []


def test_a_watch_from_the_future_is_of_another_bus(engine: Engine) -> None:
    assert engine.execute(YOU, m.Watch("**", from_revision=1), 0.0) == (1, 0, None)


def test_a_watch_can_only_be_ended_by_its_own_connection_and_as_a_watch(engine: Engine) -> None:
    watch, _, _ = engine.execute(ME, m.Watch("a"), 0.0)
    assert engine.execute(YOU, m.Unwatch(watch), 0.0) is False
    assert engine.execute(ME, m.Unsubscribe(watch), 0.0) is False
    assert engine.execute(ME, m.Unwatch(watch), 0.0) is True
    assert engine.execute(ME, m.Unwatch(watch), 0.0) is False
    assert not engine.has_patterns(ME)


def test_a_message_goes_once_to_each_connection_that_subscribes(engine: Engine) -> None:
    engine.execute(ME, m.Subscribe(["news/*", "news/**", "sport"]), 0.0)
    engine.execute(ME, m.Subscribe(["news/today"]), 0.0)
    engine.execute(YOU, m.Subscribe(["**"]), 0.0)
    assert engine.execute(YOU, m.Publish("news/today", b"1"), 0.0) == 2
    assert engine.execute(YOU, m.Publish("weather", b"1"), 0.0) == 1
    assert engine.take_effects() == [
        m.Message("news/today", b"1", (ME, YOU)),
        m.Message("weather", b"1", (YOU,)),
    ]
    assert engine.revision == 0


def test_a_message_that_nobody_wants_is_no_effect(engine: Engine) -> None:
    assert engine.execute(ME, m.Publish("a", b"1"), 0.0) == 0
    assert engine.take_effects() == []


def test_a_connection_that_is_gone_leaves_nothing_behind(engine: Engine) -> None:
    engine.execute(ME, m.Watch("a/**"), 0.0)
    engine.execute(ME, m.Subscribe(["a", "a", "b"]), 0.0)
    engine.execute(YOU, m.Watch("a/**"), 0.0)
    engine.disconnect(ME)
    engine.disconnect(ME)
    assert not engine.has_patterns(ME)
    assert not engine.subscriptions
    assert engine.watches.find("a/b") == (YOU,)


@pytest.mark.parametrize("command", [m.Watch("a"), m.Subscribe(["a"])])
def test_watches_and_subscriptions_of_a_connection_are_limited(
    engine: Engine, command: m.EngineCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udsbus.engine.registrations.PATTERNS_PER_CONNECTION", 2)
    engine.execute(ME, m.Watch("a"), 0.0)
    engine.execute(ME, m.Subscribe(["a"]), 0.0)
    with pytest.raises(LimitExceeded) as caught:
        engine.execute(ME, command, 0.0)
    assert caught.value.details == {"limit": "patterns_per_connection", "maximum": 2, "actual": 3}
    engine.execute(YOU, command, 0.0)
    assert len(engine.watches) + len(engine.subscriptions) == 3


def test_the_limit_counts_the_patterns_of_a_subscription(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs memory, so a subscription to many must not count as one."""
    monkeypatch.setattr("udsbus.engine.registrations.PATTERNS_PER_CONNECTION", 2)
    with pytest.raises(LimitExceeded) as caught:
        engine.execute(ME, m.Subscribe(["a", "b", "c"]), 0.0)
    assert caught.value.details["actual"] == 3
    assert not engine.subscriptions
    subscription = engine.execute(ME, m.Subscribe(["a", "a"]), 0.0)
    with pytest.raises(LimitExceeded):
        engine.execute(ME, m.Watch("b"), 0.0)
    engine.execute(ME, m.Unsubscribe(subscription), 0.0)
    engine.execute(ME, m.Watch("b"), 0.0)
    engine.disconnect(ME)
    engine.execute(ME, m.Subscribe(["a", "b"]), 0.0)


# --- cost -----------------------------------------------------------------------------------


def cost_of(engine: Engine, command: m.EngineCommand) -> int:
    return steps(engine.execute, ME, command, 0.0)


@pytest.mark.parametrize(
    "command",
    [
        m.Get("mine"),
        m.Set("mine", b"2"),
        m.Set("mine", b"2", ttl=7.0),
        m.Increment("counter"),
        m.Publish("mine", b"1"),
        m.Keys("mine/*"),
        m.Transaction([("mine", 1)], [m.Set("mine", b"2"), m.Delete("absent")]),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_command_costs_the_same_however_much_else_there_is(command: m.EngineCommand) -> None:
    def cost_beside(others: int) -> int:
        engine = new_engine()
        engine.execute(ME, m.Set("mine", b"1"), 0.0)
        engine.execute(ME, m.Set("counter", b"1"), 0.0)
        engine.execute(ME, m.Subscribe(["mine"]), 0.0)
        for number in range(others):
            engine.execute(YOU, m.Set(f"others/{number}", b"1", ttl=5.0), 0.0)
            engine.execute(YOU, m.Subscribe([f"others/{number}/**"]), 0.0)
        return cost_of(engine, command)

    assert cost_beside(5_000) == cost_beside(10)


# --- handlers -------------------------------------------------------------------------------


def test_every_command_has_a_handler(engine: Engine) -> None:
    assert set(engine.handlers) == set(get_args(m.EngineCommand))


@pytest.mark.parametrize("command", get_args(m.EngineCommand), ids=lambda one: one.__name__)
def test_a_handler_takes_the_fields_of_its_command(engine: Engine, command: type) -> None:
    fields = signature(command).parameters
    origin, now, *parameters = signature(engine.handlers[command]).parameters.values()
    assert (origin.name, now.name) == ("origin", "now")
    assert [parameter.name for parameter in parameters] == list(fields)
    for parameter in parameters:
        assert parameter.default in (parameter.empty, fields[parameter.name].default)


def test_a_handler_does_what_execute_does(engine: Engine) -> None:
    assert engine.handlers[m.Set](ME, 0.0, "a", b"1") == 1
    assert engine.handlers[m.Get](YOU, 0.0, "a") == engine.execute(YOU, m.Get("a"), 0.0) == b"1"
    assert changes(engine) == [(1, CREATED, "a")]


@pytest.mark.parametrize(
    ("pattern", "topic", "refused"),
    [
        ("$sys/**", "$sys/a", AccessDenied),
        ("**", "a//b", InvalidRequest),
        ("a/*", "a/*", InvalidRequest),
    ],
)
def test_a_topic_is_checked_each_time(
    engine: Engine, pattern: str, topic: str, refused: type[Error]
) -> None:
    """Though somebody wants it, and it was asked for before."""
    engine.execute(1, m.Subscribe([pattern]), 0.0)
    for _ in range(2):
        with pytest.raises(refused):
            engine.execute(2, m.Publish(topic, b"1"), 0.0)
    assert engine.take_effects() == []

"""Whose keys are, whatever is undone, and in the engine that replays what has happened."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import Error, InvalidRequest

from .support import examples, new_engine, recorded

SESSIONS = {1: "one", 2: "two"}

keys = st.sampled_from(["a", "b", "c/d"])
sets = st.builds(
    m.Set, keys, st.sampled_from([b"1", b"2"]), st.sampled_from([None, 5.0]), st.none(),
    st.booleans(), st.booleans(), st.none(), st.booleans(),
)  # fmt: skip
deletes = st.builds(m.Delete, keys, st.none(), st.none())
commands = st.one_of(
    sets,
    st.builds(m.SetMany, st.dictionaries(keys, st.just(b"3")), st.none()),
    deletes,
    st.builds(m.Increment, keys, st.just(1)),
    st.builds(m.Persist, keys),
    st.builds(m.Transaction, st.just([]), st.lists(sets | deletes), st.none()),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([1, 2, 3]), commands),
        st.sampled_from(["one", "two", "undo", "settle", "join", "later"]),
    )
)


def owned(engine: Engine) -> Any:
    """What can be compared, when it has been seen that it agrees with itself."""
    owners = engine.owners
    by_session = {session: list(owners.of(session)) for session in owners.owning()}
    for session, its in by_session.items():
        assert its
        assert all(owners.sessions[key] == session for key in its)
    assert sum(map(len, by_session.values())) == len(owners.sessions)
    assert owners.sessions.keys() <= engine.keyspace.entries.keys()
    return dict(engine.keyspace.entries), dict(owners.sessions), engine.revision


@given(steps)
@examples(200)
def test_undo_and_replay(steps: Any) -> None:
    engine, other = new_engine(), new_engine()
    engine.keep_undo()
    engine.sessions.update(SESSIONS)
    settled, now = owned(engine), 0.0
    for step in steps:
        if step == "settle":
            other.replay(recorded(engine.take_effects()))
            engine.settle()
            settled = owned(engine)
            assert owned(other) == settled
        elif step == "undo":
            engine.undo()
            assert owned(engine) == settled
        elif step == "later":
            now += 3.0
            engine.tend(now)
        elif step == "join":
            for session in SESSIONS.values():
                engine.join(session, b"4")
        elif isinstance(step, str):
            engine.release(step, 2, 0.0)
        else:
            origin, command = step
            with contextlib.suppress(Error):
                engine.execute(origin, command, now)
        owned(engine)


def test_release_takes_the_oldest_first_and_the_session_itself_at_last() -> None:
    engine = new_engine()
    engine.sessions.update(SESSIONS)
    engine.join("one", b"1")
    for key in ("c/d", "a", "b"):
        engine.execute(1, m.Set(key, b"1", ephemeral=True), 0.0)
    engine.execute(2, m.Set("other", b"1", ephemeral=True), 0.0)
    engine.take_effects()
    numbers = [engine.release("one", 2, 0.0) for _ in range(3)]
    assert numbers == [2, 2, 0]
    told = [(one.kind, one.key) for one in engine.take_effects() if isinstance(one, m.Change)]
    assert told == [("released", key) for key in ("c/d", "a", "b", "$sys/clients/one")]
    assert engine.keyspace.entries.keys() == {"other"}


def test_nobody_owns_what_a_connection_without_a_session_writes() -> None:
    engine = new_engine()
    with pytest.raises(InvalidRequest, match="session"):
        engine.execute(3, m.Set("a", b"1", ephemeral=True), 0.0)
    assert engine.keyspace.entries == {}


@pytest.mark.parametrize("together", [False, True])
def test_whose_it_is_and_when_it_expires_can_be_kept(together: bool) -> None:
    engine = new_engine()
    engine.sessions.update(SESSIONS)

    def write(origin: int, **options: Any) -> None:
        command = m.Set("a", b"1", **options)
        if together:
            engine.execute(origin, m.Transaction([], [command]), 1.0)
        else:
            engine.execute(origin, command, 1.0)

    write(1, ephemeral=True, ttl=5.0)
    for options in ({}, {"ttl": 9.0}, {"ephemeral": True}):
        write(2, keep=True, **options)
        assert engine.owners.sessions == {"a": "one"}
        assert engine.keyspace.entries["a"][2] == 6.0
    write(2)
    assert engine.owners.sessions == {}
    assert engine.keyspace.entries["a"][2] is None
    write(2, keep=True, ephemeral=True, ttl=2.0)
    assert engine.owners.sessions == {}, "as it is"
    engine.execute(1, m.Delete("a"), 1.0)
    write(2, keep=True, ephemeral=True, ttl=2.0)
    assert engine.owners.sessions == {"a": "two"}, "there was nothing to keep"
    assert engine.keyspace.entries["a"][2] == 3.0

"""A turn that could not be journaled is undone; one that was is replayed when a broker starts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog
from udsbus.errors import Error
from udsbus.patterns import matcher
from udsbus.terms import DELETED, EXPIRED, POLICIES, UPDATED

from .support import examples, new_engine, recorded
from .test_engine_model import deadlines, deletes, increments, many, sets, transactions, watches

writes = st.one_of(sets, many, deletes, increments, transactions, deadlines)
asked = st.tuples(
    st.integers(1, 2),
    st.one_of(
        writes,
        watches,
        st.builds(
            m.Subscribe,
            st.just(["a/**", "b"]),
            st.booleans(),
            st.booleans(),
            st.sampled_from(POLICIES),
        ),
        st.builds(m.Unwatch, st.integers(1, 4)),
        st.builds(m.Unsubscribe, st.integers(1, 4)),
        st.builds(m.Publish, st.just("a/b"), st.just(b"x"), st.booleans(), st.none()),
        st.builds(m.Unretain, st.just("a/b")),
    ),
    st.sampled_from([0.0, 0.0, 0.3, 2.0]),
)
"""Who, what, and how many seconds later."""

LOG_CHANGES = 12


def carry_out(engine: Engine, requests: list[Any], now: float = 1000.0) -> list[Any]:
    """Each with what it led to, and what expired in between."""
    outcomes = []
    for origin, command, later in requests:
        now += later
        engine.tend(now)
        try:
            outcomes.append(engine.execute(origin, command, now))
        except Error as error:
            outcomes.append((type(error), error.details))
    return [*outcomes, *engine.take_effects()]


def state(engine: Engine) -> Any:
    """All that a later request could find out."""
    return (
        engine.revision,
        engine.changes,
        dict(engine.keyspace.entries),
        engine.keyspace.page("**", None, None, 0.0, sized=False),
        engine.log.since(engine.revision - 3, matcher("**")),
        len(engine.watches),
        len(engine.subscriptions),
        [sorted(engine.watches.find(name)) for name in ("a", "b", "a/b", "a-b")],
        [sorted(engine.subscriptions.find(name)) for name in ("a", "b", "a/b")],
        [sorted(engine.publishing.blocking.find(name)) for name in ("a", "b", "a/b")],
        [sorted(engine.publishing.disconnecting.find(name)) for name in ("a", "b", "a/b")],
        [sorted(engine.registrations.quiet.find(name)) for name in ("a", "b", "a/b")],
        dict(engine.registrations.detailed),
        dict(engine.registrations.choosy),
        engine.registrations.patterns,
        engine.registrations.quiet_patterns,
        engine.publishing.retained,
        [engine.has_patterns(origin) for origin in (1, 2)],
        dict(engine.wants),
    )


def keeping_undo() -> Engine:
    engine = new_engine(ChangeLog(LOG_CHANGES))
    engine.keep_undo()
    engine.sessions.update({1: "one", 2: "two"})
    return engine


@given(st.lists(asked, max_size=8), st.lists(asked, max_size=8), st.lists(asked, max_size=6))
@examples(600)
def test_what_is_undone_never_happened(before: Any, undone: Any, after: Any) -> None:
    engine, other = keeping_undo(), keeping_undo()
    assert carry_out(engine, before) == carry_out(other, before)
    engine.settle()
    other.settle()
    carry_out(engine, undone)
    engine.undo()
    assert engine.take_effects() == []
    # But for the log: it may have forgotten old changes for the sake of those undone.
    assert state(engine)[:4] + state(engine)[5:] == state(other)[:4] + state(other)[5:]
    # Numbers of watches are not given twice.
    after = [one for one in after if not isinstance(one[1], m.Watch | m.Subscribe)]
    ours, theirs = carry_out(engine, after, 2000.0), carry_out(other, after, 2000.0)
    assert split(ours) == split(theirs)
    assert engine.keyspace.entries == other.keyspace.entries


def split(outcomes: list[Any]) -> tuple[list[Any], set[str]]:
    """What has expired apart: of what is due at the same time, either may be first, as of the
    subscribers to a message."""
    outcomes = [
        one._replace(
            subscribers=tuple(sorted(one.subscribers)), detailed=tuple(sorted(one.detailed))
        )
        if isinstance(one, m.Message)
        else one
        for one in outcomes
    ]
    expired = [one for one in outcomes if isinstance(one, m.Change) and one.kind == EXPIRED]
    return [one for one in outcomes if one not in expired], {change.key for change in expired}


@given(st.lists(asked, min_size=1, max_size=12))
@examples(200)
def test_undoing_goes_back_to_the_last_settling_only(requests: Any) -> None:
    engine = keeping_undo()
    carry_out(engine, requests)
    engine.settle()
    expected = state(engine)
    engine.undo()
    assert state(engine) == expected


def test_the_log_forgets_what_was_undone_and_nothing_else() -> None:
    engine = keeping_undo()
    for value in (b"1", b"2", b"3"):
        engine.execute(1, m.Set("a", value), 0.0)
    engine.take_effects()
    engine.settle()
    engine.execute(1, m.Set("a", b"4"), 0.0)
    engine.take_effects()
    engine.undo()
    missed = engine.log.since(1, matcher("**"))
    assert missed is not None
    assert [change.revision for change in missed] == [2, 3]
    assert engine.execute(1, m.Set("b", b"4"), 0.0) == 4


def test_a_connection_that_is_gone_gets_nothing_back() -> None:
    engine = keeping_undo()
    watch = engine.execute(1, m.Watch("a"), 0.0)[0]
    engine.settle()
    assert engine.execute(1, m.Unwatch(watch), 0.0) is True
    engine.disconnect(1)
    engine.undo()
    assert len(engine.watches) == 0
    assert not engine.has_patterns(1)


@given(st.lists(asked, max_size=12), st.lists(asked, max_size=6))
@examples(300)
def test_replaying_gives_the_same_state(requests: Any, after: Any) -> None:
    """Also the log, though a journal knows neither the values before nor the sessions of changes:
    it knows who the connections were."""
    engine, other = new_engine(ChangeLog(LOG_CHANGES)), new_engine(ChangeLog(LOG_CHANGES))
    engine.sessions.update({1: "one", 2: "two"})
    writers = {origin: m.Writer(0, 0, None, name) for origin, name in engine.sessions.items()}
    for request in requests:
        outcomes = carry_out(engine, [request])
        engine.settle()
        effects = [one for one in outcomes if isinstance(one, m.Change | m.DeadlineMoved)]
        other.replay(recorded(list(effects)), writers)
    other.sessions.update(engine.sessions)
    for origin in (1, 2):
        engine.disconnect(origin)
    assert state(other) == state(engine)
    after = [one for one in after if not isinstance(one[1], m.Watch | m.Subscribe)]
    assert carry_out(other, after) == carry_out(engine, after)


@pytest.mark.parametrize(
    "change",
    [
        m.DeadlineMoved("a", 5.0),
        m.Recorded(7, DELETED, "a", None),
        m.Recorded(7, "updated", "a", b"1"),
    ],
    ids=["deadline", "deleted", "updated"],
)
def test_replaying_what_lost_its_beginning(change: m.Recorded | m.DeadlineMoved) -> None:
    """As in a journal that was bridged over damage."""
    engine = new_engine()
    engine.replay([change])
    assert set(engine.keyspace.entries) == ({"a"} if change[1] == UPDATED else set())

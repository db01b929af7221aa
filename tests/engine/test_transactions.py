from __future__ import annotations

from typing import Any

import pytest

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.engine.keyspace import Entry
from udsbus.engine.rules import check_value
from udsbus.engine.transactions import plan
from udsbus.errors import AccessDenied, Conflict, Error, InvalidRequest, LimitExceeded
from udsbus.limits import VALUE_BYTES
from udsbus.terms import CREATED, DELETED, EXPIRED, UPDATED

from .support import TextNumbers, new_engine

ENTRIES: dict[str, Entry] = {"a": (b"1", 3, None), "b": (b"2", 4, 20.0)}


def planned(*operations: m.TransactionOperation, checks: Any = ()) -> tuple[Any, list[Any]]:
    command = m.Transaction(list(checks), list(operations))
    staged, _, results = plan(
        command.checks, command.operations, ENTRIES, {}, None, TextNumbers(), check_value, 9, 10.0
    )
    return staged, results


# --- the plan -------------------------------------------------------------------------------


def test_nothing_to_do() -> None:
    assert planned() == ({}, [])


def test_one_result_for_each_operation() -> None:
    staged, results = planned(
        m.Get("a"), m.Set("c", b"3", ttl=5.0), m.Delete("a"), m.Delete("d"), m.Increment("b", by=5)
    )
    assert results == [b"1", 9, True, False, 7]
    assert staged == {"c": (b"3", 9, 15.0), "a": None, "b": (b"7", 9, 20.0)}


def test_an_operation_sees_what_those_before_it_wrote() -> None:
    staged, results = planned(
        m.Set("n", b"5"),
        m.Increment("n"),
        m.Get("n"),
        m.Delete("n"),
        m.Get("n"),
        m.Set("n", b"8", if_revision=0),
    )
    assert results == [9, 6, b"6", True, None, 9]
    assert staged == {"n": (b"8", 9, None)}


def test_reads_and_writes_of_the_same_bytes_stage_nothing() -> None:
    staged, results = planned(m.Get("a"), m.Get("x"), m.Set("a", b"1", if_changed=True))
    assert results == [b"1", None, 3]
    assert staged == {}


def test_checks_look_at_the_state_before_all_operations() -> None:
    staged, _ = planned(m.Set("a", b"9"), checks=[("a", 3), ("b", 4), ("c", 0)])
    assert staged == {"a": (b"9", 9, None)}
    with pytest.raises(Conflict, match="'c' is absent, not at revision 1"):
        planned(m.Set("c", b"1"), checks=[("c", 1)])


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (m.Get("*"), InvalidRequest),
        (m.Set("$sys/a", b"1"), AccessDenied),
        (m.Set("c", b""), InvalidRequest),
        (m.Set("a", b"1", if_revision=4), Conflict),
        (m.Delete("a", if_revision=4), Conflict),
        (m.Delete("$sys/a"), AccessDenied),
        (m.Increment("text"), InvalidRequest),
    ],
)
def test_an_operation_that_is_refused_refuses_them_all(
    operation: m.TransactionOperation, error: type[Error]
) -> None:
    with pytest.raises(error):
        planned(m.Set("text", b"no number"), operation, m.Set("d", b"1"))


def test_the_brokers_own_keys_can_be_read() -> None:
    assert planned(m.Get("$sys/a"), checks=[("$sys/b", 0)]) == ({}, [None])


def test_what_is_read_must_fit_into_one_response() -> None:
    with pytest.raises(LimitExceeded, match="ask for fewer at once"):
        planned(m.Set("c", bytes(VALUE_BYTES)), *[m.Get("c")] * 3)


# --- carried out ----------------------------------------------------------------------------


@pytest.fixture
def engine() -> Engine:
    """`a` at revision 1, `b` at 2."""
    engine = new_engine()
    engine.execute(1, m.Set("a", b"1"), 0.0)
    engine.execute(1, m.Set("b", b"2", ttl=5.0), 0.0)
    engine.take_effects()
    return engine


def transact(engine: Engine, *operations: m.TransactionOperation, now: float = 0.0) -> Any:
    return engine.execute(1, m.Transaction([], list(operations)), now)


def test_all_changes_have_one_revision_and_each_key_one_change(engine: Engine) -> None:
    revision, results = transact(
        engine, m.Set("a", b"x"), m.Set("c", b"y"), m.Delete("b"), m.Set("a", b"z")
    )
    assert (revision, results) == (3, [3, 3, True, 3])
    assert engine.take_effects() == [
        m.Change(3, UPDATED, "a", b"z", origin=1, before=b"1"),
        m.Change(3, CREATED, "c", b"y", origin=1),
        m.Change(3, DELETED, "b", None, origin=1, before=b"2"),
    ]
    assert engine.revision == 3


def test_a_key_deleted_and_written_again_is_updated(engine: Engine) -> None:
    transact(engine, m.Delete("a"), m.Set("a", b"x"))
    assert engine.take_effects() == [m.Change(3, UPDATED, "a", b"x", origin=1, before=b"1")]


def test_a_key_that_came_and_went_within_is_no_change(engine: Engine) -> None:
    revision, _ = transact(engine, m.Set("c", b"x"), m.Delete("c"))
    assert revision == engine.revision == 2
    assert engine.take_effects() == []


def test_reading_alone_takes_no_revision(engine: Engine) -> None:
    assert transact(engine, m.Get("a"), m.Get("c")) == (2, [b"1", None])
    assert engine.revision == 2


def test_a_key_whose_time_has_passed_is_absent_and_its_expiry_comes_first(engine: Engine) -> None:
    command = m.Transaction([("b", 0)], [m.Set("b", b"x"), m.Get("b")])
    assert engine.execute(1, command, 5.0) == (4, [4, b"x"])
    assert engine.take_effects() == [
        m.Change(3, EXPIRED, "b", None, before=b"2"),
        m.Change(4, CREATED, "b", b"x", origin=1),
    ]


def test_a_failing_operation_at_the_end_undoes_nothing_since_nothing_was_done(
    engine: Engine,
) -> None:
    with pytest.raises(Conflict):
        transact(engine, m.Set("c", b"1"), m.Delete("a"), m.Delete("b", if_revision=9))
    assert engine.take_effects() == []
    assert engine.revision == 2
    assert set(engine.keyspace.entries) == {"a", "b"}

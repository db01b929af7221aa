"""Schemas: what may be written, whoever writes and however."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import (
    AccessDenied,
    Error,
    InvalidRequest,
    LimitExceeded,
    MissingExtra,
    SchemaViolation,
)
from udsbus.limits import SCHEMA_BYTES, SCHEMAS
from udsbus.terms import CREATED, DELETED, UPDATED

from .support import TextNumbers


def compile_most(pattern: str, schema: bytes) -> Callable[[str, bytes], None]:
    """A language of schemas: the value has at most so many bytes."""
    if not schema.isdigit():
        raise InvalidRequest("this is no schema")
    most = int(schema)

    def check(key: str, value: bytes) -> None:
        if len(value) > most:
            raise SchemaViolation(f"{key}: more than {most}", key=key, pattern=pattern)

    return check


def engine_with(**schemas: str) -> Engine:
    engine = Engine(TextNumbers(), compile_schema=compile_most)
    for pattern, schema in schemas.items():
        ask(engine, m.SetSchema(pattern, schema.encode()))
    engine.settle()
    engine.take_effects()
    return engine


def ask(engine: Engine, command: m.EngineCommand) -> Any:
    return engine.execute(1, command, 0.0)


WRITES_OF_TWO = [
    m.Set("a", b"12"),
    m.Set("a", b"12", ttl=5.0),
    m.Set("a", b"12", if_revision=2),
    m.Set("a", b"12", if_changed=True),
    m.SetMany({"b": b"1", "a": b"12"}),
    m.Increment("a", 10),
    m.Transaction([], [m.Set("b", b"1"), m.Set("a", b"12")]),
    m.Transaction([], [m.Increment("a", 10), m.Delete("b")]),
]


@pytest.mark.parametrize("command", WRITES_OF_TWO, ids=repr)
def test_no_way_of_writing_goes_round_it(command: m.EngineCommand) -> None:
    engine = engine_with(a="1")
    ask(engine, m.Set("a", b"1"))
    before = engine.revision, dict(engine.keyspace.entries)
    engine.take_effects()
    with pytest.raises(SchemaViolation) as refusal:
        ask(engine, command)
    assert refusal.value.details == {"key": "a", "pattern": "a"}
    assert (engine.revision, engine.keyspace.entries) == before
    assert engine.take_effects() == []


@pytest.mark.parametrize("command", WRITES_OF_TWO, ids=repr)
def test_without_a_schema_all_of_that_is_allowed(command: m.EngineCommand) -> None:
    engine = engine_with(**{"a/**": "5", "b": "1"})
    ask(engine, m.Set("z", b"1"))
    ask(engine, m.Set("a", b"1"))
    if isinstance(command, m.Set) and command.if_revision is not None:
        command = command._replace(if_revision=engine.revision)
    ask(engine, command)
    assert ask(engine, m.Get("a")) in (b"12", b"11")


def test_a_key_must_satisfy_all_that_match_it() -> None:
    engine = engine_with(**{"a/**": "3", "a/*": "2", "**": "4"})
    ask(engine, m.Set("a/b", b"12"))
    ask(engine, m.Set("a/b/c", b"123"))
    ask(engine, m.Set("z", b"1234"))
    for key, value in (("a/b", b"123"), ("a/b/c", b"1234"), ("z", b"12345")):
        with pytest.raises(SchemaViolation):
            ask(engine, m.Set(key, value))


def test_what_is_there_stays_and_may_go() -> None:
    engine = engine_with()
    ask(engine, m.Set("a", b"12345"))
    ask(engine, m.SetSchema("a", b"1"))
    assert ask(engine, m.Get("a")) == b"12345"
    assert ask(engine, m.Expire("a", 5.0)) is True
    assert ask(engine, m.Transaction([("a", 1)], [m.Get("a")]))[1] == [b"12345"]
    assert ask(engine, m.Delete("a")) is True


@pytest.mark.parametrize(
    "command",
    [
        m.Set("$sys/schemas/a", b"9"),
        m.Set("$sys/schemas/a", b"9", if_revision=1),
        m.SetMany({"$sys/schemas/a": b"9"}),
        m.Increment("$sys/schemas/a"),
        m.Delete("$sys/schemas/a"),
        m.Expire("$sys/schemas/a", 1.0),
        m.Persist("$sys/schemas/a"),
        m.Transaction([], [m.Set("$sys/schemas/a", b"9")]),
        m.Transaction([], [m.Delete("$sys/schemas/a")]),
    ],
    ids=repr,
)
def test_nothing_else_changes_a_schema(command: m.EngineCommand) -> None:
    """Though its key is there."""
    engine = engine_with(a="1")
    with pytest.raises(AccessDenied):
        ask(engine, command)
    assert ask(engine, m.Get("$sys/schemas/a")) == b"1"
    assert engine.take_effects() == []


def test_a_schema_may_be_asked_for_by_its_key() -> None:
    engine = engine_with(**{"a/*": "1"})
    assert ask(engine, m.Get("$sys/schemas/a/*")) == b"1"
    assert ask(engine, m.Get("$sys/schemas/b/*")) is None


def test_replacing_and_removing() -> None:
    engine = engine_with(a="1")
    ask(engine, m.SetSchema("a", b"2"))
    ask(engine, m.Set("a", b"12"))
    ask(engine, m.SetSchema("a", None))
    ask(engine, m.Set("a", b"123"))
    assert ask(engine, m.Items("$sys/**")) == ([], None)


def test_a_schema_is_a_key_that_changes() -> None:
    engine = engine_with()
    assert ask(engine, m.SetSchema("a/*", b"1")) == 1
    assert ask(engine, m.SetSchema("a/*", b"1")) == 1, "the same again writes nothing"
    ask(engine, m.Set("b", b"1"))
    assert ask(engine, m.SetSchema("a/*", b"1")) == 1
    assert ask(engine, m.SetSchema("a/*", b"2")) == 3
    assert ask(engine, m.SetSchema("a/*", None)) == 4
    assert ask(engine, m.SetSchema("a/*", None)) == 4
    changes = [effect[:4] for effect in engine.take_effects() if isinstance(effect, m.Change)]
    assert changes == [
        (1, CREATED, "$sys/schemas/a/*", b"1"),
        (2, CREATED, "b", b"1"),
        (3, UPDATED, "$sys/schemas/a/*", b"2"),
        (4, DELETED, "$sys/schemas/a/*", None),
    ]


@pytest.mark.parametrize(
    ("pattern", "schema", "error"),
    [
        ("a//b", b"1", InvalidRequest),
        ("a*", b"1", InvalidRequest),
        ("$sys/**", b"1", AccessDenied),
        ("$mine", None, AccessDenied),
        ("a", b"none", InvalidRequest),
        ("a", b"1" * (SCHEMA_BYTES + 1), LimitExceeded),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_refused_changes_nothing(
    pattern: str, schema: bytes | None, error: type[Error]
) -> None:
    engine = engine_with(a="1")
    with pytest.raises(error):
        ask(engine, m.SetSchema(pattern, schema))
    assert engine.take_effects() == []
    with pytest.raises(SchemaViolation):
        ask(engine, m.Set("a", b"12"))


def test_there_is_a_most_of_them() -> None:
    engine = engine_with(**{f"k{number}": "1" for number in range(SCHEMAS)})
    with pytest.raises(LimitExceeded) as refusal:
        ask(engine, m.SetSchema("one/more", b"1"))
    assert refusal.value.details == {"limit": "schemas", "maximum": SCHEMAS, "actual": SCHEMAS + 1}
    ask(engine, m.SetSchema("k0", b"2"))
    ask(engine, m.SetSchema("k1", None))
    ask(engine, m.SetSchema("one/more", b"1"))


def test_an_engine_that_is_given_no_language_takes_none() -> None:
    with pytest.raises(InvalidRequest):
        ask(Engine(TextNumbers()), m.SetSchema("a", b"1"))


@pytest.mark.parametrize("before", [None, b"2"])
@pytest.mark.parametrize("meanwhile", [b"1", b"3", None])
def test_undo(before: bytes | None, meanwhile: bytes | None) -> None:
    engine = engine_with() if before is None else engine_with(a=before.decode())
    engine.keep_undo()
    ask(engine, m.SetSchema("a", meanwhile))
    ask(engine, m.Set("b", b"1"))
    engine.undo()
    ask(engine, m.Set("a", b"12"))
    if before is None:
        ask(engine, m.Set("a", b"1234"))
    else:
        with pytest.raises(SchemaViolation):
            ask(engine, m.Set("a", b"123"))


def test_after_a_start() -> None:
    engine = engine_with()
    engine.load({"$sys/schemas/a": (b"1", 1, None), "b": (b"1", 2, None)}, (), 2, [], 2)
    engine.replay(
        [
            m.Recorded(3, CREATED, "$sys/schemas/b/**", b"2"),
            m.Recorded(4, CREATED, "$sys/schemas/c", b"9"),
            m.Recorded(5, DELETED, "$sys/schemas/c", None),
        ]
    )
    assert engine.use_schemas() == {}
    for key, value in (("a", b"12"), ("b/c", b"123")):
        with pytest.raises(SchemaViolation):
            ask(engine, m.Set(key, value))
    ask(engine, m.Set("c", b"1" * 10))


def test_one_that_cannot_be_used_any_more_refuses_what_it_is_of() -> None:
    def compile_nothing(pattern: str, schema: bytes) -> Callable[[str, bytes], None]:
        raise MissingExtra("not installed", extra="schema")

    engine = Engine(TextNumbers(), compile_schema=compile_nothing)
    engine.load({"$sys/schemas/a/*": (b"1", 1, None), "a/b": (b"1", 2, None)}, (), 2, [], 2)
    assert list(engine.use_schemas()) == ["a/*"]
    with pytest.raises(MissingExtra):
        ask(engine, m.Set("a/b", b"2"))
    assert ask(engine, m.Get("a/b")) == b"1"
    assert ask(engine, m.Delete("a/b")) is True
    ask(engine, m.Set("c", b"2"))
    ask(engine, m.SetSchema("a/*", None))
    ask(engine, m.Set("a/b", b"2"))

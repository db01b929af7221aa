"""JSON Schema on values as they travel."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import pytest

from udsbus.errors import InvalidRequest, MissingExtra, SchemaViolation
from udsbus.wire.schemas import PATH_SHOWN, SHOWN, compile_schema
from udsbus.wire.values import encode

CONFIG = {
    "type": "object",
    "properties": {
        "upstreams": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"port": {"type": "integer", "minimum": 1}},
                "required": ["port"],
            },
        }
    },
}


def check(schema: Any, value: Any) -> None:
    compile_schema("config/**", encode(schema))("config/a", encode(value))


def refusal(schema: Any, value: Any) -> SchemaViolation:
    with pytest.raises(SchemaViolation) as caught:
        check(schema, value)
    return caught.value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (CONFIG, {"upstreams": [{"port": 80}, {"port": 8080, "more": True}]}),
        (CONFIG, {}),
        (True, 1),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, (1, 2)),
        ({"type": "integer"}, 2**70),
        ({"type": "string", "format": "date-time"}, "2026-05-04T03:02:01Z"),
        ({"$defs": {"n": {"type": "null"}}, "$ref": "#/$defs/n"}, None),
    ],
    ids=repr,
)
def test_what_matches(schema: Any, value: Any) -> None:
    check(schema, value)


@pytest.mark.parametrize(
    ("schema", "value", "path", "reason"),
    [
        (CONFIG, {"upstreams": [{"port": 80}, {"port": "80"}]}, "/upstreams/1/port", "integer"),
        (CONFIG, {"upstreams": [{}]}, "/upstreams/0", "required"),
        (CONFIG, [1], "", "object"),
        ({"additionalProperties": {"type": "null"}}, {"a/b~c": 1}, "/a~1b~0c", "null"),
        ({"format": "email"}, "nobody", "", "email"),
        (False, 1, "", "False"),
    ],
    ids=repr,
)
def test_the_place_and_the_reason(schema: Any, value: Any, path: str, reason: str) -> None:
    error = refusal(schema, value)
    assert (error.details["key"], error.details["pattern"]) == ("config/a", "config/**")
    assert error.details["path"] == path
    assert reason in error.details["reason"]
    where = f" at {path}" if path else ""
    assert str(error).startswith(
        f"'config/a' does not match the schema of 'config/**'{where}: {error.details['reason']}"
    )


@pytest.mark.parametrize(
    "value", [b"bytes", datetime.date(2026, 5, 4), {1}, {"a": b"bytes"}, {1: 2}], ids=repr
)
def test_what_has_no_form_in_json_does_not_match(value: Any) -> None:
    schema = {"type": ["string", "object"], "additionalProperties": {"type": "string"}}
    assert "no form in JSON" in str(refusal(schema, value))


def test_but_a_schema_does_not_look_at_what_it_says_nothing_of() -> None:
    check({"properties": {"port": {"type": "integer"}}}, {"port": 80, "blob": b"bytes"})


def test_bytes_that_are_no_messagepack_match_nothing() -> None:
    with pytest.raises(SchemaViolation):
        compile_schema("a", encode({}))("a", b"\xc1")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "at /type"),
        ({"properties": {"a": {"pattern": "(a"}}}, "at /properties/a/pattern"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "must hold all that it refers to"),
        ({"$ref": "file:///etc/hostname"}, "must hold all that it refers to"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"$schema": "http://127.0.0.1:9/draft"}, "http://127.0.0.1:9/draft"),
        ("{}", "a map (or true or false), not str"),
        (None, "not NoneType"),
        ([], "not list"),
        ({"type": b"string"}, "bytes"),
    ],
    ids=repr,
)
def test_what_is_no_schema(schema: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema("a", encode(schema))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"items": {"$ref": "#"}, "additionalProperties": {"$ref": "#"}},
    ],
    ids=repr,
)
@pytest.mark.parametrize("depth", [0, 900])
def test_a_schema_that_refers_to_itself_comes_to_an_end(schema: Any, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    check(schema, value)


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    error = refusal({"pattern": r"^(a+)+\1$"}, "a" * 10_000 + "b")
    assert error.details["path"] == ""


def test_large_values_and_long_paths_are_not_repeated_whole() -> None:
    error = refusal({"additionalProperties": {"type": "null"}}, {"k" * 10_000: "v" * 10_000})
    assert len(error.details["reason"]) == SHOWN
    assert len(error.details["path"]) == PATH_SHOWN


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(MissingExtra, match=r"udsbus\[schema\]") as caught:
        compile_schema("a", encode({}))
    assert caught.value.details == {"extra": "schema"}

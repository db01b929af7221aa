"""JSON Schema on values as they travel."""

from __future__ import annotations

import datetime
import decimal
import sys
from typing import Any

import msgpack
import pytest

from udsbus.errors import InvalidRequest, LimitExceeded, MissingExtra, SchemaViolation
from udsbus.limits import CHECKED_BYTES, SCHEMA_EXPRESSIONS
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
        ({"type": "integer"}, 2**64 - 1),
        ({"type": "integer"}, -(2**63)),
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
    ("value", "path"),
    [
        (b"bytes", ""), (datetime.date(2026, 5, 4), ""), ({1}, ""), ({1: 2}, ""), (2**64, ""),
        (-(2**63) - 1, ""), (10**5000, ""), (float("nan"), ""), (float("-inf"), ""),
        ({"a": [1, {"b/c": b"bytes"}]}, "/a/1/b~1c"), ([0, (1, {2: 3})], "/1/1"),
    ],
    ids=["bytes", "date", "set", "key", "large", "low", "long", "nan", "inf", "deep", "tuple"],
)  # fmt: skip
@pytest.mark.parametrize("schema", [True, {}, {"maximum": 10}, {"type": ["integer", "null"]}])
def test_what_has_no_form_in_json_matches_no_schema(schema: Any, value: Any, path: str) -> None:
    error = refusal(schema, value)
    assert error.details["path"] == path
    assert "no form in JSON" in error.details["reason"]


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
        ({"type": b"string"}, "at /type: a value of type bytes has no form in JSON"),
        ({"multipleOf": decimal.Decimal("0.1")}, "at /multipleOf: a value of type Decimal"),
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


TREE = {
    "$defs": {
        "tree": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                {"type": "array", "prefixItems": [{"$ref": "#/$defs/tree"}]},
            ]
        }
    },
    "$ref": "#/$defs/tree",
}


@pytest.mark.parametrize("depth", [3, 30, 300])
def test_alternatives_in_a_deep_value_do_not_multiply(depth: int) -> None:
    """It would take for ever to look into each combination of them."""
    good: Any = "leaf"
    bad: Any = 1
    for _ in range(depth):
        good, bad = [good], [bad]
    check(TREE, good)
    assert refusal(TREE, bad).details["path"] == ""


def test_bounds() -> None:
    with pytest.raises(LimitExceeded) as caught:
        check(True, "x" * CHECKED_BYTES)
    assert caught.value.details["limit"] == "checked_bytes"
    some = {f"p{number}": {"pattern": "^a$"} for number in range(SCHEMA_EXPRESSIONS - 50)}
    others: dict[str, Any] = {f"^{number}$": {} for number in range(50)}
    check({"properties": some, "patternProperties": others}, {"p1": "a"})
    with pytest.raises(LimitExceeded) as caught:
        check({"properties": some, "patternProperties": {**others, "^one$": {}}}, {})
    assert caught.value.details["limit"] == "schema_expressions"
    with pytest.raises(InvalidRequest):
        check({"pattern": "(a{100}){80}"}, "a")


def test_a_raw_value_that_cannot_be_read_is_not_repeated_whole() -> None:
    date = msgpack.packb(msgpack.ExtType(9, msgpack.packb("\0" * 100_000)))
    with pytest.raises(SchemaViolation) as caught:
        compile_schema("a", encode({}))("a", date)
    assert len(str(caught.value)) < 1_000


def test_a_package_that_cannot_be_used_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("jsonschema_rs.FancyRegexOptions")
    with pytest.raises(MissingExtra, match="FancyRegexOptions"):
        compile_schema("a", encode({}))


def test_large_values_and_long_paths_are_not_repeated_whole() -> None:
    error = refusal({"additionalProperties": {"type": "null"}}, {"k" * 10_000: "v" * 10_000})
    assert len(error.details["reason"]) == SHOWN
    assert len(error.details["path"]) == PATH_SHOWN


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(MissingExtra, match=r"udsbus\[schema\]") as caught:
        compile_schema("a", encode({}))
    assert caught.value.details == {"extra": "schema"}

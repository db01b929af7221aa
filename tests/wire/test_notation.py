"""Values as JSON and back."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus.errors import UnsupportedValue
from udsbus.wire.notation import NotationError, NotJSON, from_json, tag_of, to_json
from udsbus.wire.values import EXTENSIONS, decode, encode

UTC = datetime.UTC

EXAMPLES: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (7, "7"),
    (10**30, "1000000000000000000000000000000"),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    (math.inf, '{"$float": "inf"}'),
    ("é ✓", '"é ✓"'),
    ("\x1b[31m\x7f\x9b\u202e\u2028\n", r'"\u001b[31m\u007f\u009b\u202e\u2028\n"'),
    ("\U000e0001", r'"\udb40\udc01"'),
    (b"hi", '{"$bytes": "aGk="}'),
    ([1, "a"], '[1, "a"]'),
    ((1, (2,)), '{"$tuple": [1, {"$tuple": [2]}]}'),
    ({1}, '{"$set": [1]}'),
    (frozenset(), '{"$frozenset": []}'),
    (1.5 + 2j, '{"$complex": [1.5, 2.0]}'),
    ({}, "{}"),
    ({"a": {"b": 1}}, '{"a": {"b": 1}}'),
    ({"$a": 1}, '{"$map": [["$a", 1]]}'),
    ({"$a": 1, "b": 2}, '{"$a": 1, "b": 2}'),
    ({1: "one", (2, 3): None}, '{"$map": [[1, "one"], [{"$tuple": [2, 3]}, null]]}'),
    (
        datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
        '{"$datetime": "2026-05-04T03:02:01+00:00"}',
    ),
    (datetime.date(2026, 5, 4), '{"$date": "2026-05-04"}'),
    (datetime.time(3, 2, 1), '{"$time": "03:02:01"}'),
    (datetime.timedelta(1, 2, 3), '{"$timedelta": [1, 2, 3]}'),
    (decimal.Decimal("1.20"), '{"$decimal": "1.20"}'),
    (
        uuid.UUID("12345678-1234-5678-1234-567812345678"),
        '{"$uuid": "12345678-1234-5678-1234-567812345678"}',
    ),
    (pathlib.Path("a/b"), '{"$path": "a/b"}'),
]


@pytest.mark.parametrize(("value", "text"), EXAMPLES, ids=lambda part: str(part)[:30])
def test_example(value: Any, text: str) -> None:
    assert to_json(value) == text
    assert same(from_json(text), value)


def test_every_extension_has_an_example() -> None:
    texts = " ".join(text for _, text in EXAMPLES)
    assert [e.name for e in EXTENSIONS if f'"{tag_of(e)}"' not in texts] == ["int"]


def test_an_integer_too_long_for_python_to_write() -> None:
    value = -(10**6000)
    assert to_json(value).startswith('{"$int": {"$bytes": ')
    assert from_json(to_json(value)) == value


numbers = st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.complex_numbers()
texts = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.none() | st.booleans() | numbers | texts | st.binary()
zones = st.timezones() | st.none()
moments = (
    st.datetimes(timezones=zones)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | texts.map(pathlib.PurePath)
)
hashable = st.recursive(
    plain | moments,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
tag_like = st.sampled_from(["$", "$bytes", "$map", "$tuple", "$set", "$float", "$other"])
values = st.recursive(
    plain | moments | st.sets(hashable, max_size=3) | hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.dictionaries(tag_like, inner, max_size=2)
        | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_what_is_printed_and_fed_back_is_the_same(value: Any) -> None:
    stored = decode(encode(value))
    text = to_json(stored)
    assert text.isprintable()  # so it is one line, too
    back = from_json(text)
    assert same(back, stored)
    assert same(decode(encode(back)), stored)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = from_json(text)
    except NotationError:
        return
    assert same(from_json(to_json(value)), value)


@given(values.map(to_json), st.data())
def test_damaged_notation_is_refused_or_read(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    for damaged in (text[:cut], text[:cut] + text[cut + 1 :]):
        try:
            value = from_json(damaged)
        except NotationError:
            continue
        to_json(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1, column 1: the end"),
        ("[1,", "line 1, column 4: the end"),
        ('{"a": 1,\n b}', "line 2, column 2: 'b}'"),
        ("NaN", '{"$float": "nan"}'),
        ("-Infinity", '{"$float": "-inf"}'),
    ],
)
def test_not_json(text: str, said: str) -> None:
    with pytest.raises(NotJSON) as caught:
        from_json(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"$foo": 1}', "unknown tag '$foo'"),
        ('{"$foo": 1}', '{"$map": [["$foo", …]]}'),
        ('{"$bytes": "a?"}', "is no bytes"),
        ('{"$bytes": 1}', "is no bytes"),
        ('{"$float": "1"}', "JSON numbers"),
        ('{"$tuple": "ab"}', "takes a list, not a str"),
        ('{"$set": [[]]}', "unhashable"),
        ('{"$map": {"a": 1}}', "pairs"),
        ('{"$map": [[1]]}', "pairs"),
        ('{"$datetime": "yesterday"}', "is no datetime"),
        ('{"$uuid": "1"}', "is no uuid"),
        ('{"$path": 1}', "is no path"),
        ('{"$int": "1"}', "is no int"),
        ("1e999", "beyond what a float holds"),
        ("9" * 5000, "5000 digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_no_value(text: str, said: str) -> None:
    with pytest.raises(NotationError) as caught:
        from_json(text)
    assert said in str(caught.value)
    assert not isinstance(caught.value, NotJSON)


def test_a_value_too_deep_to_print() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnsupportedValue, match="too deeply"):
        to_json(value)
    while value:
        value = value.pop()  # all at once would overflow the stack


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down; and NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, complex):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) and same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, set | frozenset):
        return sorted(map(to_canonical, one)) == sorted(map(to_canonical, other))
    if isinstance(one, datetime.datetime | datetime.time):
        return bool(one.isoformat() == other.isoformat())
    return bool(one == other)


def to_canonical(member: Any) -> str:
    """For members of sets, whose order means nothing."""
    if isinstance(member, frozenset):
        return json.dumps(sorted(map(to_canonical, member)))
    if isinstance(member, tuple):
        return json.dumps(list(map(to_canonical, member)))
    return f"{type(member).__name__} {member!r}"

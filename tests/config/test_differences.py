"""What differs between two values, and where."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from udsbus.config.differences import ABSENT, KeyChange, differences, same, shown_place


def told(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    return [(shown_place(place), one, other) for place, one, other in differences(before, after)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, [("a.b", 1, 3)]),
        ({"a": 1}, {}, [("a", 1, ABSENT)]),
        ({}, {"a": {"b": 1}}, [("a", ABSENT, {"b": 1})]),
        ({"a": {"b": 1}}, {"a": 1}, [("a", {"b": 1}, 1)]),
        ([1, [2, 3]], [1, [2, 4]], [("[1][1]", 3, 4)]),
        ({"a": [1]}, {"a": [1, 2, 3]}, [("a[1]", ABSENT, 2), ("a[2]", ABSENT, 3)]),
        ({"a": [1, 2]}, {"a": []}, [("a[0]", 1, ABSENT), ("a[1]", 2, ABSENT)]),
        ({"a b": 1, "ü.": 2}, {"a b": 2, "ü.": 3}, [('"a b"', 1, 2), ('"ü."', 2, 3)]),
        ({"x": {1: 1}}, {"x": {1: 2}}, [("x{1}", 1, 2)]),
        (1, 2, [("", 1, 2)]),
        (None, ABSENT, [("", None, ABSENT)]),
    ],
)
def test_differences(before: Any, after: Any, expected: list[tuple[str, Any, Any]]) -> None:
    assert told(before, after) == expected
    assert sorted(told(after, before), key=str) == sorted(
        [(place, other, one) for place, one, other in expected], key=str
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), ("1", 1), ([1], (1,)), (None, ABSENT), ({}, []), (b"", "")],
)
def test_a_type_is_a_difference(one: Any, other: Any) -> None:
    assert not same(one, other)
    assert not same({"a": [one]}, {"a": [other]})


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1, 2}, datetime.date(2026, 5, 4), {"a": [math.nan]}, ABSENT]
)
def test_what_is_the_same(value: Any) -> None:
    assert same(value, value)


def test_a_key_that_is_new_or_gone() -> None:
    value = {"a": 1, "b": {"c": 2}}
    created = KeyChange("k", ABSENT, value).differences()
    assert [(each.place, each.after) for each in created] == [(("a",), 1), (("b",), {"c": 2})]
    assert all(each.before is ABSENT for each in created)
    deleted = KeyChange("k", value, ABSENT).differences()
    assert [(each.place, each.before) for each in deleted] == [(("a",), 1), (("b",), {"c": 2})]
    empties: list[Any] = [{}, [], 5]
    for empty in empties:
        assert KeyChange("k", ABSENT, empty).differences() == [((), ABSENT, empty)]
        assert KeyChange("k", empty, ABSENT).differences() == [((), empty, ABSENT)]

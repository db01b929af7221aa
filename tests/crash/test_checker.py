"""The checker finds what is wrong in histories that are known to be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from .checker import Operation, apply_to_bus, violation


def history(*rows: tuple[float, float, str, tuple[Any, ...], Any]) -> list[Operation]:
    return [Operation(number, *row) for number, row in enumerate(rows)]


RIGHT = {
    "one after the other": history(
        (0, 1, "set", ("a", 1), 1), (2, 3, "get", ("a",), 1), (4, 5, "delete", ("a",), True),
        (6, 7, "get", ("a",), None),
    ),
    "at the same time, either way": history(
        (0, 9, "set", ("a", 1), 1), (1, 2, "get", ("a",), None), (3, 4, "get", ("a",), 1),
    ),
    "both counted": history(
        (0, 9, "add", ("n",), 2), (0, 9, "add", ("n",), 1), (10, 11, "get", ("n",), 2),
    ),
    "a swap that fails": history(
        (0, 1, "set", ("a", 1), 1), (2, 9, "set", ("a", 2), 2), (3, 8, "swap", ("a", 5, 1), None),
        (10, 11, "entry", ("a",), (2, 2)),
    ),
    "together": history(
        (0, 1, "set", ("a", 1), 1), (2, 9, "together", ("a", "n", "b", 7), (1, 1, 2)),
        (3, 4, "get", ("b",), None), (5, 6, "get", ("n",), 1), (7, 8, "get", ("b",), 7),
    ),
}  # fmt: skip

WRONG = {
    "a stale read": history(
        (0, 1, "set", ("a", 1), 1), (2, 3, "set", ("a", 2), 2), (4, 5, "get", ("a",), 1),
    ),
    "a read that goes back": history(
        (0, 9, "set", ("a", 1), 1), (1, 2, "get", ("a",), 1), (3, 4, "get", ("a",), None),
    ),
    "a lost update": history(
        (0, 1, "add", ("n",), 1), (0, 1, "add", ("n",), 1),
    ),
    "done twice": history(
        (0, 1, "add", ("n",), 1), (2, 3, "get", ("n",), 2),
    ),
    "a lost write": history(
        (0, 1, "set", ("a", 1), 1), (2, 3, "get", ("a",), None),
    ),
    "a swap that should have failed": history(
        (0, 1, "set", ("a", 1), 1), (2, 3, "set", ("a", 2), 2), (4, 5, "swap", ("a", 3, 1), 3),
    ),
    "a swap that should not have": history(
        (0, 1, "set", ("a", 1), 1), (2, 3, "swap", ("a", 3, 1), None),
    ),
    "a half transaction": history(
        (0, 9, "together", ("a", "n", "b", 7), (None, 1, 1)),
        (1, 2, "get", ("n",), 1), (3, 4, "get", ("b",), None),
    ),
    "out of thin air": history((0, 1, "get", ("a",), 5)),
    "a delete of nothing": history((0, 1, "delete", ("a",), True)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right(name: str) -> None:
    assert violation(RIGHT[name], (), apply_to_bus) is None


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong(name: str) -> None:
    assert violation(WRONG[name], (), apply_to_bus) is not None

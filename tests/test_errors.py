from __future__ import annotations

import copy
import pickle
import re

import pytest

from udsbus import errors
from udsbus.errors import ERRORS, Error


def tree(root: type[Error]) -> list[type[Error]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


TREE = [cls for cls in tree(Error) if cls.__module__ == errors.__name__]


def printed_tree() -> dict[str, tuple[str | None, str | None]]:
    """Class → (parent, built-in class that it is too), as drawn in the docstring."""
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(
            r"    ((?:[│ ]   |[├└]── )*)(\w+)(?: +\(also an? (\w+)\))?(?: .*)?", line
        )
        if match is None:
            continue
        indent, name, also = match.groups()
        depth = len(indent) // 4
        path[depth:] = [name]
        found[name] = (path[depth - 1] if depth else None, also)
    return found


def test_the_printed_tree_is_the_real_one() -> None:
    real: dict[str, tuple[str | None, str | None]] = {"Error": (None, None)}
    for cls in TREE[1:]:
        parent, *builtin = (base.__name__ for base in cls.__bases__)
        real[cls.__name__] = (parent, builtin[0] if builtin else None)
    assert printed_tree() == real


def test_numbers_and_words_are_unique() -> None:
    assert [cls.number for cls in TREE if "number" not in vars(cls)] == []
    assert [cls.word for cls in TREE if "word" not in vars(cls)] == []
    assert len({cls.number for cls in TREE}) == len(TREE)
    assert len({cls.word for cls in TREE}) == len(TREE)


def test_the_table_has_every_error_but_the_root() -> None:
    assert set(ERRORS.values()) == set(TREE) - {Error}
    assert all(cls.number == number > 0 for number, cls in ERRORS.items())


NUMBERS = {
    1: "internal",
    2: "invalid_request",
    3: "unknown_method",
    4: "unsupported_value",
    5: "conflict",
    6: "access_denied",
    7: "limit_exceeded",
    8: "protocol_error",
    9: "unavailable",
    10: "missed_changes",
    11: "timeout",
    12: "storage_failed",
    13: "journal_damaged",
    14: "schema_violation",
    15: "missing_extra",
    16: "lock_lost",
    17: "deadlock",
    18: "not_held",
    19: "service_unavailable",
    20: "worker_lost",
    21: "remote_error",
    22: "bad_arguments",
}
"""They travel on the wire. Add to this table; never change what is in it."""


def test_numbers_and_words_never_change_their_meaning() -> None:
    assert {number: cls.word for number, cls in ERRORS.items()} == NUMBERS


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_an_error_has_a_message_details_and_a_culprit(cls: type[Error]) -> None:
    error = cls("what happened", key="a", revision=7)
    assert str(error) == "what happened"
    assert error.args == ("what happened",)
    assert error.details == {"key": "a", "revision": 7}
    assert error.fault in ("caller", "broker", "state")
    assert str(cls()) == ""
    assert cls().details == {}


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling_and_copying(cls: type[Error]) -> None:
    """As multiprocessing and concurrent.futures do with one that a worker raises."""
    error = cls("what happened", key="a", revision=7)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is cls
        assert str(other) == "what happened"
        assert other.details == error.details


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.BrokerUnavailable, ConnectionError),
        (errors.RequestTimeout, TimeoutError),
        (errors.AccessDenied, PermissionError),
        (errors.InvalidRequest, ValueError),
        (errors.UnknownMethod, ValueError),
        (errors.UnsupportedValue, TypeError),
    ],
)
def test_an_error_can_be_caught_as_the_built_in_one(
    cls: type[Error], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="what happened"):
        raise cls("what happened")

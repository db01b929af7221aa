"""What keys of a dict are called on the bus: each has one name, and each name one key."""

from __future__ import annotations

import datetime
import enum
import pathlib
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.support import examples
from udsbus import LimitExceeded, UnsupportedValue
from udsbus.patterns import check_name
from udsbus.primitives.keys import key_of, name_of


class Colour(enum.StrEnum):
    RED = "r*d"


class Number(enum.IntEnum):
    ONE = 1


NAMES = [
    ("colour", "colour"),
    ("servers/web", "servers/web"),
    ("a*b", "a%2Ab"),
    ("*/**", "%2A/%2A%2A"),
    ("", "%"),
    ("/", "%/%"),
    ("a//b/", "a/%/b/%"),
    # A `%` stays, unless it would be taken for an escape.
    ("100%", "100%"),
    ("%41", "%41"),
    ("%2a", "%2a"),
    ("%2A", "%252A"),
    ("%252A", "%25252A"),
    ("%", "%25"),
    ("%25", "%2525"),
    ("a%25", "a%25"),
    ("a/%", "a/%25"),
    ("%=5", "%25=5"),
    ("%25=5", "%2525=5"),
    ("%=05", "%=05"),
    ("%=5/a", "%=5/a"),
    ("%~c0", "%25~c0"),
    ("%~C0", "%~C0"),
    ("%~a161", "%~a161"),
    ("%~c3", "%~c3"),
    # Other types.
    (5, "%=5"),
    (-5, "%=-5"),
    (2**70, f"%={2**70}"),
    (True, "%=1"),
    (2.0, "%=2"),
    (-0.0, "%=0"),
    (Number.ONE, "%=1"),
    (Colour.RED, "r%2Ad"),
    (None, "%~c0"),
    (b"", "%~c400"),
    (0.5, "%~cb3fe0000000000000"),
    (Decimal("0.50"), "%~cb3fe0000000000000"),
    ((1, "a"), "%~d6039201a161"),
    ((True, ("a",)), "%~d7039201c7030391a161"),
    (frozenset({7}), "%~d5059107"),
    (uuid.UUID(int=1), "%~c7120dc41000000000000000000000000000000001"),
]


@pytest.mark.parametrize(("key", "name"), NAMES)
def test_names(key: Any, name: str) -> None:
    assert name_of(key) == name
    assert key_of(name) == key
    check_name(f"config/{name}")


def test_the_key_that_stands_for_its_equals() -> None:
    for key in (True, 1.0, Number.ONE, Decimal("1.0"), 1 + 0j):
        assert type(key_of(name_of(key))) is int
    assert type(key_of(name_of(Colour.RED))) is str


texts = st.text(st.sampled_from("%%%25A*/=~0c-x"), max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)
looks_escaped = st.lists(
    st.sampled_from(["%", "25", "2A", "/", "=", "~", "5", "-", "c0", "*", "a161"]), max_size=8
).map("".join)


@examples(500)
@given(texts | looks_escaped)
def test_each_text_has_a_name_of_its_own(text: str) -> None:
    name = name_of(text)
    check_name(f"config/{name}")
    back = key_of(name)
    assert type(back) is str
    assert back == text


def is_name(text: str) -> bool:
    return "*" not in text and all(text.split("/"))


@examples(500)
@given((texts | looks_escaped).filter(is_name))
def test_each_name_has_a_key_of_its_own(name: str) -> None:
    """Whoever wrote it: what the dict says is there is found."""
    assert name_of(key_of(name)) == name


halves = st.integers(-6, 6).map(lambda number: number / 2)
zones = st.integers(-47, 47).map(
    lambda number: datetime.timezone(datetime.timedelta(minutes=number * 30))
)
hours = st.sampled_from([0, 1, 11, 12, 22, 23])


def forms(value: float) -> st.SearchStrategy[Any]:
    """What is equal to it."""
    plain = [value, complex(value), Decimal(value), Decimal(value) * Decimal("1.00")]
    if value == 0:
        plain += [-0.0, Decimal("-0"), Decimal("0E+5"), False]
    return st.sampled_from(plain + ([int(value)] if value.is_integer() else []))


numbers = halves.flatmap(forms) | st.sampled_from(
    [
        *(Decimal("1E+400"), Decimal("10E+399"), 10**30, Decimal("1E+30"), 1e30, int(1e30)),
        *(Decimal("0.1"), 0.1, Decimal("0.10"), float("inf"), Decimal("inf"), True),
        *(1 + 1j, complex(-0.0, 1), complex(0.0, 1), complex(1, -0.0)),
        *(2**63, float(2**63), -(2**63)),
    ]
)
times = st.builds(
    datetime.time, hours, st.sampled_from([0, 30]), tzinfo=st.none() | zones
) | st.builds(
    datetime.datetime, st.just(2024), st.just(1), st.integers(1, 2), hours, tzinfo=st.none() | zones
)
others = st.sampled_from(
    [
        *(None, "a", "1", "", b"a", b"", datetime.date(2024, 1, 1), datetime.timedelta(1)),
        *(uuid.UUID(int=1), pathlib.Path("a")),
    ]
)
atoms = numbers | others
keys = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


@examples(1000)
@given(st.tuples(numbers, numbers) | st.tuples(times, times) | st.tuples(keys, keys))
def test_equal_keys_have_one_name_and_others_do_not(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert (name_of(one) == name_of(other)) == (one == other)
    assert key_of(name_of(one)) == one
    assert hash(key_of(name_of(one))) == hash(one)


def test_the_order_in_a_set_does_not_matter() -> None:
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert list(one) != list(other)
    assert name_of((one, 1)) == name_of((other, 1))


NAN = float("nan")


@pytest.mark.parametrize(
    "key",
    [[], {}, set(), ([],), bytearray(b"a"), object(), object, NAN, (NAN,), Decimal("nan"),
     complex(0, NAN), "\ud800", "a%\udfff", ("\ud800",), Decimal("snan"),
     pathlib.PureWindowsPath("a"), enum.Enum("Plain", "A"), (object(),),
     datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))],
)  # fmt: skip
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(TypeError):
        name_of(key)


def test_what_is_no_key_for_its_depth() -> None:
    key: Any = ()
    for _ in range(40):
        key = (key,)
    with pytest.raises(UnsupportedValue):
        name_of(key)


def test_a_decimal_is_not_written_out() -> None:
    assert key_of(name_of(Decimal("1E+100000"))) == Decimal("10E+99999")


def test_an_int_that_is_too_long() -> None:
    assert key_of(name_of(10**1000)) == 10**1000
    with pytest.raises(LimitExceeded):
        name_of(10**5000)

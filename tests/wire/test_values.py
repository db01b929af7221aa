"""The value codec: everything in its table comes back exactly, and what cannot go says so."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udsbus.errors import Error, UnsupportedValue
from udsbus.wire.values import EXTENSIONS, NESTING, decode, encode, extension_of


def same(one: Any, other: Any) -> bool:
    """Equal, of the same type, and so all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return {(type(item), item) for item in one} == {(type(item), item) for item in other}
    if isinstance(one, float | complex | Decimal):
        return repr(one) == repr(other)  # tells -0.0 from 0.0, and NaN is NaN
    if isinstance(one, dt.datetime | dt.time):
        return str(one) == str(other)  # the offset too
    return bool(one == other)


# --- round trips ----------------------------------------------------------------------------

BERLIN = dt.timezone(dt.timedelta(hours=1), "Berlin")
ODD = dt.timezone(dt.timedelta(hours=-3, minutes=-7, seconds=-21, microseconds=-5))
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 127, 128, 2**63, 2**64 - 1, -(2**63),
    2**64, -(2**63) - 1, 10**100, -(10**100), 1 << 100_000,
    0.0, -0.0, 1.5, 5e-324, float("inf"), float("-inf"), float("nan"),
    "", "text", "é😀", "\x00", b"", b"\x00\xff", b"x" * 100_000,
    [], [1, [2, [3]]], {}, {"a": 1}, {1: "int", "1": "str", b"1": "bytes", None: 0, 1.5: 0},
    (), (1,), (1, (2, [3, (4,)])), [()], {"t": (1, 2)}, {(1, 2): "tuple key", (): "empty"},
    set(), {1, 2}, {("a", 1), frozenset({2})}, frozenset(), frozenset({1, "a", None}),
    {frozenset({1}): 1},
    0j, 1 + 2j, complex(-0.0, float("inf")), complex(float("nan"), -0.0),
    dt.datetime(2024, 2, 29, 12, 30, 1, 999_999), dt.datetime.min, dt.datetime.max,
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=BERLIN),
    dt.datetime(2024, 1, 1, tzinfo=ODD),
    dt.date(2024, 2, 29), dt.date.min, dt.date.max,
    dt.time(), dt.time(23, 59, 59, 1), dt.time(12, tzinfo=dt.UTC), dt.time(12, tzinfo=ODD),
    dt.timedelta(), dt.timedelta(-1, 1, 1), dt.timedelta.min, dt.timedelta.max,
    Decimal("0"), Decimal("-0.00"), Decimal("1E+500"), Decimal("NaN"), Decimal("sNaN12"),
    Decimal("-Infinity"), Decimal("3." + "1" * 100),
    uuid.UUID(int=0), uuid.UUID("12345678-1234-5678-1234-567812345678"),
    Path(), Path("/etc/hosts"), Path("a") / "é",
    msgpack.Timestamp(1, 2), msgpack.ExtType(42, b"foreign"),
]  # fmt: skip


def shown(value: Any) -> str:
    text = str(value)[:25] if type(value) is not int else f"of {value.bit_length()} bits"
    if isinstance(value, set | frozenset):  # whose order differs between processes
        text = f"of {len(value)}"
    return f"{type(value).__name__} {text}"


@pytest.mark.parametrize(
    "value", [value for value in VALUES if not isinstance(value, msgpack.ExtType)], ids=shown
)
def test_comes_back_exactly(value: Any) -> None:
    assert same(decode(encode(value)), value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.sampled_from([dt.UTC, BERLIN, ODD]))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.lists(st.text("ab.é", min_size=1, max_size=3), max_size=3).map(lambda parts: Path(*parts))
)
# Equal keys of different types (1, 1.0 and True) would be one key before they are sent, NaN none.
hashables = st.recursive(
    st.none() | st.integers(2) | st.text() | st.binary() | st.dates() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    scalars | hashables | st.sets(hashables, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
@settings(deadline=None)
def test_any_value_comes_back_exactly(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_an_extension_that_is_not_ours_must_not_look_like_one() -> None:
    """An ExtType is sent as it is; the codes that we do not know are refused when read."""
    with pytest.raises(UnsupportedValue, match="extension type 42 is unknown"):
        decode(encode(msgpack.ExtType(42, b"foreign")))


def test_extension_codes_are_distinct_and_leave_those_of_others_alone() -> None:
    codes = [extension.code for extension in EXTENSIONS]
    assert len(set(codes)) == len(codes)
    assert all(3 <= code <= 127 for code in codes)


def test_extension_of() -> None:
    by_name = {f"{one.module}.{one.name}": one for one in EXTENSIONS}
    assert extension_of((1,)) is by_name["builtins.tuple"]
    assert extension_of(dt.datetime.min) is by_name["datetime.datetime"]
    assert extension_of(dt.date.min) is by_name["datetime.date"]
    assert extension_of(Path()) is by_name["pathlib.PurePath"]
    assert extension_of("text") is None
    assert extension_of(object()) is None


# --- what comes back as something else, as docs/values.md says ------------------------------


class Point(NamedTuple):
    x: int
    y: int


class Level(enum.IntEnum):
    LOW = 1


class Size(enum.IntEnum):
    LARGE = 2**80


class Colour(enum.StrEnum):
    RED = "red"


class Old(str, enum.Enum):  # noqa: UP042 - what StrEnum replaces is still about
    MEMBER = "value, not name"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Tagged(tuple[int, ...], enum.Enum):
    PAIR = (1, 2)


class MyInt(int):
    pass


class MyFloat(float):
    def __str__(self) -> str:
        return "not this"


class MyStr(str):
    def __str__(self) -> str:
        return "not this"


class MyBytes(bytes):
    pass


class MyList(list[Any]):
    pass


class MyDate(dt.date):
    pass


BECOMES: list[tuple[Any, Any]] = [
    (Point(1, 2), (1, 2)),
    (Level.LOW, 1),
    (Colour.RED, "red"),
    (Old.MEMBER, "value, not name"),
    (Access.READ | Access.WRITE, 3),
    (Tagged.PAIR, (1, 2)),
    (MyInt(5), 5),
    (MyInt(2**70), 2**70),
    (MyInt(-(2**63) - 1), -(2**63) - 1),
    (Size.LARGE, 2**80),
    ({MyInt(2**70): [Size.LARGE]}, {2**70: [2**80]}),
    (MyFloat(1.5), 1.5),
    (MyStr("text"), "text"),
    (MyBytes(b"b"), b"b"),
    (MyList([Point(1, 2), MyInt(3)]), [(1, 2), 3]),
    (MyDate(2024, 1, 2), dt.date(2024, 1, 2)),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(list, a=[MyStr("x")]), {"a": ["x"]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    ({Level.LOW: Colour.RED}, {1: "red"}),
    ({MyStr("k"): {MyInt(1)}}, {"k": {1}}),
    (bytearray(b"b"), b"b"),
    (memoryview(b"bytes"), b"bytes"),
    (memoryview(array.array("I", [1])), array.array("I", [1]).tobytes()),
    (PurePosixPath("/a"), Path("/a")),
]


@pytest.mark.parametrize(("value", "expected"), BECOMES, ids=lambda value: type(value).__name__)
def test_comes_back_as_its_base(value: Any, expected: Any) -> None:
    assert same(decode(encode(value)), expected)


def test_a_datetime_keeps_its_offset_but_not_the_name_of_its_zone() -> None:
    back = decode(encode(dt.datetime(2024, 1, 1, tzinfo=BERLIN)))
    assert back == dt.datetime(2024, 1, 1, tzinfo=BERLIN)
    assert back.tzinfo == dt.timezone(dt.timedelta(hours=1))
    assert back.tzname() == "UTC+01:00"


def test_utc_comes_back_as_utc() -> None:
    assert decode(encode(dt.datetime(2024, 1, 1, tzinfo=dt.UTC))).tzinfo is dt.UTC


# --- what cannot be sent --------------------------------------------------------------------


class Custom:
    pass


class Plain(enum.Enum):
    MEMBER = 1


@dataclasses.dataclass
class Record:
    x: int = 1


class Model:
    def model_dump(self) -> dict[str, int]:
        return {}


class Vector:
    def tolist(self) -> list[int]:
        return []


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("of the user's class")


CUSTOM = Custom()
REFUSED: list[tuple[Any, list[str]]] = [
    (CUSTOM, ["Custom", "at value)", "plain data"]),
    ([1, CUSTOM], ["Custom", "at value[1])"]),
    ({"a": [1, 2, 3, CUSTOM]}, ["Custom", "at value['a'][3])"]),
    ({"a": {"b": (1, {2: [CUSTOM]})}}, ["Custom", "at value['a']['b'][1][2][0])"]),
    ({CUSTOM: 1}, ["Custom", "at value (a key))"]),
    ({"a": {(1, CUSTOM): 2}}, ["Custom", "at value['a'] (a key)[1])"]),
    ([{1, CUSTOM}], ["Custom", "at value[0] (a member))"]),
    (frozenset({CUSTOM}), ["Custom", "at value (a member))"]),
    (Point(1, CUSTOM), ["Custom", "at value[1])"]),  # type: ignore[arg-type]
    (collections.OrderedDict(k=[CUSTOM]), ["Custom", "at value['k'][0])"]),
    ({"x" * 100: CUSTOM}, ["Custom", f"at value['{'x' * 39}])"]),
    (Plain.MEMBER, ["Plain", "at value)"]),
    ([range(3)], ["type range cannot be sent", "at value[0])"]),
    ({Unprintable(): 1}, ["Unprintable", "at value (a key))"]),
    (lambda: None, ["function"]),
    ([Custom], ["type type cannot be sent", "at value[0])"]),
    (Record(), ["Record", "dataclasses.asdict(...)"]),
    (Model(), ["Model", ".model_dump()"]),
    (Vector(), ["Vector", ".tolist()"]),
    (iter([]), ["list_iterator"]),
    (ValueError("x"), ["type ValueError cannot be sent"]),
    ("\ud800", ["str cannot be sent", "surrogates not allowed"]),
    ({"a": ["\ud800"]}, ["surrogates not allowed"]),
    (Path("\udcff"), ["surrogates not allowed"]),
    (memoryview(b"bytes")[::2], ["memoryview cannot be sent", "not C-contiguous"]),
    ([(memoryview(b"bytes")[::-1],)], ["list cannot be sent", "not C-contiguous"]),
]


@pytest.mark.parametrize(("value", "parts"), REFUSED, ids=range(len(REFUSED)))
def test_refused_with_its_type_and_place(value: Any, parts: list[str]) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        encode(value)
    for part in parts:
        assert part in str(caught.value)


def test_the_refusal_is_a_type_error_and_a_value_error_too() -> None:
    for kind in (Error, TypeError, ValueError):
        with pytest.raises(kind):
            encode(CUSTOM)


def test_a_refusal_leaves_nothing_behind_in_the_next_value() -> None:
    for refused in ("text \ud800", ["text", "\ud800"], [1, CUSTOM]):
        with pytest.raises(UnsupportedValue):
            encode(refused)
        assert encode("a") == b"\xa1a"
        assert encode(["a"]) == b"\x91\xa1a"


def test_a_list_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedValue, match="this list cannot be sent: recursion limit"):
        encode(loop)


def test_a_tuple_that_holds_itself() -> None:
    inside: list[Any] = []
    loop = (inside,)
    inside.append(loop)
    with pytest.raises(UnsupportedValue, match="this tuple cannot be sent"):
        encode(loop)


def test_the_place_of_something_very_deep_is_given_up_not_searched_for_ever() -> None:
    value: Any = CUSTOM
    for _ in range(300):
        value = [value]
    with pytest.raises(UnsupportedValue, match=r"Custom cannot be sent \(at value\)"):
        encode(value)


# --- what cannot be read --------------------------------------------------------------------


def ext(code: int, payload: bytes) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, payload))
    return packed


UNREADABLE = {
    "nothing": b"",
    "a byte that is never used": b"\xc1",
    "half a value": b"\x92\x01",
    "two values": b"\x01\x02",
    "invalid UTF-8": b"\xa1\xff",
    "an array as key": b"\x81\x90\x01",
    "a set as key": b"\x81" + encode({1}) + b"\x01",
    "arrays in arrays in arrays": b"\x91" * 100_000 + b"\xc0",
    "an array said to be huge": b"\xdd\xff\xff\xff\xff",
    "an unknown extension": ext(99, b""),
    "an extension of another kind of client": ext(0, b"\x01"),
    "a tuple of nothing": ext(3, b""),
    "a tuple of a number": ext(3, b"\x01"),
    "a set of arrays": ext(4, b"\x91\x90"),
    "a frozenset of half an array": ext(5, b"\x92\x01"),
    "a complex number of three parts": ext(6, b"\x93\x01\x02\x03"),
    "a complex number of texts": ext(6, b"\x92\xa1x\xa1y"),
    "an int of nothing": ext(7, b"\xc0"),
    "a datetime of a number": ext(8, b"\x01"),
    "a datetime that is none": ext(8, msgpack.packb("yesterday")),
    "a date that is none": ext(9, msgpack.packb("2024-02-30")),
    "a time that is none": ext(10, msgpack.packb("25:00")),
    "a timedelta of too much": ext(11, msgpack.packb([10**18, 0, 0])),
    "a Decimal that is none": ext(12, msgpack.packb("one")),
    "a UUID that is too short": ext(13, msgpack.packb(b"short")),
    "a path of a number": ext(14, b"\x01"),
    "a tuple of an unknown extension": ext(3, b"\x91" + ext(99, b"")),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_bytes_that_are_no_value(data: bytes) -> None:
    with pytest.raises(UnsupportedValue, match=r"no value that this version reads|is unknown to"):
        decode(data)


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_random_bytes_are_a_value_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnsupportedValue):
        decode(data)


@given(values, st.data())
@settings(deadline=None)
def test_damaged_values_are_a_value_or_refused(value: Any, data: st.DataObject) -> None:
    good = encode(value)
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    with contextlib.suppress(UnsupportedValue):
        decode(damaged)


# --- depth ----------------------------------------------------------------------------------

NESTED = """
import sys
import threading
from udsbus.errors import UnsupportedValue
from udsbus.wire.values import decode, encode

def nested(kind, depth):
    value = kind()
    for _ in range(depth - 1):
        value = kind([value])
    return value

def mixed(items=()):
    # A tuple whose items are deep in lists.
    for _ in range(1000 if items else 0):
        items = [items]
    return tuple(items)

def outcome(value):
    try:
        data = encode(value)
    except UnsupportedValue:
        return "not sent"
    try:
        back, depth = decode(data), 1
    except UnsupportedValue:
        return "not read"
    while back:
        (back,) = back
        depth += 1
    return depth

def all_outcomes():
    kind, *depths = sys.argv[1:]
    kind = {"list": list, "tuple": tuple, "frozenset": frozenset, "mixed": mixed}[kind]
    print(*(outcome(nested(kind, int(depth))) for depth in depths), sep=",")

thread = threading.Thread(target=all_outcomes)
thread.start()
thread.join()
"""


def outcomes(kind: str, depths: list[int]) -> list[str]:
    """What becomes of values nested so deep, in a process that they might end."""
    run = subprocess.run(
        [sys.executable, "-c", NESTED, kind, *map(str, depths)], capture_output=True, text=True
    )
    assert run.returncode == 0, f"ended with {run.returncode}"
    assert not run.stderr
    return run.stdout.strip().split(",")


def test_lists_are_read_to_a_depth_of_1024() -> None:
    depths = [10, 500, 1023, 1024]
    assert outcomes("list", depths) == list(map(str, depths))


def test_lists_nested_more_deeply_are_refused_by_encode_or_by_decode() -> None:
    """A known limit: encode does not know how deep msgpack reads."""
    at_1025, *deeper = outcomes("list", [1025, 1026, 1500, 5000, 100_000])
    assert at_1025 == "not read"
    assert set(deeper) <= {"not sent", "not read"}


@pytest.mark.parametrize("kind", ["tuple", "frozenset"])
def test_extension_types_within_one_another_are_limited(kind: str) -> None:
    depths = [1, NESTING - 1, NESTING]
    assert outcomes(kind, depths) == list(map(str, depths))
    assert set(outcomes(kind, [NESTING + 1, 100, 250, 5000])) == {"not sent"}


def test_lists_between_extension_types_do_not_add_up() -> None:
    """Each extension type is packed for itself, and so counted for itself, on one C stack."""
    assert set(outcomes("mixed", [3, 10, 25, NESTING])) == {"not sent"}


@pytest.mark.parametrize("innermost", [Decimal(1), dt.date.min, 2**64, {1}, (1,)], ids=shown)
def test_every_extension_type_counts_and_plain_types_between_do_not(innermost: Any) -> None:
    value = innermost
    for _ in range(NESTING - 1):
        value = ({"k": [[value]]},)
    assert same(decode(encode(value)), value)
    with pytest.raises(UnsupportedValue, match=f"more than {NESTING} tuples, sets, … within"):
        encode([(value,)])


def test_the_bound_is_the_same_when_reading() -> None:
    data = b"\xc0"
    for _ in range(NESTING):
        data = ext(3, b"\x91" + data)
    assert decode(data)
    with pytest.raises(UnsupportedValue, match=f"more than {NESTING} extension types"):
        decode(ext(3, b"\x91" + data))


HOSTILE_TUPLE = """
import msgpack
from udsbus.errors import UnsupportedValue
from udsbus.wire.values import decode

data = bytes([0xc0])
for _ in range(1_000):
    data = msgpack.packb(msgpack.ExtType(3, bytes([0x91]) + data))
try:
    decode(data)
except UnsupportedValue:
    print("refused")
"""


def test_a_hostile_value_does_not_end_the_process_that_reads_it() -> None:
    run = subprocess.run([sys.executable, "-c", HOSTILE_TUPLE], capture_output=True, text=True)
    assert run.returncode == 0, f"ended with {run.returncode}"
    assert run.stdout.strip() == "refused"


# --- imports --------------------------------------------------------------------------------

IMPORTS = """
import sys
import msgpack
before = set(sys.modules)
import udsbus.wire.values as values
print(*sorted({"decimal", "uuid", "pathlib"} & (set(sys.modules) - before)))
values.decode(values.encode([1, "a", (2,), {3}, {"k": 1.5}]))
print(*sorted({"decimal", "uuid", "pathlib"} & (set(sys.modules) - before)))
print(type(values.decode(bytes([0xc7, 2, 12, 0xa1, 0x31]))).__name__)
"""


def test_the_modules_of_extended_types_are_imported_when_one_is_met() -> None:
    output = subprocess.check_output([sys.executable, "-c", IMPORTS], text=True)
    assert output.splitlines() == ["", "", "Decimal"]


def test_every_extension_is_met_in_these_tests() -> None:
    met = {one.code for value in VALUES if (one := extension_of(value))}
    assert met == {one.code for one in EXTENSIONS}
    assert isinstance(Path(), PurePath)

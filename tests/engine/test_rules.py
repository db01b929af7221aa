from __future__ import annotations

import pytest

from udsbus.engine.rules import check_reply, check_revision, check_value, incremented
from udsbus.errors import Conflict, InvalidRequest, LimitExceeded
from udsbus.limits import FRAME_BYTES, NUMBER_BYTES, VALUE_BYTES

from .support import TextNumbers


def test_a_value_has_from_one_byte_to_value_bytes() -> None:
    check_value("a", b"1")
    check_value("a", bytes(VALUE_BYTES))
    with pytest.raises(InvalidRequest, match="'a': an empty `bin` is no encoded value"):
        check_value("a", b"")
    with pytest.raises(LimitExceeded, match=f"'a': a value of {VALUE_BYTES + 1} bytes") as caught:
        check_value("a", bytes(VALUE_BYTES + 1))
    assert caught.value.details == {
        "limit": "value_bytes",
        "maximum": VALUE_BYTES,
        "actual": VALUE_BYTES + 1,
    }


def test_a_revision_is_the_expected_one_or_a_conflict() -> None:
    check_revision("a", 0, None)
    check_revision("a", 3, (b"1", 3, None))
    for expected, entry in ((0, (b"1", 3, None)), (3, None), (4, (b"1", 3, None))):
        with pytest.raises(Conflict):
            check_revision("a", expected, entry)


def test_a_reply_fits_into_one_frame() -> None:
    value = bytes(VALUE_BYTES)
    check_reply([value, None, 7, True, value])
    with pytest.raises(LimitExceeded, match="ask for fewer at once") as caught:
        check_reply([value, None, value, value])
    assert caught.value.details["limit"] == "frame_bytes"
    assert caught.value.details["maximum"] < FRAME_BYTES


@pytest.mark.parametrize(
    ("stored", "by", "number"),
    [(None, 1, 1), (None, -0.5, -0.5), (b"41", 1, 42), (b"0.5", 1, 1.5), (b"-1", 1, 0)],
)
def test_incremented(stored: bytes | None, by: float, number: float) -> None:
    entry = None if stored is None else (stored, 1, None)
    result, value = incremented("n", by, entry, TextNumbers())
    assert result == number
    assert type(result) is type(number)
    assert value == repr(number).encode()


@pytest.mark.parametrize("stored", [b"text", b"1" * (NUMBER_BYTES + 1)])
def test_only_a_number_can_be_incremented(stored: bytes) -> None:
    with pytest.raises(InvalidRequest, match="'n' does not hold a number"):
        incremented("n", 1, (stored, 1, None), TextNumbers())


@pytest.mark.parametrize("by", [float("nan"), float("inf"), -float("inf"), 1.7e308])
def test_a_number_stays_one(by: float) -> None:
    """After one NaN each later result would be NaN too."""
    with pytest.raises(InvalidRequest, match="cannot be counted on from"):
        incremented("n", by, (b"1.7e308", 1, None), TextNumbers())


def test_a_bool_is_no_number() -> None:
    class Bools(TextNumbers):
        def decode(self, data: bytes) -> bool:
            return True

    with pytest.raises(InvalidRequest, match="does not hold a number"):
        incremented("n", 1, (b"x", 1, None), Bools())


def test_a_number_does_not_grow_for_ever() -> None:
    largest = int("9" * NUMBER_BYTES)
    assert incremented("n", largest, None, TextNumbers())[0] == largest
    with pytest.raises(LimitExceeded, match="beyond 64 bits") as caught:
        incremented("n", largest + 1, None, TextNumbers())
    assert caught.value.details == {
        "limit": "number_bytes",
        "maximum": NUMBER_BYTES,
        "actual": NUMBER_BYTES + 1,
    }


def test_what_is_too_long_for_a_number_is_not_looked_into() -> None:
    class Unasked(TextNumbers):
        def decode(self, data: bytes) -> int:
            raise AssertionError("decoded")

    with pytest.raises(InvalidRequest, match="'n' does not hold a number"):
        incremented("n", 1, (b"1" * (NUMBER_BYTES + 1), 1, None), Unasked())

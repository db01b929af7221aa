from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.support import examples
from udsbus.journal.records import (
    MAGIC,
    MARK,
    OVERHEAD,
    BadRecord,
    Header,
    Turn,
    UnknownFormat,
    frame,
    header_payload,
    next_record,
    read_header,
    read_turn,
    record_at,
    turn_payload,
    turns,
)
from udsbus.messages import Answered, DeadlineMoved, Recorded, Writer
from udsbus.terms import UPDATED

HEADER = Header(3, 12_345, 12_000, "a bus", 77, "boot", "0.1.0")
TURN = Turn(
    1.5,
    2.5,
    100,
    [Recorded(78, UPDATED, "ü", b"\x01", 9.5, 4), DeadlineMoved("ü", None)],
    {4: Writer(1, 2, "name", "session", 7), 5: Writer(3, 4, None)},
    (Answered(4, 99, b"response"),),
    True,
)


def segment(*of: Turn, header: Header = HEADER) -> bytes:
    data = MAGIC + frame(header_payload(header), 0)
    for turn in of:
        data += frame(turn_payload(turn), header.start + len(data))
    return data


def test_a_segment_is_read_as_it_was_written() -> None:
    data = segment(TURN, TURN._replace(writers={}))
    header, offset = read_header(data)
    assert header == HEADER
    found = list(turns(data, offset, header.start))
    assert [turn for _, turn in found] == [TURN, TURN._replace(writers={})]
    assert found[-1][0] == len(data)
    kinds = [type(change) for change in found[0][1].changes]
    assert kinds == [Recorded, DeadlineMoved]


@given(st.binary(max_size=300), st.integers(0, 2**40), st.binary(max_size=40))
@examples(200)
def test_any_payload(payload: bytes, position: int, before: bytes) -> None:
    data = before + frame(payload, position + len(before)) + b"rest"
    assert record_at(data, len(before), position) == payload


def test_a_record_counts_only_where_it_was_written() -> None:
    """A block of a file in the place of another, or a record that is somebody's value."""
    data = frame(b"payload", 1000)
    assert record_at(data, 0, 1000) == b"payload"
    with pytest.raises(BadRecord, match="checksum"):
        record_at(data, 0, 1001)


def test_the_next_good_record_is_found_behind_rubbish() -> None:
    data = MARK + b"rubbish" + MARK
    first = len(data)
    data += frame(b"one", first)
    second = len(data)
    data += frame(MARK * 3, second)
    assert next_record(data, 0, 0) == first
    assert next_record(data, first, 0) == second
    assert next_record(data, second, 0) is None


def test_another_format_is_not_taken_for_damage() -> None:
    data = segment(TURN).replace(b"journal 1\n", b"journal 2\n")
    with pytest.raises(UnknownFormat, match="format version '2'"):
        read_header(data)
    for other in (b"", b"\n", b"udsbus", b"something else entirely"):
        with pytest.raises(BadRecord) as caught:
            read_header(other)
        assert not isinstance(caught.value, UnknownFormat)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc0", b"\x90", b"\x95\x01\x01\x01\x01\x01", b"\x93\x01\x02\x03"]
)
def test_what_is_no_turn(payload: bytes) -> None:
    with pytest.raises(BadRecord, match="cannot be read") as caught:
        read_turn(payload, 42)
    assert caught.value.offset == 42


def test_later_releases_may_add_to_a_turn() -> None:
    """An array may become longer; what this release does not know of, it does not read."""
    payload = b"\x98" + turn_payload(TURN)[1:] + b"\xc0"
    assert turn_payload(TURN)[:1] == b"\x97"
    assert read_turn(payload, 0) == TURN


def test_every_cut_and_every_flip_of_a_record_is_noticed() -> None:
    data = frame(turn_payload(TURN), 500)
    for length in range(len(data)):
        with pytest.raises(BadRecord):
            record_at(data[:length], 0, 500)
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(data)
            bad[at] ^= flip
            with pytest.raises(BadRecord):
                record_at(bytes(bad), 0, 500)
    assert len(data) == OVERHEAD + len(turn_payload(TURN))

"""Records of the version page: what is written is read, and nothing else."""

from __future__ import annotations

import mmap
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import records
from udsbus.records import RECORD_BYTES, ROOM, read_record, write_record

NUMBERS = st.integers(1, 2**64 - 1)
KEYS = st.binary(min_size=1, max_size=40)
VALUES = st.none() | st.binary(max_size=ROOM - 40)


def memory(records: int = 1) -> mmap.mmap:
    return mmap.mmap(-1, records * RECORD_BYTES)


@given(NUMBERS, KEYS, VALUES, st.integers(1, 2**64 - 1))
def test_what_is_written_is_read(number: int, key: bytes, value: bytes | None, rev: int) -> None:
    place = memory(3)
    before = place[:]
    write_record(place, RECORD_BYTES, number, key, value, rev)
    assert place[:RECORD_BYTES] == before[:RECORD_BYTES]
    assert place[2 * RECORD_BYTES :] == before[2 * RECORD_BYTES :]
    expected = (None, 0) if value is None else (value, rev)
    assert read_record(place, RECORD_BYTES, number, key) == expected
    assert read_record(place, RECORD_BYTES, number - 1, key) is None, "of another change"
    assert read_record(place, RECORD_BYTES, number, key + b"x") is None, "of another key"
    assert read_record(place, RECORD_BYTES, number, key[:-1]) is None


def test_the_largest() -> None:
    place = memory()
    write_record(place, 0, 1, b"k" * 100, b"v" * (ROOM - 100), 7)
    assert read_record(place, 0, 1, b"k" * 100) == (b"v" * (ROOM - 100), 7)


def test_an_empty_page_has_none() -> None:
    assert read_record(memory(), 0, 0, b"a") is None
    assert read_record(memory(), 0, 0, b"") is None


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), KEYS)
def test_whatever_stands_there(data: bytes, key: bytes) -> None:
    place = memory()
    place[:] = data
    number = int.from_bytes(data[:8], "little")
    assert read_record(place, 0, number, key) is None


@given(KEYS, st.binary(min_size=1, max_size=100), st.binary(min_size=1, max_size=100), st.data())
def test_the_half_of_another(key: bytes, one: bytes, two: bytes, data: st.DataObject) -> None:
    """The seal of one, and the body of the next in part: as a reader might see it whose loads are
    not in order."""
    place, other = memory(), memory()
    write_record(place, 0, 1, key, one, 5)
    write_record(other, 0, 2, key, two, 6)
    cut = data.draw(st.integers(17, RECORD_BYTES - 1))
    torn = memory()
    torn[:] = place[:cut] + other[cut:]
    assert read_record(torn, 0, 1, key) in (None, (one, 5))


@pytest.mark.parametrize("ordered", [True, False])
def test_while_it_is_written(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, as quickly as it can, for half a second; with and without fences."""
    monkeypatch.setattr(records, "ORDERED", ordered and records.ORDERED)
    page = mmap.mmap(-1, 2 * RECORD_BYTES)
    words = memoryview(page).cast("Q")
    at = RECORD_BYTES
    pid = os.fork()
    if pid == 0:
        number = 0
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            number += 1
            words[0] = number
            write_record(page, at, number, b"key", bytes([number & 0xFF]) * 100, number)
            write_record(page, at, number, b"yek", bytes([number & 0xFF]) * 100, number)
        words[1] = 1
        os._exit(0)
    read = 0
    while not words[1]:
        number = words[0]
        found = read_record(page, at, number, b"key")
        if found is not None:
            read += 1
            assert found == (bytes([number & 0xFF]) * 100, number)
    assert os.waitpid(pid, 0)[1] == 0
    assert read > 100


@pytest.mark.parametrize("length", [0, 1, ROOM])
def test_lengths(length: int) -> None:
    place = memory()
    write_record(place, 0, 3, b"", b"v" * length, 1)
    assert read_record(place, 0, 3, b"") == (b"v" * length, 1)

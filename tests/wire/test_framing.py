"""The decoder: whole, in parts, with others, hostile. Never raises, never reads past a cause."""

from __future__ import annotations

import resource
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udsbus.limits import FRAME_BYTES, MIB, RECEIVE_BYTES
from udsbus.terms import CloseReason
from udsbus.wire import framing
from udsbus.wire.framing import Decoder

GET = [0, 1, "get", ["a"]]
MESSAGES: list[list[Any]] = [
    GET,
    [0, 4294967295, "set", ["services/a", b"\xa5hello", {"ttl": 5.0}]],
    [0, 2, "set", ["a", b"x" * 70_000]],
    [1, 1, None, [1, 2.5, None, True, "é", b"\x00"]],
    [1, 2, [5, "no"], {"error": "conflict", "revision": 7}],
    [2, "change", [9, "created", "a", b"\x01"]],
    [2, "message", ["t", {"deep": [[[[{1: {2: 3}}]]]]}]],
]
FRAMES = [msgpack.packb(message) for message in MESSAGES]
STREAM = b"".join(FRAMES)


def fed(*pieces: bytes) -> tuple[list[Any], Decoder]:
    """Everything that a decoder makes of the pieces, and the decoder."""
    decoder = Decoder()
    return [message for piece in pieces for message in decoder.feed(piece)], decoder


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# --- whole, in parts, with others -----------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message)[:30])
def test_one_whole_message(message: list[Any]) -> None:
    messages, decoder = fed(msgpack.packb(message))
    assert messages == [message]
    assert decoder.cause is None


def test_whole_messages_one_after_another() -> None:
    messages, decoder = fed(*FRAMES)
    assert messages == MESSAGES
    assert decoder.cause is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, RECEIVE_BYTES])
def test_pieces_of_a_fixed_size(size: int) -> None:
    messages, decoder = fed(*pieces(STREAM, size))
    assert messages == MESSAGES
    assert decoder.cause is None


def test_each_message_comes_out_with_its_last_byte() -> None:
    decoder = Decoder()
    for message, frame in zip(MESSAGES, FRAMES, strict=True):
        for byte in frame[:-1]:
            assert decoder.feed(bytes([byte])) == []
        assert decoder.feed(frame[-1:]) == [message]


def test_every_split_in_two() -> None:
    frame = msgpack.packb(MESSAGES[1])
    for at in range(len(frame) + 1):
        messages, decoder = fed(frame[:at], frame[at:])
        assert messages == [MESSAGES[1]], at
        assert decoder.cause is None


def test_the_beginning_of_the_next_message_waits() -> None:
    frame = msgpack.packb(GET)
    decoder = Decoder()
    assert decoder.feed(frame + frame[:3]) == [GET]
    assert decoder.feed(frame[3:] + frame + frame[:1]) == [GET, GET]
    assert decoder.feed(frame[1:]) == [GET]
    assert decoder.feed(frame) == [GET]


def test_nothing_at_all() -> None:
    messages, decoder = fed(b"", msgpack.packb(GET), b"", msgpack.packb(GET))
    assert messages == [GET, GET]
    assert decoder.cause is None


def test_messages_alone_and_together_in_turns() -> None:
    alone = msgpack.packb(GET)
    large = msgpack.packb([0, 3, "set", ["k", b"v" * (5 * RECEIVE_BYTES)]])
    messages, decoder = fed(alone, alone * 3, alone, *pieces(large, RECEIVE_BYTES), alone, alone)
    assert [message[1] for message in messages] == [1, 1, 1, 1, 1, 3, 1, 1]
    assert decoder.cause is None


# --- messages that are too large ------------------------------------------------------------


def frame_of(size: int) -> bytes:
    """A message of exactly `size` bytes, nearly all of them one `bin`."""
    empty = msgpack.packb([0, 1, "set", ["k", b"\0" * 70_000]])
    frame: bytes = msgpack.packb([0, 1, "set", ["k", b"\0" * (size - len(empty) + 70_000)]])
    assert len(frame) == size
    return frame


def test_a_message_at_the_limit() -> None:
    messages, decoder = fed(*pieces(frame_of(FRAME_BYTES), RECEIVE_BYTES))
    assert len(messages) == 1
    assert decoder.cause is None


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit that a test reaches cheaply."""
    limit = 4 * RECEIVE_BYTES
    monkeypatch.setattr(framing, "FRAME_BYTES", limit)
    return limit


@pytest.mark.parametrize("size", [1, 1000, RECEIVE_BYTES])
def test_a_message_above_the_limit(small_limit: int, size: int) -> None:
    """Refused at the first receive after which more than the limit waits for its end."""
    decoder = Decoder()
    taken = 0
    head, *rest = pieces(frame_of(3 * small_limit), small_limit)
    for piece in (head, *pieces(rest[0], size)):
        assert decoder.cause is None
        assert decoder.feed(piece) == []
        taken += len(piece)
        if taken > small_limit:
            break
    assert small_limit < taken <= small_limit + size
    assert decoder.reason is CloseReason.TOO_LARGE
    assert decoder.cause == f"a message is larger than {small_limit} bytes"
    assert decoder.feed(msgpack.packb(GET)) == []


def test_the_bytes_that_wait_are_let_go_with_the_cause(small_limit: int) -> None:
    _, decoder = fed(*pieces(frame_of(2 * small_limit), RECEIVE_BYTES))
    assert decoder._unpacker is None


def test_messages_at_the_limit_one_after_another(small_limit: int) -> None:
    data = frame_of(small_limit) * 3
    messages, decoder = fed(*pieces(data, RECEIVE_BYTES - 1))
    assert len(messages) == 3
    assert decoder.cause is None


def test_what_was_whole_before_a_message_that_is_too_large_is_returned(small_limit: int) -> None:
    data = msgpack.packb(GET) * 2 + frame_of(small_limit * 2)
    messages, decoder = fed(*pieces(data, RECEIVE_BYTES))
    assert messages == [GET, GET]
    assert decoder.reason is CloseReason.TOO_LARGE


def test_many_messages_together_may_be_larger_than_the_limit(small_limit: int) -> None:
    frame = msgpack.packb(GET)
    number = 2 * small_limit // len(frame)
    messages, decoder = fed(*pieces(frame * number, RECEIVE_BYTES))
    assert len(messages) == number
    assert decoder.cause is None


@pytest.mark.parametrize("first", [1, 1000, RECEIVE_BYTES])
def test_what_follows_a_message_does_not_count_against_it(small_limit: int, first: int) -> None:
    data = frame_of(small_limit - 1) + msgpack.packb(GET) * 10_000
    messages, decoder = fed(data[:first], *pieces(data[first:], RECEIVE_BYTES))
    assert decoder.cause is None
    assert len(messages) == 10_001


def test_a_message_of_many_small_parts_is_too_large_too(small_limit: int) -> None:
    """The limit is there to bound memory; small parts take more of it than large ones."""
    data: bytes = msgpack.packb([0, 1, "set", [[1_000] * 10_000] * 150])
    assert len(data) > 8 * small_limit
    messages, decoder = fed(*pieces(data, RECEIVE_BYTES))
    assert messages == []
    assert decoder.reason is CloseReason.TOO_LARGE


# --- hostile bytes --------------------------------------------------------------------------

REQUEST_HEAD = b"\x94\x00\x01\xa1x"
HOSTILE = {
    "a byte that is never used": b"\xc1",
    "a byte that is never used, inside": REQUEST_HEAD + b"\x91\xc1",
    "arrays in arrays in arrays": b"\x91" * 100_000,
    "arrays in arrays, whole": b"\x91" * 100_000 + b"\xc0",
    "maps in maps in maps": b"\x81\xc0" * 100_000,
    "arrays in arrays in a request": REQUEST_HEAD + b"\x91" * 100_000 + b"\xc0",
    "an array said to be huge": b"\xdd\xff\xff\xff\xff",
    "a map said to be huge": REQUEST_HEAD + b"\xdf\xff\xff\xff\xff",
    "invalid UTF-8": b"\x94\x00\x01\xa2\xff\xfe\x90",
    "half a surrogate pair": b"\x94\x00\x01\xa3\xed\xa0\x80\x90",
    "a map with an array as key": REQUEST_HEAD + b"\x91\x81\x90\x01",
    "a map with a map as key": REQUEST_HEAD + b"\x91\x81\x80\x01",
    "a timestamp of a wrong size": REQUEST_HEAD + b"\x91\xc7\x03\xff\x00\x00\x00",
    "a timestamp of too many nanoseconds": REQUEST_HEAD + b"\x91\xd7\xff" + b"\xff" * 8,
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_become_a_cause(data: bytes, size: int | None) -> None:
    messages, decoder = fed(*(pieces(data, size) if size else [data]))
    assert messages == []
    assert decoder.cause
    assert decoder.cause.startswith("not MessagePack: ")
    assert decoder.reason is CloseReason.BAD_BYTES


def test_a_huge_announcement_costs_nothing() -> None:
    """Lengths that are announced and do not come: 64 MiB each, a thousand deep."""
    messages, decoder = fed(REQUEST_HEAD, b"\xdd\x03\xff\xff\xff" * 1_000)
    assert messages == []
    assert decoder.cause is None


WRONG_SHAPES: list[Any] = [
    None, True, 0, -1, 1.5, "get", b"get", {}, {0: 1}, [], [0], [0, 1], [0, 1, "get"], [1, 1, None],
    [2, "x"], [2], [3, 1, "get", []], [-1, 1, "get", []], ["0", 1, "get", []], [None, 1, "get", []],
    [[0], 1, "get", []], [0, 1, "get", [], 5], [1, 1, None, None, None], [2, "x", [], None],
    [True, 1, "get", []], [0.0, 1, "get", []], [2, 1, "get", []],
    msgpack.ExtType(5, b"\x94"), msgpack.Timestamp(1),
]  # fmt: skip


NO_MSGID: list[Any] = [None, True, False, -1, 2**32, 2**64 - 1, 1.0, "1", b"1", [1], {}]
WRONG_SHAPES += [[kind, msgid, "get", []] for kind in (0, 1) for msgid in NO_MSGID]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("message", WRONG_SHAPES, ids=repr)
def test_messages_of_a_wrong_shape_become_a_cause(message: Any, together: bool) -> None:
    frame = msgpack.packb(message)
    good = msgpack.packb(GET)
    messages, decoder = fed(good + frame + good) if together else fed(good, frame, good)
    assert messages == [GET]
    assert decoder.cause
    assert decoder.cause.startswith("not MessagePack-RPC: expected [0, msgid, method, params]")
    assert decoder.reason is CloseReason.BAD_BYTES


def test_the_cause_shows_what_came_but_not_all_of_it() -> None:
    _, decoder = fed(msgpack.packb([9, "x" * 100_000, list(range(1000))]))
    assert decoder.cause
    assert "[9, 'xxx" in decoder.cause
    assert len(decoder.cause) < 300


def test_after_a_cause_nothing_is_taken() -> None:
    good = msgpack.packb(GET)
    for bad in (b"\xc1", msgpack.packb("no message")):
        decoder = Decoder()
        assert decoder.feed(good + good + bad + good) == [GET, GET]
        cause = decoder.cause
        assert cause
        for more in (good, good * 2, b"", b"\xc1", good[:2], good[2:]):
            assert decoder.feed(more) == []
        assert decoder.cause == cause


# --- properties -----------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
objects = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(scalars, inner, max_size=5),
    max_leaves=20,
)
messages_of_any_kind = (
    st.tuples(st.just(0), st.integers(0, 2**32 - 1), st.text(), st.lists(objects, max_size=4))
    | st.tuples(st.just(1), st.integers(0, 2**32 - 1), objects, objects)
    | st.tuples(st.just(2), st.text(), st.lists(objects, max_size=4))
)
streams = st.lists(messages_of_any_kind.map(msgpack.packb), max_size=8)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    edges = [0, *places, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(streams, st.data())
@settings(deadline=None, max_examples=50)
def test_cut_anywhere_the_same_messages_come_out(frames: list[bytes], data: st.DataObject) -> None:
    messages, decoder = fed(*data.draw(cut(b"".join(frames))))
    assert [msgpack.packb(message) for message in messages] == frames
    assert decoder.cause is None


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(deadline=None)
def test_random_bytes_never_raise(data: list[bytes]) -> None:
    messages, decoder = fed(*data)
    assert isinstance(messages, list)
    if decoder.cause is not None:
        assert decoder.feed(msgpack.packb(GET)) == []


@given(streams, st.binary(min_size=1, max_size=50), st.data())
@settings(deadline=None, max_examples=50)
def test_what_was_good_before_rubbish_is_returned(
    frames: list[bytes], rubbish: bytes, data: st.DataObject
) -> None:
    messages, _ = fed(*data.draw(cut(b"".join(frames) + rubbish)))
    assert [msgpack.packb(message) for message in messages[: len(frames)]] == frames


@given(messages_of_any_kind.map(msgpack.packb), st.data())
@settings(deadline=None)
def test_a_damaged_message_never_raises(frame: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frame) - 1))
    damaged = frame[:at] + data.draw(st.binary(max_size=4)) + frame[at + 1 :]
    fed(*data.draw(cut(damaged)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_header_alone_takes_no_memory() -> None:
    """Five bytes announce 128 Mi elements, thirty times. msgpack before 1.2.4 made room."""

    def mapped_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    before = mapped_bytes()
    messages, decoder = fed(bytes.fromhex("94 00 01 a1 78") + bytes.fromhex("dd 07 ff ff f0") * 30)
    assert messages == []
    assert mapped_bytes() - before < 64 * MIB
    assert decoder.cause is None

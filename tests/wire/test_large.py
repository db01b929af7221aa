"""Messages with large values: packed and received like any other, only with fewer copies."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udsbus
from udsbus import Change
from udsbus.limits import FRAME_BYTES, KIB, LARGE_BYTES, LARGE_RECEIVE_BYTES, MIB, RECEIVE_BYTES
from udsbus.messages import Change as ChangeMessage
from udsbus.messages import Message
from udsbus.wire.encoding import (
    encode_change,
    encode_detailed,
    encode_message,
    encode_result,
)
from udsbus.wire.framing import Decoder
from udsbus.wire.large import end_of_large, packed
from udsbus.wire.values import decode, encode

from ..harness import BrokerProcess

LARGE = bytes(range(256)) * (2 * LARGE_BYTES // 256)
WITH_LARGE: dict[str, tuple[Any, ...]] = {
    "a request": (0, 1, "set", ("key", LARGE)),
    "a request with options": (0, 1, "set", ("key", LARGE, {"ttl": 5.0, "if_changed": True})),
    "a response": (1, 7, None, LARGE),
    "a response of several": (1, 7, None, (40, 2, LARGE, 12, 0.5)),
    "a notification": (2, "change", (9, "updated", "key", LARGE)),
    "two large ones": (2, "change", (9, "updated", "key", LARGE, LARGE[1:], "session")),
    "inside lists and maps": (0, 1, "set_many", ({"key": LARGE, "other": b"x"},)),
}


def as_lists(item: Any) -> Any:
    if isinstance(item, tuple | list):
        return [as_lists(each) for each in item]
    return {key: as_lists(each) for key, each in item.items()} if isinstance(item, dict) else item


def pieces(data: bytes, *sizes: int) -> list[bytes]:
    """`data` cut: the first sizes, then again and again the last one."""
    found, at, left = [], 0, list(sizes)
    while at < len(data):
        size = left.pop(0) if len(left) > 1 else left[0]
        found.append(data[at : at + size])
        at += size
    return found


# --- packing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", WITH_LARGE.values(), ids=WITH_LARGE)
def test_packed_is_what_a_packer_makes(message: tuple[Any, ...]) -> None:
    packer = msgpack.Packer(autoreset=True)
    assert packed(packer.pack, message) == msgpack.packb(message)


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1])
def test_frames_on_both_sides_of_the_bound(size: int) -> None:
    value = LARGE[:size]
    change = ChangeMessage(9, "updated", "key", value, before=value, session="one")
    message = Message("topic", value, (), about=(3, "one"))
    assert encode_result(7, value) == msgpack.packb([1, 7, None, value])
    assert encode_result(7, (value, 3, None)) == msgpack.packb([1, 7, None, [value, 3, None]])
    short = [9, "updated", "key", value]
    assert encode_change(change) == msgpack.packb([2, "change", short])
    assert encode_change(change, True) == msgpack.packb([2, "change", [*short, value, "one"]])
    assert encode_message("topic", value) == msgpack.packb([2, "message", ["topic", value]])
    assert encode_detailed(message) == msgpack.packb([2, "message", ["topic", value, 3, "one"]])
    text = "ü" * size
    for sent in (value, text):
        assert encode(sent) == msgpack.packb(sent)
        assert decode(encode(sent)) == sent


def test_a_large_text_that_is_none_is_refused() -> None:
    with pytest.raises(udsbus.UnsupportedValue, match="this str cannot be sent"):
        encode("x" * LARGE_BYTES + "\ud800")


# --- receiving --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [5_000, RECEIVE_BYTES, len(LARGE)])
@pytest.mark.parametrize("message", WITH_LARGE.values(), ids=WITH_LARGE)
def test_it_comes_out_with_its_last_byte(message: tuple[Any, ...], first: int) -> None:
    frame = msgpack.packb(message)
    decoder = Decoder()
    for piece in pieces(frame[:-1], first, 20_000):
        assert decoder.feed(piece) == []
    assert decoder.feed(frame[-1:]) == [as_lists(message)]
    assert decoder.share == RECEIVE_BYTES


def test_while_it_comes_more_is_received_at_once() -> None:
    frame = msgpack.packb((0, 1, "set", ("key", LARGE)))
    decoder = Decoder()
    decoder.feed(frame[:RECEIVE_BYTES])
    assert decoder.share == LARGE_RECEIVE_BYTES
    assert len(decoder.feed(frame[RECEIVE_BYTES:])) == 1
    assert decoder.share == RECEIVE_BYTES


def test_what_comes_with_its_end_is_not_lost() -> None:
    frame = msgpack.packb((0, 1, "set", ("key", LARGE)))
    get = msgpack.packb((0, 2, "get", ("key",)))
    decoder = Decoder()
    assert decoder.feed(frame[:RECEIVE_BYTES]) == []
    whole, second, third = decoder.feed(frame[RECEIVE_BYTES:] + get + frame)
    assert whole == third == [0, 1, "set", ["key", LARGE]]
    assert second == [0, 2, "get", ["key"]]
    assert decoder.feed(get) == [[0, 2, "get", ["key"]]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_stream_in_any_pieces(data: st.DataObject) -> None:
    chosen = data.draw(
        st.lists(st.sampled_from([*WITH_LARGE.values(), (0, 2, "get", ("key",))]), max_size=5)
    )
    stream = b"".join(map(msgpack.packb, chosen))
    sizes = st.integers(1, 3 * LARGE_BYTES)
    decoder, found, at = Decoder(), [], 0
    while at < len(stream):
        size = data.draw(sizes)
        found += decoder.feed(stream[at : at + size])
        at += size
    assert found == as_lists(chosen)
    assert decoder.cause is None


def test_only_a_large_value_in_sight_is_waited_for() -> None:
    assert end_of_large(msgpack.packb((0, 1, "set", ("key", LARGE)))[:100]) == 17 + len(LARGE)
    assert end_of_large(msgpack.packb((0, 1, "get", ("key",)))) == 0
    assert end_of_large(msgpack.packb((0, 1, "set", ("key", "x" * 70_000)))[:5000]) == 0
    assert end_of_large(msgpack.packb((0, 1, "x", [*range(100), LARGE]))[:5000]) == 0
    assert end_of_large(msgpack.packb((0, 1, "set", ("k" * 5_000, LARGE)))[:6000]) == 0
    for junk in (b"", b"\xc1", b"\x94", b"\xc6", b"\x91\xc6\0\0", b"\x94\xd9\xff\xff"):
        assert end_of_large(junk) == 0


def test_rubbish_after_a_large_value_is_found_when_that_is_complete() -> None:
    frame = msgpack.packb((0, 1, "set", ("key", LARGE, 1)))[:-1] + b"\xc1"
    decoder = Decoder()
    assert decoder.feed(frame[:RECEIVE_BYTES]) == []
    assert decoder.feed(frame[RECEIVE_BYTES:]) == []
    assert decoder.cause is not None


def test_a_size_that_is_only_said_takes_no_memory() -> None:
    said = b"\x94\x00\x01\xa3set\x92\xa1k\xc6" + (FRAME_BYTES - 100).to_bytes(4, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decoders = [Decoder() for _ in range(50)]
    for decoder in decoders:
        assert decoder.feed(said + bytes(5_000)) == []
        assert decoder.share == LARGE_RECEIVE_BYTES
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 * KIB  # which is in KiB


# --- over a socket ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE_BYTES - 10, LARGE_BYTES + 1, MIB, 16 * MIB])
def test_there_and_back(broker: BrokerProcess, size: int) -> None:
    with udsbus.connect(broker.address) as client:
        there_and_back(client, size)


def there_and_back(client: udsbus.Client, size: int) -> None:
    value = (LARGE * (size // len(LARGE) + 1))[:size]
    client.set("key", value, ttl=60)
    assert client.get("key", fresh=True) == value
    entry = client.entry("key", fresh=True)
    assert entry is not None
    assert entry.value == value
    with client.watch("key", initial=True) as watch:
        client.set("key", value[::-1])
        seen = [watch.get(timeout=10) for _ in range(3)]
    assert [each.value for each in seen if isinstance(each, Change)] == [value, value[::-1]]


HANDLED = {
    "nothing": "pass",
    "received": "Decoder().feed(frame[:100_000])",
    "packed": "packed(msgpack.packb, (0, 1, 'set', ('key', value)))",
}
COUNT = """
import msgpack, resource
from udsbus.wire.framing import Decoder
from udsbus.wire.large import packed

value = bytes(1 << 20)
frame = msgpack.packb([0, 1, "set", ["key", value]])
{handled}

def copies():
    return [bytearray(value) for _ in range(4)]

for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    copies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="about glibc"
)
@pytest.mark.parametrize("handled", HANDLED)
def test_who_has_handled_a_large_value_keeps_freed_memory(handled: str) -> None:
    """A value of a MiB is 256 pages. Of ten times four copies few are new to the process."""
    script = COUNT.format(handled=HANDLED[handled])
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    new = int(run.stdout)
    assert new > 10 * 256 if handled == "nothing" else new < 256


ASK = """
import resource, sys, udsbus

def faults(path="/proc/self/stat"):
    with open(path) as file:
        return int(file.read().rpartition(")")[2].split()[7])

address, broker = sys.argv[1:]
with udsbus.connect(address, cache=False) as client:
    for number in range(100):
        if number == 50:
            before = faults(), faults(f"/proc/{broker}/stat")
        client.set("key", bytes(1 << 20))
        client.get("key")
    print(faults() - before[0], faults(f"/proc/{broker}/stat") - before[1])
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="about glibc",
)
def test_the_same_memory_serves_again_and_again(broker: BrokerProcess) -> None:
    """A value of a MiB is 256 pages. Here few are new to a process, of all copies of 50 of them."""
    run = subprocess.run(
        [sys.executable, "-c", ASK, broker.address, str(broker.pid)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    for faults in map(int, run.stdout.split()):
        assert faults < 50 * 128, run.stdout

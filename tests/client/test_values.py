"""Values on their way through the bus and back."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import os
import pathlib
import subprocess
import sys
import uuid
from collections import OrderedDict
from typing import Any

import pytest

from tests.harness import BrokerProcess, RawClient
from udsbus import Client, Message, UnsupportedValue
from udsbus.limits import MIB

from .support import take_number

ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, 2**64 - 1, -(2**63), 2**64, -(2**200), 0.0, -1.5, 1e300,
    math.inf, "", "text", "ü\u0000\U0001f600", b"", b"\x00\xff", [], [1, [2, [3]]], {},
    {"a": {1: 2}}, {(1, 2): "tuple as key", None: 0, b"b": 1.5}, (), (1, (2, [3])), set(), {1, "a"},
    frozenset({2}), {"nested": [({1}, frozenset({(1,)}))]}, 1 - 2j,
    datetime.datetime(2024, 2, 29, 12, 30, 1, 5), datetime.datetime(2024, 1, 1, tzinfo=ZONE),
    datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4), datetime.timedelta(-1, 5, 7),
    decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), uuid.UUID(int=5),
    pathlib.Path("/a/b"),
]  # fmt: skip


class Color(enum.IntEnum):
    RED = 3


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


def test_every_type_comes_back_as_it_was(client: Client) -> None:
    keys = [f"values/{number:02}" for number in range(len(VALUES))]
    with client.watch("values/*") as watch, client.subscribe("values/*") as subscription:
        for key, value in zip(keys, VALUES, strict=True):
            client.set(key, value)
            client.publish(key, value)
        changes = take_number(watch, len(VALUES))
        messages = [subscription.get(timeout=10) for _ in VALUES]
    many = client.get_many(keys)
    items = dict(client.items("values/*"))
    with client.pipeline() as p:
        pipelined = [p.get(key) for key in keys]
    with client.transaction() as t:
        transacted = [t.get(key) for key in keys]
    for number, (key, value) in enumerate(zip(keys, VALUES, strict=True)):
        entry, message = client.entry(key), messages[number]
        assert entry is not None
        assert message is not None
        for found in (
            client.get(key), entry.value, many[key], items[key], changes[number].value,
            message.value, pipelined[number].value, transacted[number].value,
        ):  # fmt: skip
            assert same(found, value), f"{value!r} came back as {found!r}"


def test_subclasses_travel_as_what_they_extend(client: Client) -> None:
    client.set("a", [OrderedDict(b=1), Color.RED, memoryview(b"m"), bytearray(b"a")])
    assert repr(client.get("a")) == "[{'b': 1}, 3, b'm', b'a']"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xc1", "the stored 1 bytes are no value"),
        (b"\x92\x01", "the stored 2 bytes are no value"),
        (b"\x01\x01", "the stored 2 bytes are no value"),
        (b"\x91" * 5_000 + b"\x01", "are no value that this version reads: StackError"),
        (b"\xd4\x63\x00", "extension type 99 is unknown to this version"),
        (b"\xc7\x03\x08\xa2no", "isoformat"),
    ],
)
def test_bytes_that_are_no_value_are_named_as_such(
    client: Client, bus: BrokerProcess, data: bytes, message: str
) -> None:
    """Wherever they turn up; and watches and subscriptions go on."""
    with (
        client.watch("a/*") as watch,
        client.subscribe("a/*") as subscription,
        RawClient(bus.address) as raw,
    ):
        raw.call("set", "a/bad", data)
        raw.call("publish", "a/bad", data)
        client.set("a/good", 1)
        client.publish("a/good", 1)
        for read in (
            lambda: client.get("a/bad"),
            lambda: client.entry("a/bad"),
            lambda: client.get_many(["a/good", "a/bad"]),
            lambda: client.items("a/*"),
            lambda: client.update("a/bad", lambda value: value),
            lambda: watch.get(timeout=10),
            lambda: subscription.get(timeout=10),
        ):
            with pytest.raises(UnsupportedValue, match=message):
                read()
        assert take_number(watch, 1)[0].key == "a/good"
        assert subscription.get(timeout=10) == Message("a/good", 1)
        assert client.keys("a/*") == ["a/bad", "a/good"]
        client.set("a/bad", "mended")
        assert client.get("a/bad") == "mended"


LARGE = """
import os, sys, udsbus

def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

with udsbus.connect(sys.argv[1]) as client:
    client.set("large", 1)
    before = resident()
    client.set("large", b"x" * int(sys.argv[2]))
    client.delete("large")
    print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_value_leaves_no_buffer_behind(bus: BrokerProcess) -> None:
    """A packer would keep what it needed for the largest that it has packed."""
    size = 30 * MIB
    run = subprocess.run(
        [sys.executable, "-c", LARGE, bus.address, str(size)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},  # what is freed is given back
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert int(run.stdout) < size // 2

"""Does it cost more to publish, or to set, when many others wait for something else?"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter_ns
from typing import Any

import msgpack

import udsbus

from ..bench import Bench
from ..load import VALUE, percentiles
from ..results import REDIS, UDSBUS, Goal, Table

FEW, MANY = 10, 100_000
CALLS = 5_000
WARM_UP_CALLS = 200
"""As long as the broker still forgets the patterns of the round before, nobody polls."""
AT_ONCE = 500
PUBLISH = Goal(1.25, "the same, 1.25 times at most")
SET = Goal(1.05, "the same, 1.05 times at most")
WAYS = ("jobs/7/{}", "jobs/*/{}", "other/{}/**", "**/{}", "*/7/{}")
"""Patterns that share the way with the names as far as they can without matching."""


def measure(bench: Bench) -> Table:
    table = Table(
        "interest", "publish and set beside subscriptions and watches that do not match",
        reference=f"{FEW} others", own=f"{MANY:,} others",
    )  # fmt: skip
    address = bench.servers[1].address
    kinds = (
        ("publish to a new topic", _publish_beside, PUBLISH),
        ("set of a new key", partial(_set_beside, CALLS), SET),
        ("set of 100 keys in turn", partial(_set_beside, 100), SET),
    )
    for number in range(bench.scale.rounds):
        sides = [(REDIS, FEW), (UDSBUS, MANY)]
        for group, beside, goal in kinds:
            for side, others in sides if number % 2 == 0 else reversed(sides):
                patterns = [WAYS[each % len(WAYS)].format(f"x{each}") for each in range(others)]
                for name, microseconds in percentiles([beside(patterns, address)]).items():
                    if name != "p99.9":
                        row = table.row(group, name, "µs", goal if name == "p50" else None)
                        row.add(side, microseconds)
    return table


def _publish_beside(patterns: list[str], address: str) -> array[int]:
    with udsbus.connect(address) as client, client.subscribe(*patterns):
        return _timed(lambda topic: client.publish(topic, VALUE))


def _set_beside(keys: int, patterns: list[str], address: str) -> array[int]:
    with udsbus.connect(address) as client, _watched(patterns, address):
        try:
            return _timed(lambda key: client.set(key, VALUE), keys)
        finally:
            with client.pipeline() as pipeline:
                for key in client.keys("jobs/7/*"):
                    pipeline.delete(key)


def _timed(call: Callable[[str], Any], names: int = CALLS) -> array[int]:
    """Nanoseconds of each call. What was found for a name that is new cannot be remembered."""
    for number in range(WARM_UP_CALLS):
        call(f"jobs/7/z{number}")
    latencies = array("q")
    for number in range(CALLS):
        name = f"jobs/7/y{number % names}"
        start = perf_counter_ns()
        call(name)
        latencies.append(perf_counter_ns() - start)
    return latencies


@contextmanager
def _watched(patterns: list[str], address: str) -> Iterator[None]:
    """A connection that watches so much; `Client.watch`, which waits for each, would take long."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        unpacker = msgpack.Unpacker()
        for first in range(0, len(patterns), AT_ONCE):
            some = patterns[first : first + AT_ONCE]
            sock.sendall(b"".join(msgpack.packb([0, 1, "watch", [pattern]]) for pattern in some))
            answers = 0
            while answers < len(some):
                unpacker.feed(sock.recv(65_536))
                for _, _, error, _ in unpacker:
                    assert error is None
                    answers += 1
        yield

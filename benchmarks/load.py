"""What the worker processes do: one call after the other, each of them timed."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice
from time import monotonic_ns, process_time, sleep
from typing import Any, NamedTuple

from .clients import Client, connect
from .results import percentile
from .servers import Server

VALUE = bytes(range(64))
KEYS = [f"bench/{number:04}" for number in range(1000)]
BATCH = dict.fromkeys(KEYS, VALUE)
WARM_UP_CALLS = 50


class Timed(NamedTuple):
    """What one process has done between `ready` and the end of its time."""

    latencies: array[int]
    """Nanoseconds, one a call, in the order in which they were made."""
    seconds: float
    cpu_seconds: float
    """User and system time of the process, all its threads."""


def calls_of(operation: str, client: Client) -> list[Callable[[], Any]]:
    """The calls that are made in turn: `set`, `get`, `mixed` (one each), `pipeline`, `at_once`."""
    sets = [partial(client.set, key, VALUE) for key in KEYS[:100]]
    gets = [partial(client.get, key) for key in KEYS[:100]]
    kinds: dict[str, list[partial[Any]]] = {
        "set": sets,
        "get": gets,
        "mixed": [call for pair in zip(sets, gets, strict=True) for call in pair],
        "pipeline": [partial(client.set_in_pipeline, BATCH)],
        "at_once": [partial(client.set_at_once, BATCH)],
    }
    return list(kinds[operation])


def drive(ready: Callable[[], object], server: Server, operation: str, seconds: float) -> Timed:
    """The job of `latency`, `throughput` and `batches`: calls for so many seconds."""
    client = connect(server)
    client.set_in_pipeline(BATCH)
    assert client.get(KEYS[0]) == VALUE
    calls = calls_of(operation, client)
    for call in islice(cycle(calls), WARM_UP_CALLS):
        call()
    ready()
    return time_each(calls, seconds)


def time_each(calls: list[Callable[[], Any]], seconds: float) -> Timed:
    """Make the calls in turn, again and again, for so many seconds."""
    latencies = array("q")
    note = latencies.append
    cpu = process_time()
    begin = start = monotonic_ns()
    end = begin + int(seconds * 1e9)
    for call in cycle(calls):
        call()
        now = monotonic_ns()
        note(now - start)
        if now >= end:
            break
        start = now
    return Timed(latencies, (now - begin) / 1e9, process_time() - cpu)


async def time_each_async(calls: list[Callable[[], Awaitable[Any]]], seconds: float) -> Timed:
    """As `time_each` does."""
    latencies = array("q")
    note = latencies.append
    cpu = process_time()
    begin = start = monotonic_ns()
    end = begin + int(seconds * 1e9)
    for call in cycle(calls):
        await call()
        now = monotonic_ns()
        note(now - start)
        if now >= end:
            break
        start = now
    return Timed(latencies, (now - begin) / 1e9, process_time() - cpu)


def publish(ready: Callable[[], object], server: Server, count: int, gap: float) -> None:
    """Publish `count` messages that hold the time right before the call, `gap` seconds apart."""
    client = connect(server)
    ready()
    for _ in range(count):
        sleep(gap)
        client.publish("bench/topic", monotonic_ns().to_bytes(8, "big") + VALUE[8:])


def receive(ready: Callable[[], object], server: Server, count: int) -> list[int]:
    """How old the messages of `publish` are when they are here: nanoseconds.

    CLOCK_MONOTONIC is the same for all processes of a machine.
    """
    client = connect(server)
    messages = client.subscribe("bench/topic")
    ready()
    return [
        monotonic_ns() - int.from_bytes(message[:8], "big") for message in islice(messages, count)
    ]


def ping(ready: Callable[[], object], server: Server, count: int) -> list[float]:
    """Publish `count` times and wait for the answer of `pong`; half of each round trip, in ns."""
    client = connect(server)
    answers = client.subscribe("bench/pong")
    ready()
    halves = []
    for _ in range(count):
        start = monotonic_ns()
        client.publish("bench/ping", VALUE)
        next(answers)
        halves.append((monotonic_ns() - start) / 2)
    return halves


def pong(ready: Callable[[], object], server: Server, count: int) -> None:
    client = connect(server)
    messages = client.subscribe("bench/ping")
    ready()
    for message in islice(messages, count):
        client.publish("bench/pong", message)


def idle(ready: Callable[[], object], server: Server, clients: int, seconds: float) -> None:
    """Hold `clients` connected clients that ask nothing."""
    held = [connect(server) for _ in range(clients)]
    ready()
    sleep(seconds)
    assert len(held) == clients


def percentiles(latencies: list[array[int]]) -> dict[str, float]:
    """p50, p90, p99 and p99.9 of all of them together, in microseconds."""
    ordered = sorted(latency for one in latencies for latency in one)
    return {f"p{percent:g}": percentile(ordered, percent) / 1e3 for percent in (50, 90, 99, 99.9)}

"""Reads from memory: one call, beside others who answer from memory or ask; and many processes that
mostly read."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import repeat
from time import monotonic_ns
from typing import Any

import anyio

import udsbus

from ..bench import Bench
from ..clients import connect
from ..load import BATCH, KEYS, VALUE
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

KEY = KEYS[0]
CHUNK = 500
"""Calls between two looks at the clock, which takes half as long as one of them."""
READS = 0.95
PROCESSES = (1, 8)
MIX_GOAL = Goal(15.0, "15 times", at_least=True)
SECTION = 2_000
"""Calls of a mix that are drawn beforehand."""


def measure(bench: Bench) -> Table:
    table = Table(
        "cached", "A get that is answered from memory, 64 bytes, mean", reference="the other"
    )
    redis, bus = bench.servers
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        shared[KEY] = VALUE
        others: list[tuple[str, Callable[..., float], Any, Callable[..., float], Goal | None]] = [
            ("redis-py, get", of_redis, redis, of_udsbus, Goal(1 / 300, "300 times faster")),
            ("coredis, a hit", of_coredis, redis, of_udsbus, Goal(1 / 150, "150 times faster")),
            ("coredis, a hit; AsyncClient", of_coredis, redis, of_async, None),
            ("Manager().dict()", of_mapping, shared, of_udsbus, Goal(1 / 200, "200 times faster")),
            ("a dict, an integer compared", of_dict, None, of_udsbus, Goal(4.0, "4 times slower")),
        ]
        for number in range(bench.scale.rounds):
            for name, theirs, target, ours, goal in others:
                sides = [(REDIS, theirs, target), (UDSBUS, ours, bus)]
                for side, function, at in sides if number % 2 == 0 else reversed(sides):
                    (seconds,) = run_together([Job(function, (at, bench.scale.seconds / 3))])
                    table.row(f"against {name}", "a call", "µs", goal).add(side, seconds * 1e6)
    return table


def measure_mix(bench: Bench) -> Table:
    table = Table("mix", "95 % get and 5 % set of 1,000 keys, 64 bytes")
    for processes in PROCESSES:
        group = "1 process" if processes == 1 else f"{processes} processes"
        for server in bench.turns():
            jobs = [Job(mix, (server, number, bench.scale.seconds)) for number in range(processes)]
            calls = sum(run_together(jobs))
            goal = MIX_GOAL if processes == max(PROCESSES) else None
            table.row(group, "calls", "/s", goal).add(server.kind, calls)
    return table


# --- in processes of their own --------------------------------------------------------------------


def _seconds_a_call(get: Callable[[str], object], seconds: float) -> float:
    begin = monotonic_ns()
    end = begin + int(seconds * 1e9)
    calls = 0
    while (now := monotonic_ns()) < end:
        for _ in repeat(None, CHUNK):
            get(KEY)
        calls += CHUNK
    return (now - begin) / calls / 1e9


async def _seconds_a_call_async(get: Callable[[str], Awaitable[object]], seconds: float) -> float:
    begin = monotonic_ns()
    end = begin + int(seconds * 1e9)
    calls = 0
    while (now := monotonic_ns()) < end:
        for _ in repeat(None, CHUNK):
            await get(KEY)
        calls += CHUNK
    return (now - begin) / calls / 1e9


def of_redis(ready: Callable[[], object], server: Server, seconds: float) -> float:
    client = connect(server)
    client.set(KEY, VALUE)
    get = client.get
    assert get(KEY) == VALUE
    ready()
    return _seconds_a_call(get, seconds)


def of_udsbus(ready: Callable[[], object], server: Server, seconds: float) -> float:
    with udsbus.connect(server.address) as client:
        client.set(KEY, VALUE)
        get = client.get
        assert get(KEY) == VALUE
        ready()
        found = _seconds_a_call(get, seconds)
        assert client.cache_info().misses == 1
    return found


def of_mapping(ready: Callable[[], object], shared: Any, seconds: float) -> float:
    assert shared[KEY] == VALUE
    ready()
    return _seconds_a_call(shared.__getitem__, seconds)


def of_dict(ready: Callable[[], object], _: None, seconds: float) -> float:
    """What stands in the place of the version page here is a global variable."""
    known = {KEY: (1, VALUE)}

    def get(key: str) -> bytes | None:
        found = known.get(key)
        if found is not None and found[0] == VERSION:
            return found[1]
        return None

    assert get(KEY) == VALUE
    ready()
    return _seconds_a_call(get, seconds)


VERSION = 1


@asynccontextmanager
async def _coredis(address: str) -> AsyncIterator[Any]:
    import coredis
    from coredis.patterns.cache import LRUCache

    async with coredis.Redis(unix_socket_path=address, cache=LRUCache()) as client:
        yield client


def of_coredis(ready: Callable[[], object], server: Server, seconds: float) -> float:
    async def work() -> float:
        async with _coredis(server.address) as client:
            await client.set(KEY, VALUE)
            for _ in range(CHUNK):
                assert await client.get(KEY) == VALUE
            asked = await _commands(client)
            ready()
            found = await _seconds_a_call_async(client.get, seconds)
            assert await _commands(client) - asked < 100, "it has to answer from memory"
            return found

    return anyio.run(work)


async def _commands(client: Any) -> int:
    """How many the server has carried out."""
    return int((await client.info("stats"))["total_commands_processed"])


def of_async(ready: Callable[[], object], server: Server, seconds: float) -> float:
    async def work() -> float:
        async with udsbus.connect_async(server.address) as client:
            await client.set(KEY, VALUE)
            assert await client.get(KEY) == VALUE
            ready()
            return await _seconds_a_call_async(client.get, seconds)

    return anyio.run(work)


def mix(ready: Callable[[], object], server: Server, number: int, seconds: float) -> float:
    """Calls a second of one process."""
    client = connect(server) if server.kind == REDIS else udsbus.connect(server.address)
    get: Any = client.get
    put: Any = client.set
    for key, value in BATCH.items():
        put(key, value)
    draw = random.Random(number)
    section = [(draw.random() < READS, draw.choice(KEYS)) for _ in range(SECTION)]

    def one_after_the_other() -> None:
        for reads, key in section:
            if reads:
                get(key)
            else:
                put(key, VALUE)

    one_after_the_other()
    ready()
    begin = monotonic_ns()
    end = begin + int(seconds * 1e9)
    calls = 0
    while (now := monotonic_ns()) < end:
        one_after_the_other()
        calls += SECTION
    return calls / ((now - begin) / 1e9)

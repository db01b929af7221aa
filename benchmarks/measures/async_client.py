"""The async clients of one process: a call at a time, and a hundred tasks at once."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice
from time import monotonic_ns, process_time
from typing import Any

from ..bench import Bench
from ..load import BATCH, KEYS, VALUE, WARM_UP_CALLS, Timed, percentiles
from ..results import REDIS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

TASKS = 100
LOWER = Goal(1 / 2, "2 times lower")
MORE = Goal(3.0, "3 times", at_least=True)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Any]:
    """`redis.asyncio` or `AsyncClient`, as their documentation shows them first, but that the
    latter asks for each read."""
    if server.kind == REDIS:
        import redis.asyncio

        client: Any = redis.asyncio.Redis(unix_socket_path=server.address)
        try:
            yield client
        finally:
            await client.aclose()
    else:
        import udsbus

        async with udsbus.connect_async(server.address, cache=False) as client:
            yield client


async def _drive(
    ready: Callable[[], object], server: Server, operation: str, seconds: float, tasks: int
) -> Timed:
    async with connected(server) as client:
        for key, value in BATCH.items():
            await client.set(key, value)
        calls = {
            "get": [partial(client.get, key) for key in KEYS[:100]],
            "set": [partial(client.set, key, VALUE) for key in KEYS[:100]],
        }[operation]
        latencies = array("q")
        end = 0

        async def one(first: int) -> None:
            for call in islice(cycle(calls), first, None):
                start = monotonic_ns()
                await call()
                now = monotonic_ns()
                latencies.append(now - start)
                if now >= end:
                    return

        end = monotonic_ns() + int(seconds / 10 * 1e9)
        await asyncio.gather(*(one(number) for number in range(tasks)))
        for call in islice(cycle(calls), WARM_UP_CALLS):
            await call()
        del latencies[:]
        ready()
        cpu, begin = process_time(), monotonic_ns()
        end = begin + int(seconds * 1e9)
        await asyncio.gather(*(one(number) for number in range(tasks)))
        return Timed(latencies, (monotonic_ns() - begin) / 1e9, process_time() - cpu)


def drive(
    ready: Callable[[], object], server: Server, operation: str, seconds: float, tasks: int
) -> Timed:
    return asyncio.run(_drive(ready, server, operation, seconds, tasks))


def measure(bench: Bench) -> Table:
    table = Table(
        "async", "Async client of one process on asyncio, 64 bytes", reference="redis.asyncio"
    )
    for server in bench.turns():
        for operation in ("get", "set"):
            for tasks in (1, TASKS):
                job = Job(drive, (server, operation, bench.scale.seconds, tasks))
                (run,) = run_together([job])
                group = f"{operation}, {tasks} tasks" if tasks > 1 else operation
                goal = LOWER if (operation, tasks) == ("get", 1) else None
                for name, figure in percentiles([run.latencies]).items():
                    table.row(group, name, "µs", goal if name == "p50" else None).add(
                        server.kind, figure
                    )
                goal = MORE if (operation, tasks) == ("get", TASKS) else None
                table.row(group, "calls", "/s", goal).add(
                    server.kind, len(run.latencies) / run.seconds
                )
                table.row(group, "client CPU", "µs/op").add(
                    server.kind, run.cpu_seconds / len(run.latencies) * 1e6
                )
    return table

"""One writer, many who are told: changes delivered a second, and how soon a function is called.

Redis tells its subscribers what was published; udsbus tells its watchers what was set, which it
keeps besides. Both sides have as many connections, shared by two processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from itertools import count
from time import monotonic, monotonic_ns
from typing import Any

from ..bench import Bench
from ..load import VALUE, percentiles
from ..results import REDIS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

WATCHERS = (1, 10, 100)
LAST = b"last"
AHEAD = 200
"""Changes that the writer is ahead of the slowest receiver at most. Both sides would otherwise
measure how they throw away what nobody could take."""
MORE = Goal(1.5, "1.5 times", at_least=True)
LOWER = Goal(1 / 1.5, "1.5 times lower")


async def _receive_from_redis(ready: Callable[[], object], server: Server, connections: int) -> int:
    import redis.asyncio

    clients = [redis.asyncio.Redis(unix_socket_path=server.address) for _ in range(connections)]
    subscriptions = [client.pubsub() for client in clients]
    for subscription in subscriptions:
        await subscription.subscribe("bench/fanout")
        assert (await subscription.get_message(timeout=10))["type"] == "subscribe"
    ready()

    async def receive(first: bool, client: Any, subscription: Any) -> int:
        for number in count():
            message = await subscription.get_message(timeout=60)
            if message["data"] == LAST:
                return number
            if first and number % (AHEAD // 4) == 0:
                await client.set("bench/progress", number)
        raise AssertionError

    numbers = await asyncio.gather(
        *(
            receive(index == 0, *pair)
            for index, pair in enumerate(zip(clients, subscriptions, strict=True))
        )
    )
    for subscription, client in zip(subscriptions, clients, strict=True):
        await subscription.aclose()  # type: ignore[no-untyped-call]
        await client.aclose()
    return sum(numbers)


async def _receive_from_udsbus(
    ready: Callable[[], object], server: Server, connections: int
) -> int:
    import udsbus

    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(udsbus.connect_async(server.address))
            for _ in range(connections)
        ]
        watches = [
            await stack.enter_async_context(client.watch("bench/fanout")) for client in clients
        ]
        ready()

        async def receive(first: bool, client: Any, watch: Any) -> int:
            for number in count():
                change = await watch.get()
                if change.value == LAST:
                    assert not watch.skipped
                    return number
                if first and number % (AHEAD // 4) == 0:
                    await client.set("bench/progress", number)
            raise AssertionError

        return sum(
            await asyncio.gather(
                *(
                    receive(index == 0, *pair)
                    for index, pair in enumerate(zip(clients, watches, strict=True))
                )
            )
        )


def receive(ready: Callable[[], object], server: Server, connections: int) -> int:
    """How many all of them together were told of."""
    one = _receive_from_redis if server.kind == REDIS else _receive_from_udsbus
    return asyncio.run(one(ready, server, connections))


def write(ready: Callable[[], object], server: Server, seconds: float) -> float:
    """Write for so long; returns how long it took until the first receiver had the last."""
    from ..clients import connect

    client = connect(server)
    tell = client.publish if server.kind == REDIS else client.set
    client.set("bench/progress", b"0" if server.kind == REDIS else 0)  # type: ignore[arg-type]
    ready()
    begin = monotonic()
    written = 0
    while monotonic() < begin + seconds:
        tell("bench/fanout", VALUE)
        written += 1
        if written % (AHEAD // 4) == 0:
            while written - int(client.get("bench/progress")) > AHEAD:
                pass
    tell("bench/fanout", LAST)
    return monotonic() - begin


def called(ready: Callable[[], object], server: Server, number: int) -> list[int]:
    """Nanoseconds from before a write to the function that is called for it."""
    ages: list[int] = []
    done = threading.Event()

    def note(value: bytes) -> None:
        ages.append(monotonic_ns() - int.from_bytes(value[:8], "big"))
        if len(ages) == number:
            done.set()

    if server.kind == REDIS:
        import redis

        client_of_redis: Any = redis.Redis(unix_socket_path=server.address)
        subscription = client_of_redis.pubsub()
        subscription.subscribe(**{"bench/called": lambda message: note(message["data"])})
        assert subscription.get_message(timeout=10)["type"] == "subscribe"
        thread = subscription.run_in_thread(sleep_time=None)
        ready()
        done.wait(60)
        thread.stop()
    else:
        import udsbus

        with udsbus.connect(server.address) as client:
            client.on_change("bench/called", lambda change: note(change.value))
            ready()
            done.wait(60)
    return ages[:number]


def call(ready: Callable[[], object], server: Server, number: int, gap: float) -> None:
    from time import sleep

    from ..clients import connect

    client = connect(server)
    tell = client.publish if server.kind == REDIS else client.set
    ready()
    for _ in range(number + 1):
        sleep(gap)
        tell("bench/called", monotonic_ns().to_bytes(8, "big") + VALUE[8:])


def measure(bench: Bench) -> Table:
    table = Table(
        "fanout", "A change told to many: `set` and watch, beside Redis's publish and subscribe"
    )
    for server in bench.turns():
        ages, _ = run_together(
            [
                Job(called, (server, bench.scale.messages)),
                Job(call, (server, bench.scale.messages, 0.002)),
            ]
        )
        for name, microseconds in percentiles([ages]).items():
            if name != "p99.9":  # there are too few for that
                row = table.row(
                    "until a function is called", name, "µs", LOWER if name == "p50" else None
                )
                row.add(server.kind, microseconds)
        for watchers in WATCHERS:
            shares = [watchers // 2, watchers - watchers // 2]
            jobs = [Job(receive, (server, share)) for share in shares if share]
            *told, seconds = run_together([*jobs, Job(write, (server, bench.scale.seconds))])
            table.row(f"{watchers} watchers", "delivered", "/s", MORE).add(
                server.kind, sum(told) / seconds
            )
    return table

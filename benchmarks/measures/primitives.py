"""Queues and dicts that processes share, beside those of `multiprocessing.Manager`, and Redis's."""

from __future__ import annotations

import multiprocessing
import struct
from array import array
from collections.abc import Callable
from time import monotonic_ns, sleep
from typing import Any, Protocol

import udsbus

from ..bare import BareClient
from ..bench import Bench
from ..clients import connect
from ..load import VALUE, percentiles
from ..results import BARE, REDIS, UDSBUS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

GAP_SECONDS = 0.002
QUEUE = Goal(1 / 3, "3 times lower")
MAPPING = Goal(1 / 5, "5 times lower")
NAME = "bench/queue"


def measure_queue(bench: Bench) -> Table:
    """From right before `put` until another process has the item in hand."""
    table = Table("queue", "A queue, from put to get, 64 bytes", reference="the other")
    count = bench.scale.messages
    with multiprocessing.Manager() as manager:
        there, back = manager.Queue(), manager.Queue()
        redis, udsbus = bench.servers
        others: dict[str, tuple[Any, Any]] = {
            "Manager().Queue()": (there, back),
            "Redis, RPUSH and BLPOP": (redis, redis),
        }
        for number in range(bench.scale.rounds):
            for other, pair in others.items():
                sides = [(REDIS, pair), (UDSBUS, (udsbus, udsbus))]
                for side, (one, two) in sides if number % 2 == 0 else reversed(sides):
                    ages, _ = run_together(
                        [Job(get_each, (one, count)), Job(put_each, (one, count, GAP_SECONDS))]
                    )
                    halves, _ = run_together(
                        [Job(_ping, (one, two, count)), Job(_pong, (one, two, count))]
                    )
                    (alone,) = run_together([Job(_put_and_get, (one, bench.scale.seconds))])
                    for what, figures in (
                        ("one each 2 ms", ages),
                        ("back and forth", halves),
                        ("put and get, one process", alone),
                    ):
                        for name, microseconds in percentiles([figures]).items():
                            if name == "p99.9":  # there are too few for that
                                continue
                            goal = QUEUE if name == "p50" and figures is not halves else None
                            row = table.row(f"against {other}: {what}", name, "µs", goal)
                            row.add(side, microseconds)
    return table


def measure_mapping(bench: Bench) -> Table:
    """One item of a dict, got and set by one process."""
    table = Table("mapping", "An item of a shared dict, 64 bytes", reference="Manager().dict()")
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        _, udsbus = bench.servers
        sides: list[tuple[str, Any]] = [(REDIS, shared), (UDSBUS, udsbus)]
        for number in range(bench.scale.rounds):
            for side, target in sides if number % 2 == 0 else reversed(sides):
                ((got, put),) = run_together([Job(_items, (target, bench.scale.seconds))])
                for what, figures in (("get", got), ("set", put)):
                    for name, microseconds in percentiles([figures]).items():
                        goal = MAPPING if name == "p50" else None
                        table.row(what, name, "µs", goal).add(side, microseconds)
    return table


# --- in processes of their own ------------------------------------------------------------------


class Queue(Protocol):
    def put(self, item: bytes) -> object: ...
    def get(self) -> bytes: ...


class RedisQueue:
    """A list, as those use it who want a queue of Redis."""

    def __init__(self, server: Server, name: str) -> None:
        client: Any = connect(server)
        self._redis = client._redis
        self._name = name

    def put(self, item: bytes) -> object:
        return self._redis.rpush(self._name, item)

    def get(self) -> bytes:
        _, item = self._redis.blpop(self._name)
        found: bytes = item
        return found


class BareQueue:
    """The one of the barest broker."""

    def __init__(self, server: Server) -> None:
        self._client = BareClient(server.address)

    def put(self, item: bytes) -> object:
        return self._client.put(item)

    def get(self) -> bytes:
        item: bytes = self._client.take()
        return item


def _queue(target: Any, name: str = NAME) -> Queue:
    if not isinstance(target, Server):
        proxy: Queue = target
        return proxy
    if target.kind == BARE:
        return BareQueue(target)
    if target.kind == REDIS:
        return RedisQueue(target, name)
    client: Any = connect(target)
    queue: Queue = client._client.queue(name)
    return queue


def _stamped() -> bytes:
    return struct.pack("q", monotonic_ns()) + VALUE[8:]


def _age(item: bytes) -> int:
    return monotonic_ns() - int(struct.unpack_from("q", item)[0])


def put_each(ready: Callable[[], object], target: Any, count: int, gap: float) -> None:
    queue = _queue(target)
    ready()
    for _ in range(count):
        sleep(gap)
        queue.put(_stamped())


def get_each(ready: Callable[[], object], target: Any, count: int) -> array[int]:
    queue = _queue(target)
    ready()
    return array("q", (_age(queue.get()) for _ in range(count)))


def _ping(ready: Callable[[], object], there: Any, back: Any, count: int) -> array[int]:
    """Half of each round trip over two queues."""
    outward, homeward = _queue(there), _queue(back, f"{NAME}/back")
    ready()
    halves = array("q")
    for _ in range(count):
        outward.put(_stamped())
        halves.append(_age(homeward.get()) // 2)
    return halves


def _pong(ready: Callable[[], object], there: Any, back: Any, count: int) -> None:
    outward, homeward = _queue(there), _queue(back, f"{NAME}/back")
    ready()
    for _ in range(count):
        homeward.put(outward.get())


def _put_and_get(ready: Callable[[], object], target: Any, seconds: float) -> array[int]:
    """Both, by one process: nobody has to be woken."""
    queue = _queue(target, f"{NAME}/alone")
    ready()
    both = array("q")
    end = monotonic_ns() + int(seconds * 1e9)
    start = 0
    while start < end:
        start = monotonic_ns()
        queue.put(VALUE)
        queue.get()
        both.append(monotonic_ns() - start)
    return both


def _items(
    ready: Callable[[], object], target: Any, seconds: float
) -> tuple[array[int], array[int]]:
    mapping = target
    if isinstance(target, Server):
        mapping = udsbus.connect(target.address).mapping("bench/mapping")
    got, put = array("q"), array("q")
    mapping["key"] = VALUE
    ready()
    end = monotonic_ns() + int(seconds * 1e9)
    now = monotonic_ns()
    while now < end:
        begun = now
        mapping["key"]
        between = monotonic_ns()
        mapping["key"] = VALUE
        now = monotonic_ns()
        got.append(between - begun)
        put.append(now - between)
    return got, put

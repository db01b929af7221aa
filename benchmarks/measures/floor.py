"""What the language allows: the barest broker and client in Python, beside what udsbus is to beat.

Where the barest pair misses a goal, or all but misses it, little is left for what a broker does for
its users.
"""

from __future__ import annotations

import multiprocessing
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from ..bare import BareClient
from ..bench import Bench
from ..clients import connect
from ..load import (
    BATCH,
    KEYS,
    VALUE,
    WARM_UP_CALLS,
    percentiles,
    publish,
    receive,
    time_each,
)
from ..results import BARE, REDIS, UDSBUS, Goal, Table
from ..servers import Server, running_bare
from ..workers import Job, run_together
from .alone import GOALS, build_load_generator, load
from .primitives import GAP_SECONDS, get_each, put_each
from .throughput import PROCESSES, group_of

MORE = Goal(3, "3 times more", at_least=True)
LOWER_8, LOWER_5, LOWER_3 = (Goal(1 / times, f"{times} times lower") for times in (8, 5, 3))
OF_REDIS = {
    1: Goal(0.75, "0.75 of Redis", at_least=True),
    16: Goal(0.5, "0.5 of Redis", at_least=True),
}


def measure(bench: Bench) -> Table:
    table = Table(
        "floor", "The barest broker and client in Python (bare.py)",
        reference="the other", own="bare Python",
    )  # fmt: skip
    table.notes.append("the goals are the highest that were set for udsbus in each case")
    program = build_load_generator(bench, table)
    with running_bare(bench.directory) as bare, multiprocessing.Manager() as manager:
        shorter = bench.scale._replace(seconds=bench.scale.seconds / 2)
        beside = bench._replace(servers=(bench.servers[0], bare), scale=shorter)
        _one_process(beside, table, manager)
        for processes in PROCESSES[1:]:
            group = group_of(processes)
            calls = table.row(f"{group}, against Redis", "calls", "/s", MORE)
            p99 = table.row(f"{group}, against Redis", "p99", "µs")
            for server in beside.turns():
                driven = beside.drive(server, "mixed", processes)
                calls.add(_side(server), driven.calls_a_second)
                p99.add(_side(server), percentiles([run.latencies for run in driven.runs])["p99"])
        _woken(beside, table, manager)
        if program is None:
            return table
        for depth in GOALS:
            for operation in ("get", "set"):
                row = table.row(
                    f"alone, depth {depth}, against Redis", operation, "/s", OF_REDIS[depth]
                )
                for server in beside.turns():
                    figures = load(program, server, operation, depth, shorter.seconds)
                    row.add(_side(server), figures.replies_a_second)
    return table


def _one_process(bench: Bench, table: Table, manager: Any) -> None:
    """Broker and client poll, and nobody has to be woken."""
    redis, bare = bench.servers
    of_redis, of_manager = "against Redis", "against Manager()"
    rows: list[tuple[str, Goal, Any, str, str]] = [
        (f"a set, polling, {of_redis}", LOWER_8, redis, "set", "set"),
        (f"a get, polling, {of_redis}", LOWER_8, redis, "get", "get"),
        (f"a set, polling, {of_manager}'s dict", LOWER_5, manager.dict(), "item", "set"),
        (f"two requests, polling, {of_redis}-py's Lock", LOWER_8, redis, "lock", "both"),
        (f"two requests, polling, {of_manager}'s Queue", LOWER_3, manager.Queue(), "item", "both"),
    ]
    for number in range(bench.scale.rounds):
        for group, goal, rival, theirs, ours in rows:
            row = table.row(group, "p50", "µs", goal)
            sides = [(REDIS, rival, theirs), (UDSBUS, bare, ours)]
            for side, target, what in sides if number % 2 == 0 else reversed(sides):
                (calls,) = run_together([Job(_timed, (target, what, bench.scale.seconds))])
                row.add(side, percentiles([calls])["p50"])
    row = table.row(f"pipeline of 1,000 set, {of_redis}", "writes", "/s", MORE)
    for server in bench.turns():
        driven = bench.drive(server, "pipeline")
        row.add(_side(server), driven.calls_a_second * len(BATCH))


def _woken(bench: Bench, table: Table, manager: Any) -> None:
    """The broker sleeps, and so does who waits for what it brings."""
    redis, bare = bench.servers
    group = f"one each {GAP_SECONDS * 1e3:g} ms"
    count = bench.scale.messages
    row = table.row(f"a message, {group}, against Redis", "p50", "µs")
    for server in bench.turns():
        jobs = [Job(receive, (server, count)), Job(publish, (server, count, GAP_SECONDS))]
        ages, _ = run_together(jobs)
        row.add(_side(server), percentiles([ages])["p50"])
    rivals = {"Manager().Queue()": manager.Queue(), "Redis, RPUSH and BLPOP": redis}
    for number in range(bench.scale.rounds):
        for rival, target in rivals.items():
            row = table.row(f"an item, {group}, against {rival}", "p50", "µs", LOWER_3)
            sides = [(REDIS, target), (UDSBUS, bare)]
            for side, one in sides if number % 2 == 0 else reversed(sides):
                jobs = [Job(get_each, (one, count)), Job(put_each, (one, count, GAP_SECONDS))]
                ages, _ = run_together(jobs)
                row.add(side, percentiles([ages])["p50"])


def _timed(ready: Callable[[], object], target: Any, what: str, seconds: float) -> array[int]:
    """Nanoseconds of each call, by one process."""
    call = _call_of(target, what)
    for _ in range(WARM_UP_CALLS):
        call()
    ready()
    return time_each([call], seconds).latencies


def _call_of(target: Any, what: str) -> Callable[[], object]:
    """`target`: a server, or a proxy of a manager."""
    if not isinstance(target, Server):
        if hasattr(target, "put"):
            return lambda: (target.put(VALUE), target.get())
        return partial(target.__setitem__, "key", VALUE)
    client: Any = connect(target)
    if target.kind == BARE:
        client = BareClient(target.address, polls=True)
    client.set(KEYS[0], VALUE)
    put, get = partial(client.set, KEYS[0], VALUE), partial(client.get, KEYS[0])
    if what == "lock":
        lock = client._redis.lock("bench/lock")
        return lambda: (lock.acquire(), lock.release())
    calls: dict[str, Callable[[], object]] = {"set": put, "get": get}
    return calls.get(what) or (lambda: (put(), get()))


def _side(server: Server) -> str:
    return REDIS if server.kind == REDIS else UDSBUS

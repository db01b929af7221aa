"""Calls from one process to another: how long one takes, how many there are in a second, and what
becomes of them when workers are killed."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import udsbus

from ..bench import Bench
from ..load import WARM_UP_CALLS, Timed, percentiles, time_each, time_each_async
from ..results import REDIS, UDSBUS, Goal, Table
from ..rivals.calling import (
    CONNECTION,
    OURS,
    OURS_ASYNC,
    OURS_COROUTINE,
    REDIS_LISTS,
    WAYS,
    Place,
    Way,
)
from ..workers import READY_SECONDS, RESULT_SECONDS, Job, run_together

TEXT = "x" * 64
WORKERS, CALLERS = 4, 8
TOGETHER = f"{WORKERS} workers, {CALLERS} callers"
PERCENTILES = ("p50", "p90", "p99")
FASTER = Goal(1, "faster")
AT_MOST_TWICE = Goal(2, "2 times at most")
MORE = Goal(2, "2 times more", at_least=True)
NONE = Goal(0, "none", of_ratio=False)

KILLED_SERVICE = "bench/killed"
RETRIES = 1_000
BETWEEN_KILLS = 0.0, 0.2
"""Seconds, after which one worker is killed. The next is spared until that one's successor can be
called: where nobody serves, a call fails at once, as it should."""
SLOWEST = 200
"""Calls a second that a process makes meanwhile, on a machine that does much else."""


def measure(bench: Bench) -> Table:
    table = Table("calls", "Calls to another process, a text of 64 bytes", reference="the other")
    redis, bus = bench.servers
    with tempfile.TemporaryDirectory(prefix="udsbus-calls-", dir=bench.directory) as directory:
        place = Place(Path(directory), redis.address, bus.address)
        with OURS.running(place) as ours:
            for way in WAYS:
                if way.is_missing:
                    missing = f"{way.name} is not here: {way.get_it}"
                    if os.environ.get("CI") == "true":
                        raise RuntimeError(missing)
                    table.notes.append(missing)
                else:
                    _compare(bench, table, f"against {way.name}", place, way, OURS, ours)
            for way, group in (
                (OURS_COROUTINE, "a coroutine function, against another"),
                (OURS_ASYNC, "AsyncClient, against Client"),
            ):
                _compare_own(bench, table, group, place, way, ours)
        _call_together(bench, table, place._replace(workers=WORKERS))
        _call_killed(bench, table, bus.address)
    return table


def _compare(
    bench: Bench, table: Table, group: str, place: Place, way: Way, own: Way, ours: str
) -> None:
    goal = AT_MOST_TWICE if way is CONNECTION else FASTER
    with way.running(place) as target:
        _in_turns(bench, table, group, (way, target), (own, ours), goal)


def _compare_own(bench: Bench, table: Table, group: str, place: Place, way: Way, ours: str) -> None:
    """One of ours against the one that all others are compared with."""
    with way.running(place) as target:
        _in_turns(bench, table, group, (OURS, ours), (way, target), None)


def _in_turns(
    bench: Bench,
    table: Table,
    group: str,
    other: tuple[Way, object],
    own: tuple[Way, object],
    goal: Goal | None,
) -> None:
    for number in range(bench.scale.rounds):
        sides = [(REDIS, other), (UDSBUS, own)]
        for side, (way, target) in sides if number % 2 == 0 else reversed(sides):
            (run,) = run_together([Job(drive, (way, target, bench.scale.seconds / 2))])
            found = percentiles([run.latencies])
            for name in PERCENTILES:
                row = table.row(group, name, "µs", goal if name == "p50" else None)
                row.add(side, found[name])


def _call_together(bench: Bench, table: Table, place: Place) -> None:
    with OURS.running(place) as ours, REDIS_LISTS.running(place) as theirs:
        sides = [(REDIS, REDIS_LISTS, theirs), (UDSBUS, OURS, ours)]
        for number in range(bench.scale.rounds):
            for side, *whom in sides if number % 2 == 0 else reversed(sides):
                job = Job(drive, (*whom, bench.scale.seconds))
                runs: list[Timed] = run_together([job] * CALLERS)
                a_second = sum(len(run.latencies) / run.seconds for run in runs)
                found = percentiles([run.latencies for run in runs])
                group = f"{TOGETHER}, against Redis"
                table.row(group, "calls", "/s", MORE).add(side, a_second)
                for name in ("p50", "p99"):
                    table.row(group, name, "µs").add(side, found[name])


# --- in processes of their own --------------------------------------------------------------------


def drive(ready: Callable[[], object], way: Way, target: object, seconds: float) -> Timed:
    """Calls for so long, one after the other."""
    if way.is_async:
        return asyncio.run(_drive_async(ready, way, target, seconds))
    with way.connect(target) as call:
        for _ in range(WARM_UP_CALLS):
            assert call(TEXT) == TEXT
        ready()
        return time_each([partial(call, TEXT)], seconds)


async def _drive_async(
    ready: Callable[[], object], way: Way, target: object, seconds: float
) -> Timed:
    async with way.connect(target) as call:
        for _ in range(WARM_UP_CALLS):
            assert await call(TEXT) == TEXT
        ready()
        return await time_each_async([partial(call, TEXT)], seconds)


# --- workers that are killed ----------------------------------------------------------------------


class Answered(NamedTuple):
    """Of the calls of one process, each of which has a number that is to be its answer."""

    lost: int
    """Numbers that were never answered."""
    doubled: int
    """Answers that were there already, or are another's."""
    again: int
    """How often a worker died with a call in hand, and another was asked."""
    why: str
    """What the first call that failed has raised."""


class Again(logging.Handler):
    """Counts what the client says of workers that have died."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "another is asked" in record.msg


def call_numbers(ready: Callable[[], object], address: str, first: int, count: int) -> Answered:
    numbers = range(first, first + count)
    answers: Counter[int] = Counter()
    again = Again()
    log = logging.getLogger("udsbus.services")
    log.addHandler(again)
    log.propagate = False
    why = ""
    with udsbus.connect(address, timeout=60) as client:
        ready()
        for number in numbers:
            try:
                answer = client.call(KILLED_SERVICE, number)
            except Exception as error:
                why = why or repr(error)
            else:
                answers[answer] += 1
    known = sum(1 for number in numbers if answers[number])
    return Answered(count - known, answers.total() - known, again.count, why)


def serve_numbers(ready: Connection, address: str) -> None:
    with udsbus.connect(address) as client:
        client.service(KILLED_SERVICE, abs, retry=RETRIES)
        ready.send(True)
        client.serve()


class Workers:
    """Workers of which one at random is killed now and then, and another started."""

    def __init__(self, address: str) -> None:
        self.killed = 0
        self._context = multiprocessing.get_context("forkserver")
        self._address = address
        self._dice = random.Random(7)
        self._over = threading.Event()
        self._killing = threading.Thread(target=self._kill)
        self._processes = [self._started() for _ in range(WORKERS)]

    def begin(self) -> None:
        self._killing.start()

    def end(self) -> None:
        self._over.set()
        if self._killing.ident:
            self._killing.join()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def _kill(self) -> None:
        while not self._over.wait(self._dice.uniform(*BETWEEN_KILLS)):
            which = self._dice.randrange(WORKERS)
            self._processes[which].kill()
            self._processes[which].join()
            self.killed += 1
            self._processes[which] = self._started()

    def _started(self) -> multiprocessing.context.ForkServerProcess:
        receiver, sender = self._context.Pipe(duplex=False)
        with receiver, sender:
            process = self._context.Process(
                target=serve_numbers, args=(sender, self._address), daemon=True
            )
            process.start()
            if not receiver.poll(READY_SECONDS):
                raise RuntimeError("a worker did not start")
        return process


def _call_killed(bench: Bench, table: Table, address: str) -> None:
    calls = 1_000 if bench.scale.quick else 20_000
    calls = int(os.environ.get("UDSBUS_SERVED_CALLS", calls))
    each = calls // CALLERS
    workers = Workers(address)
    try:
        begin = monotonic()
        found = run_together(
            [Job(call_numbers, (address, index * each, each)) for index in range(CALLERS)],
            meanwhile=workers.begin,
            patience=RESULT_SECONDS + each / SLOWEST,
        )
        seconds = monotonic() - begin
    finally:
        workers.end()
    for name, figure, goal in (
        ("calls", each * CALLERS, None),
        ("seconds that took", seconds, None),
        ("workers killed", workers.killed, None),
        ("asked another worker", sum(one.again for one in found), None),
        ("lost", sum(one.lost for one in found), NONE),
        ("doubled, or another's answer", sum(one.doubled for one in found), NONE),
    ):
        table.row(f"{WORKERS} workers killed at random", name, "", goal).add(UDSBUS, figure)
    table.notes += sorted({f"a call that was lost: {one.why}" for one in found if one.why})

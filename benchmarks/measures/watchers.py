"""What becomes of the changes that watchers are told of, while brokers are killed and connections
cut: are there gaps, or doubles, that nobody says?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, NamedTuple

import udsbus

from ..bench import Bench
from ..results import UDSBUS, Goal, Table
from ..workers import RESULT_SECONDS, Job, run_together

KEYS = 50
WATCHERS = 100
PROCESSES = 4
AHEAD = 100
"""Rounds of writing to all keys that the writer is ahead of the slowest watcher at most. Else most
of the changes would be left out, and said to be."""
OFTEN = 10
"""Rounds after which a process says how far it is."""
SLOWEST = 200
"""Changes a second that all of them are told, on a machine that does much else."""
LAST = f"w/{KEYS - 1}"
PROGRESS = "progress/{}"
BETWEEN_KILLS = 2.0, 6.0
"""Seconds. After each, a hundred watchers catch up with what they have missed."""
NONE = Goal(0, "none", of_ratio=False)


class Told(NamedTuple):
    """Of the watchers of one process."""

    changes: int
    lost: int
    """Numbers left out between two of the same key, of which nothing was said."""
    doubled: int
    wrong_order: int
    started_over: int
    """It was said that changes were missed, and what there is now."""
    behind: int
    """Those whose last is not what the key holds."""


class Watcher:
    """Checks that the numbers of each key grow by one."""

    def __init__(self, watch: Any, progress: Progress) -> None:
        self._watch = watch
        self._progress = progress
        self._seen: dict[str, int] = {}
        self._revision = 0
        self._over = self._skipped = 0
        self.changes = self.lost = self.doubled = self.wrong_order = 0

    async def run(self, until: dict[str, int]) -> None:
        while any(self._seen.get(key, 0) < number for key, number in until.items()) or not until:
            change = await self._watch.get(timeout=60)
            if change is None:
                return
            excused = self._watch.started_over > self._over or self._watch.skipped > self._skipped
            self._over, self._skipped = self._watch.started_over, self._watch.skipped
            self.changes += 1
            before, now = self._seen.get(change.key, 0), change.value
            self._seen[change.key] = max(now, before)
            if change.key == LAST:
                await self._progress.note(self, now)
            if change.kind == "present":
                continue
            self.wrong_order += change.revision < self._revision
            self._revision = change.revision
            self.doubled += now <= before
            self.lost += 0 if excused else max(0, now - before - 1)

    def told(self, until: dict[str, int]) -> Told:
        behind = any(self._seen.get(key) != number for key, number in until.items())
        return Told(
            self.changes, self.lost, self.doubled, self.wrong_order,
            self._watch.started_over, int(behind),
        )  # fmt: skip


class Progress:
    """Tells the writer which round all watchers of this process have seen."""

    def __init__(self, index: int) -> None:
        self._key = PROGRESS.format(index)
        self._rounds: dict[Watcher, int] = {}
        self._told = 0
        self.client: Any = None
        self.watchers = 0

    async def note(self, watcher: Watcher, number: int) -> None:
        self._rounds[watcher] = number
        if len(self._rounds) == self.watchers and number >= self._told + OFTEN:
            slowest = min(self._rounds.values())
            if slowest >= self._told + OFTEN:
                self._told = slowest
                await self.client.set(self._key, slowest)


async def _watch(
    ready: Callable[[], object], address: str, number: int, changes: int, index: int
) -> Told:
    until = {f"w/{key}": changes // KEYS for key in range(KEYS)}
    dice = random.Random(number)
    async with contextlib.AsyncExitStack() as stack:
        watchers = []
        clients = []
        progress = Progress(index)
        for _ in range(number):
            client = await stack.enter_async_context(udsbus.connect_async(address, timeout=60))
            clients.append(client)
            watch = await stack.enter_async_context(client.watch("w/*"))
            watchers.append(Watcher(watch, progress))
        progress.client, progress.watchers = clients[0], number
        ready()

        async def cut() -> None:
            """Connections, at random."""
            while True:
                await asyncio.sleep(dice.uniform(0.05, 0.5))
                link = dice.choice(clients)._link
                if link is not None:
                    link._end("cut")

        cutting = asyncio.create_task(cut())
        await asyncio.gather(*(watcher.run(until) for watcher in watchers))
        cutting.cancel()
        told = [watcher.told(until) for watcher in watchers]
        return Told(*map(sum, zip(*told, strict=True)))


def watch(ready: Callable[[], object], address: str, number: int, changes: int, index: int) -> Told:
    return asyncio.run(_watch(ready, address, number, changes, index))


def write(ready: Callable[[], object], address: str, changes: int) -> float:
    """Count up all keys, `changes` in all; returns the seconds that it took."""
    with udsbus.connect(address, timeout=60) as client:
        ready()
        begin = monotonic()
        for number in range(1, changes // KEYS + 1):
            while number % OFTEN == 0 and number - AHEAD > min(
                client.get(PROGRESS.format(index), default=0) for index in range(PROCESSES)
            ):
                sleep(0.002)
            with client.pipeline() as pipeline:
                for key in range(KEYS):
                    pipeline.set(f"w/{key}", number)
        return monotonic() - begin


def measure(bench: Bench) -> Table:
    table = Table("watchers", f"{WATCHERS} watchers while brokers are killed and connections cut")
    changes = 2_000 if bench.scale.quick else 50_000
    changes = int(os.environ.get("UDSBUS_WATCHED_CHANGES", changes))
    address = str(bench.directory / "watched.sock")
    command = [
        *(sys.executable, "-m", "udsbus", "serve", "--socket", address),
        *("--state", str(bench.directory / "watched")),
    ]
    pair = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kills = 0
    over = threading.Event()

    def kill() -> None:
        nonlocal kills
        dice = random.Random(7)
        with udsbus.connect(address, timeout=60) as client:
            while not over.wait(dice.uniform(*BETWEEN_KILLS)):
                info = client.info()
                if info["standby"] is not None:
                    os.kill(info["pid"], signal.SIGKILL)
                    kills += 1

    killer = threading.Thread(target=kill)
    try:
        until = monotonic() + 20
        while not os.path.exists(address) and monotonic() < until:
            sleep(0.02)
        jobs = [
            Job(watch, (address, WATCHERS // PROCESSES, changes, index))
            for index in range(PROCESSES)
        ]
        *found, seconds = run_together(
            [*jobs, Job(write, (address, changes))],
            meanwhile=killer.start,
            patience=RESULT_SECONDS + changes / SLOWEST,
        )
    finally:
        over.set()
        if killer.ident:
            killer.join()
        with contextlib.suppress(udsbus.Error), udsbus.connect(address) as client:
            os.kill(client.info()["pid"], signal.SIGTERM)
        pair.wait(20)
    told = Told(*map(sum, zip(*found, strict=True)))
    for name, figure, goal in (
        ("changes written", changes, None),
        ("seconds that took", seconds, None),
        ("brokers killed", kills, None),
        ("changes told", told.changes, None),
        ("lost", told.lost, NONE),
        ("doubled", told.doubled, NONE),
        ("in the wrong order", told.wrong_order, NONE),
        ("watchers that are behind in the end", told.behind, NONE),
        ("started over, and said so", told.started_over, None),
    ):
        table.row("all", name, "", goal).add(UDSBUS, figure)
    return table

"""`set` while the standby folds, and while a snapshot is made, beside a quiet broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns, sleep

import udsbus
from udsbus.journal import directory

from ..bench import Bench
from ..load import VALUE, percentiles
from ..results import REDIS, UDSBUS, Goal, Table

KEYS = {True: 20_000, False: 1_000_000}
TOGETHER = 1_000
ROUNDS = {True: 1, False: 3}
SECONDS = {True: 0.5, False: 4.0}
"""Folding gives way to others: beside a client that never rests it takes long."""
GOAL = {"p99.9": Goal(3.0, "3 times at most")}


def measure(bench: Bench) -> Table:
    quick = bench.scale.quick
    number, seconds = KEYS[quick], SECONDS[quick]
    table = Table(
        "busy", f"`set` from one process, beside other work, {number:,} keys", reference="quiet"
    )
    table.notes.append("folding: 16 MiB segments one after the other; snapshot: `udsbus snapshot`")
    place = bench.directory / "busy"
    place.mkdir(0o700)
    with _pair(place) as address, udsbus.connect(address) as client:
        for first in range(0, number, TOGETHER):
            client.set_many({f"key/{key}": VALUE for key in range(first, first + TOGETHER)})
        _until(lambda: _segments(place) == 1)
        for round_number in range(ROUNDS[quick]):
            for name, work in (("folding", _folding), ("snapshot", _snapshot)):
                _until(lambda: _segments(place) == 1)
                _add(table, name, REDIS, _latencies(client, seconds, lambda: True))
                _until(lambda: _segments(place) == 1)
                with work(place, address, round_number) as busy:
                    _add(table, name, UDSBUS, _latencies(client, seconds, busy))
    return table


def _add(table: Table, group: str, side: str, latencies: array[int]) -> None:
    for name, microseconds in percentiles([latencies]).items():
        table.row(group, name, "µs", GOAL.get(name)).add(side, microseconds)


def _latencies(client: udsbus.Client, seconds: float, going_on: Callable[[], bool]) -> array[int]:
    """Of calls one after the other, while something goes on, for so long at most."""
    found = array("q")
    until = perf_counter_ns() + int(seconds * 1e9)
    number = 0
    while number < 100 or (perf_counter_ns() < until and going_on()):
        for _ in range(100):
            before = perf_counter_ns()
            client.set(f"key/{number % 1000}", VALUE)
            found.append(perf_counter_ns() - before)
            number += 1
    return found


@contextmanager
def _folding(place: Path, address: str, number: int) -> Iterator[Callable[[], bool]]:
    """Two segments are closed and folded."""
    with udsbus.connect(address) as other:
        before = other.info()["journal"]["segment"]
        while other.info()["journal"]["segment"] < before + 2:
            other.set_many({f"key/{key}": VALUE for key in range(TOGETHER)})
    yield lambda: _segments(place) > 1


@contextmanager
def _snapshot(place: Path, address: str, number: int) -> Iterator[Callable[[], bool]]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "udsbus", "snapshot", str(place / f"{number}.db")),
            *("--socket", address, "--timeout", "100"),
        ],
        stdout=subprocess.DEVNULL,
    )
    yield lambda: process.poll() is None
    process.wait()
    os.unlink(place / f"{number}.db")


@contextmanager
def _pair(place: Path) -> Iterator[str]:
    address = str(place / "bus.sock")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "udsbus", "serve", "--socket", address),
            *("--state", str(place / "state")),
        ],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        while b"serving" not in process.stderr.readline():
            pass
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _segments(place: Path) -> int:
    return len(directory.list_segments(str(place / "state")))


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        sleep(0.05)

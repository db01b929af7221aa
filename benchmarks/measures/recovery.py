"""How long nobody is answered: when the broker is killed, and when a server starts with state."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter, sleep

import udsbus
from udsbus.journal.folding import fold

from ..bench import Bench
from ..clients import connect
from ..load import VALUE
from ..results import REDIS, UDSBUS, Goal, Table, percentile
from ..servers import Server, running_redis, running_udsbus

KEYS = 10_000
PAUSE = {"p50": Goal(60.0, "60 ms", of_ratio=False), "p99": Goal(250.0, "250 ms", of_ratio=False)}
RESTART = Goal(2.5, "2.5 times at most")
TOGETHER = 1_000


def measure_takeover(bench: Bench) -> Table:
    """The longest time between two answers to one client, around `kill -9` of the broker."""
    table = Table(
        "takeover", f"`kill -9` of the broker, {KEYS:,} keys: how long a client waits",
        reference="started again",
    )  # fmt: skip
    table.notes.append(
        '"started again" is `udsbus serve --alone`, run once more as soon as the process has ended'
    )
    sides = {REDIS: ("--alone",), UDSBUS: ()}
    pauses: dict[str, list[float]] = {side: [] for side in sides}
    for side, options in sides.items():
        directory = bench.directory / f"takeover-{side}"
        directory.mkdir(0o700)
        pauses[side] = _pauses(directory, options, bench.scale.starts)
    for side, found in pauses.items():
        found.sort()
        for name, percent in (("p50", 50), ("p99", 99), ("most", 100)):
            table.row("pause", name, "ms", PAUSE.get(name)).add(side, percentile(found, percent))
    return table


def _pauses(directory: Path, options: tuple[str, ...], times: int) -> list[float]:
    address = str(directory / "bus.sock")
    command = [
        *(sys.executable, "-m", "udsbus", "serve", "--socket", address),
        *("--state", str(directory / "state"), *options),
    ]
    first = _started(command)
    groups = [first]
    found = []
    try:
        with udsbus.connect(address) as client:
            client.set_many({f"key/{number}": VALUE for number in range(KEYS)})
            for number in range(times):
                pid = client.info()["pid"]
                if not options:
                    while client.info()["standby"] is None:
                        sleep(0.01)
                sleep(1.2)  # a broker that dies within a second counts as a crash at its start
                begin = perf_counter()
                os.kill(pid, signal.SIGKILL)
                if options:
                    groups[-1].wait()
                    groups.append(_started(command, wait=False))
                client.set("key/0", number)
                found.append((perf_counter() - begin) * 1e3)
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group.pid, signal.SIGKILL)
            group.wait()
    return found


def _started(command: list[str], *, wait: bool = True) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr is not None
    while wait and b"serving" not in process.stderr.readline():
        pass
    return process


def measure_restart(bench: Bench) -> Table:
    """From the start of a server to its first answer, when it has kept many keys."""
    table = Table(
        "restart", "Start with keys of 64 bytes that were kept", reference="Redis, AOF and RDB"
    )
    for keys in bench.scale.sizes(1_000, 100_000):
        place = bench.directory / f"restart-{keys}"
        place.mkdir(0o700)
        with running_redis(place, "process") as redis:
            _fill(redis, keys)
            _rewritten(redis)
        with running_udsbus(place, "process") as broker:
            _fill(broker, keys)
        fold(str(place / "state-process"), all_of_it=True)
        goal = RESTART if keys == bench.scale.keys else None
        row = table.row(f"{keys:,} keys", "start to first answer", "s", goal)
        for round_number in range(bench.scale.rounds):
            starts = [(REDIS, running_redis), (UDSBUS, running_udsbus)]
            for side, running in starts if round_number % 2 else reversed(starts):
                begin = perf_counter()
                with running(place, "process") as server:
                    _answered(server, f"key/{keys - 1}")
                    row.add(side, perf_counter() - begin)
    return table


def _fill(server: Server, number: int) -> None:
    client = connect(server)
    for first in range(0, number, TOGETHER):
        client.set_at_once({f"key/{key}": VALUE for key in range(first, first + TOGETHER)})


def _answered(server: Server, key: str) -> None:
    """Wait for the value of a key; Redis refuses to answer while it loads."""
    import redis

    while True:
        with contextlib.suppress(redis.exceptions.BusyLoadingError):
            assert connect(server).get(key) == VALUE
            return
        sleep(0.005)


def _rewritten(server: Server) -> None:
    """Let Redis make its append-only file begin with an RDB, which loads fastest."""
    import redis

    with redis.Redis(unix_socket_path=server.address) as client:
        while client.info("persistence")["aof_rewrite_in_progress"]:  # it may do so by itself
            sleep(0.05)
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            sleep(0.05)

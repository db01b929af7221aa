"""What becomes of increments when a server stalls, or is killed: lost, doubled, or as it was told.

Each client counts up one key and believes what its library says. In the end the key should hold as
many as were acknowledged, and at most as many more as the library has said it does not know of.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import udsbus
from udsbus.limits import CRASH_SECONDS

from ..bench import Bench
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import redis_program

TIMEOUT = 0.5
STALL_SECONDS = 0.8
"""Longer than the clients wait, shorter than until a broker is taken for hung."""
QUIET_SECONDS = 0.15
TIMES = {True: 2, False: 5}
NONE = Goal(0, "none", of_ratio=False)


class Count(NamedTuple):
    acknowledged: int
    unknown: int
    """The library raised, so the program knows that it does not know."""
    counted: int

    @property
    def lost(self) -> int:
        return max(0, self.acknowledged - self.counted)

    @property
    def doubled(self) -> int:
        return max(0, self.counted - self.acknowledged - self.unknown)


class RedisSide:
    """Redis with an append-only file, started again when it was killed; redis-py as it comes."""

    def __init__(self, directory: Path) -> None:
        self._address = str(directory / "correct-redis.sock")
        kept = directory / "correct-redis"
        kept.mkdir()
        self._command = [
            *(redis_program(), "--port", "0", "--unixsocket", self._address, "--dir", str(kept)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"),
        ]
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, start_new_session=True)

    def counter(self) -> Callable[[], int]:
        import redis

        client: Any = redis.Redis(unix_socket_path=self._address, socket_timeout=TIMEOUT)
        return lambda: int(client.incr("count"))

    def value(self) -> int:
        import redis

        client: Any = redis.Redis(unix_socket_path=self._address)
        return int(client.get("count"))

    def stall(self) -> None:
        _stall(self._process.pid)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._started()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class UdsbusSide:
    """A broker with its standby."""

    def __init__(self, directory: Path) -> None:
        self._address = str(directory / "correct.sock")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "udsbus", "serve", "--socket", self._address),
                *("--state", str(directory / "correct")),
            ],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            with contextlib.suppress(udsbus.BrokerUnavailable):
                self._client = udsbus.connect(self._address)
                return
            sleep(0.01)

    def counter(self) -> Callable[[], int]:
        client = udsbus.connect(self._address, timeout=TIMEOUT)
        return lambda: client.increment("count")

    def value(self) -> int:
        return int(self._client.get("count"))

    def stall(self) -> None:
        _stall(self._client.info()["pid"])

    def kill(self) -> None:
        # With a standby, and not so young that the next one would take it for a crash loop.
        old = monotonic() + 1.5 * CRASH_SECONDS
        while (info := self._client.info())["standby"] is None or monotonic() < old:
            sleep(0.01)
        os.kill(info["pid"], signal.SIGKILL)

    def close(self) -> None:
        self._client.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def measure(bench: Bench) -> Table:
    table = Table(
        "correctness", "One client counts while its server stalls, or is killed",
        reference="redis-py and Redis",
    )  # fmt: skip
    table.notes.append(
        f"both clients wait {TIMEOUT:g} s for an answer; Redis has appendonly everysec and is "
        "started again at once when it was killed"
    )
    times = TIMES[bench.scale.quick]
    for trouble in ("stall", "kill"):
        for side, kind in ((REDIS, RedisSide), (UDSBUS, UdsbusSide)):
            directory = bench.directory / f"{trouble}-{side}"
            directory.mkdir(0o700)
            server = kind(directory)
            try:
                count = _count(server, getattr(server, trouble), times)
            finally:
                server.close()
            group = f"{times} times: {trouble}"
            ours = {"lost": NONE, "doubled": NONE}
            for name in ("acknowledged", "unknown", "lost", "doubled"):
                figure = float(getattr(count, name))
                table.row(group, name, "", ours.get(name)).add(side, figure)
    return table


def _count(server: RedisSide | UdsbusSide, trouble: Callable[[], None], times: int) -> Count:
    increment = server.counter()
    acknowledged = unknown = 0
    over = threading.Event()

    def work() -> None:
        nonlocal acknowledged, unknown
        while not over.is_set():
            try:
                increment()
            except Exception:  # whatever the library calls it
                unknown += 1
            else:
                acknowledged += 1

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(times):
        until = monotonic() + QUIET_SECONDS
        while monotonic() < until:
            sleep(0.01)
        trouble()
    sleep(QUIET_SECONDS)
    over.set()
    worker.join()
    sleep(2 * TIMEOUT)  # what is still on its way
    return Count(acknowledged, unknown, server.value())


def _stall(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    sleep(STALL_SECONDS)
    os.kill(pid, signal.SIGCONT)

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import Client

PATIENCE = 30.0


class Pool:
    """`udsbus worker …`, as a process of its own."""

    def __init__(self, address: str, log: Path, *args: object, **environment: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "udsbus", "worker", *map(str, args)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stderr=file, stdout=file, stdin=subprocess.DEVNULL,
                env={**os.environ, "UDSBUS_SOCKET": address, **environment},
            )  # fmt: skip

    def status(self, client: Client, name: str = "apps") -> list[dict[str, object]]:
        found: list[dict[str, object]] = client.call(f"pools/{name}/status", timeout=PATIENCE)
        return found

    def ready(self, client: Client, count: int = 1, name: str = "apps") -> list[int]:
        """Wait until so many are; their pids."""

        def pids() -> list[int]:
            if not client.services(f"pools/{name}"):
                return []
            found = [each for each in self.status(client, name) if each["state"] == "ready"]
            return [int(str(each["pid"])) for each in found]

        found: list[int] = []

        def all_ready() -> bool:
            found[:] = pids()  # those that are returned: the next time they may be others
            return len(found) == count

        wait_until(all_ready, f"{count} workers to be ready", PATIENCE)
        return found

    def told(self, what: str) -> None:
        wait_until(lambda: what in self.log.read_text(), f"{what!r} in the log", PATIENCE)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


StartPool = Callable[..., Pool]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with running_broker(tmp_path / "bus.sock") as broker:
        yield broker


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.address, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def start(broker: BrokerProcess, tmp_path: Path) -> Iterator[StartPool]:
    pools: list[Pool] = []

    def start(*args: object, **environment: str) -> Pool:
        log = tmp_path / f"pool-{len(pools)}.log"
        pools.append(Pool(broker.address, log, *args, **environment))
        return pools[-1]

    yield start
    for pool in pools:
        if pool.process.poll() is None:
            pool.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                pool.process.wait(PATIENCE)
        pool.process.kill()
        pool.process.wait()

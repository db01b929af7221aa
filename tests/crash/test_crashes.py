"""Many processes write and read while brokers, standbys and both are killed, at every step.

Then the history of what they were told is checked: it must be linearizable, and who watched must
have seen every change once and in order. UDSBUS_CRASH_SECONDS makes it longer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import udsbus
from tests.client.support import Child, Task
from tests.harness import wait_until
from udsbus import Client, Conflict
from udsbus.limits import RESUME_SECONDS

from .checker import Operation, apply_to_bus, violation
from .faulty import STRUCK

SECONDS = float(os.environ.get("UDSBUS_CRASH_SECONDS") or (60 if os.environ.get("CI") else 20))
SEED = int(os.environ.get("UDSBUS_CRASH_SEED", "0")) or random.randrange(1, 1_000_000)
OPERATIONS = ("get", "get", "both", "both", "entry", "set", "swap", "delete", "add", "together")
"""Drawn at random; half of them only read, so that some find what was read before."""
WORKERS = 4
GROUPS = 3
PATIENCE = float(os.environ.get("UDSBUS_CRASH_PATIENCE", "60"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS * 4 + 120),
    pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux"),
]


class Bus:
    """A pair that kills itself, started again when both are dead."""

    def __init__(self, address: str, state: Path) -> None:
        self._command = [sys.executable, "-m", "tests.crash.faulty", address, str(state)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._groups: list[subprocess.Popen[bytes]] = []
        self.starts = 0
        self._ending = threading.Event()
        self._keeper = Task(self._keep)

    def _keep(self) -> None:
        """Start a pair whenever there is none, or but a stopped process, which nobody guards."""
        while not self._ending.wait(0.02):
            members = self.members()
            if members and all(map(is_stopped, members)):
                for pid in members:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if members:
                continue
            self.starts += 1
            self._groups.append(
                subprocess.Popen(
                    self._command, stdout=self._log, stderr=self._log, start_new_session=True
                )
            )

    def members(self) -> list[int]:
        for each in self._groups:
            each.poll()
        groups = {each.pid for each in self._groups}
        living = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) in groups and fields[0] != "Z":
                        living.append(int(entry.name))
        return sorted(living)

    def log(self) -> str:
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def close(self) -> None:
        self._ending.set()
        self._keeper.result()
        for each in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
        wait_until(lambda: not self.members(), "the end of all brokers")
        self._log.close()


class Pulse:
    """Asks all the time, so that one knows when the bus has last answered."""

    def __init__(self, address: str) -> None:
        self._ending = threading.Event()
        self._last = time.monotonic()
        self._asker = Task(lambda: self._ask(address))

    def _ask(self, address: str) -> None:
        with udsbus.connect(address, timeout=PATIENCE) as client:
            while not self._ending.wait(0.05):
                client.ping()
                self._last = time.monotonic()

    def stopped(self) -> bool:
        """On a machine that is busy, brokers may be killed more quickly than they start. Clients
        are not promised that their requests are remembered for ever."""
        return time.monotonic() - self._last > RESUME_SECONDS / 10

    def close(self) -> None:
        self._ending.set()
        self._asker.result()


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


class Told(NamedTuple):
    """What a worker was told."""

    operations: list[tuple[int, Operation]]
    """Each with the group of keys that it is about."""
    hits: int
    """Reads that were answered from memory."""
    counted: int
    """How often it has counted on under a lock."""
    put: list[int]
    """Into the queue."""
    got: list[int]


def work(address: str, number: int, until: float) -> Told:
    """Operations at random."""
    draw = random.Random(SEED + number)
    done: list[tuple[int, Operation]] = []
    put: list[int] = []
    got: list[int] = []
    unique, counted = number * 10_000_000, 0
    with udsbus.connect(address, timeout=PATIENCE) as client:
        client.set(f"alive/{number}", number, ephemeral=True)
        while time.monotonic() < until:
            if draw.random() < 0.05:
                count_on(client)
                counted += 1
            if draw.random() < 0.2:
                pass_on(client, draw, unique, put, got)
            group = draw.randrange(GROUPS)
            name = draw.choice(OPERATIONS)
            unique += 1
            key, other = draw.sample([f"{group}/x", f"{group}/y"], 2)
            arguments: tuple[Any, ...] = {
                "set": (key, unique),
                "swap": (key, unique, draw.choice([0, known(client, key)])),
                "add": (f"{group}/n",),
                "together": (key, f"{group}/n", other, unique),
                "both": (key, other),
            }.get(name, (key,))
            called = time.monotonic()
            result = carry_out(client, name, arguments)
            done.append(
                (group, Operation(number, called, time.monotonic(), name, arguments, result))
            )
        assert client.get(f"alive/{number}") == number, "it goes with this process, not before"
        hits = client.cache_info().hits
    return Told(done, hits, counted, put, got)


def pass_on(
    client: Client, draw: random.Random, unique: int, put: list[int], got: list[int]
) -> None:
    """Put something into a queue that has little room, or take something out."""
    jobs = client.queue("jobs", maxsize=3)
    wait = draw.choice([0.0, 0.02, 1.0])
    with contextlib.suppress(queue.Full, queue.Empty):
        if draw.random() < 0.5:
            jobs.put(unique, timeout=wait)
            put.append(unique)
        elif draw.random() < 0.5:
            got.append(jobs.get(timeout=wait))
            jobs.task_done()
        else:
            taken = jobs.get(timeout=wait, ack=True)
            if draw.random() < 0.2:
                taken.give_back()
            else:
                taken.done()
                got.append(taken.item)


def count_on(client: Client) -> None:
    """With a read and a write, which only a lock makes one."""
    lock = client.lock("counting")
    with lock:
        token = lock.token
        counted = client.get("counted", (0, 0))
        assert counted[1] < token, "a later holder has a higher token"
        client.set("counted", (counted[0] + 1, token), fence=token)


def known(client: Client, key: str) -> int:
    entry = client.entry(key)
    return 0 if entry is None else entry.revision


def carry_out(client: Client, name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "get":
        return client.get(*arguments)
    if name == "set":
        return client.set(*arguments)
    if name == "swap":
        key, value, expected = arguments
        with contextlib.suppress(Conflict):
            return client.set(key, value, if_revision=expected)
        return None
    if name == "entry":
        entry = client.entry(*arguments)
        return (None, 0) if entry is None else (entry.value, entry.revision)
    if name == "both":
        found = client.get_many(arguments)
        return tuple(map(found.get, arguments))
    if name == "delete":
        return client.delete(*arguments)
    if name == "add":
        return client.increment(*arguments)
    key, added, written, value = arguments
    with client.transaction() as t:
        read = t.get(key)
        number = t.increment(added)
        t.set(written, value)
    return read.value, number.value, t.revision


def look_on(address: str) -> tuple[list[tuple[int, str]], list[tuple[str, str]], int]:
    """Every change that a watch tells of, as (revision, key); what it tells of keys that belong to
    workers, as (key, kind); and how often it started over."""
    seen: list[tuple[int, str]] = []
    owned: list[tuple[str, str]] = []
    with udsbus.connect(address, timeout=PATIENCE) as client, client.watch("**") as watch:
        client.set("looking", True)
        while True:
            change = watch.get(timeout=PATIENCE)
            assert change is not None
            if change.key == "over":
                return seen, owned, watch.started_over
            seen.append((change.revision, change.key))
            if change.key.startswith("alive/"):
                owned.append((change.key, change.kind))


@pytest.fixture
def bus(address: str, runtime: Path) -> Iterator[Bus]:
    bus = Bus(address, runtime / "state")
    wait_until(lambda: os.path.exists(address), "the socket")
    yield bus
    if os.environ.get("UDSBUS_CRASH_LOG"):
        Path(os.environ["UDSBUS_CRASH_LOG"]).write_text(bus.log())
    bus.close()


def test_whatever_is_killed(bus: Bus, address: str) -> None:
    draw = random.Random(SEED)
    kills = 0
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(Child(lambda: look_on(address)))
        client = stack.enter_context(udsbus.connect(address, timeout=PATIENCE))
        wait_until(lambda: client.get("looking"), "the watcher", PATIENCE)
        until = time.monotonic() + SECONDS
        workers = [
            stack.enter_context(
                Child(lambda number=number: work(address, number, until))  # type: ignore[misc]
            )
            for number in range(1, WORKERS + 1)
        ]
        pulse = stack.enter_context(contextlib.closing(Pulse(address)))
        while time.monotonic() < until:
            time.sleep(draw.uniform(0.1, 0.8))  # a chosen moment, not something to wait for
            members = bus.members()
            if members and not pulse.stopped() and draw.random() < 0.6:
                both = draw.random() < 0.3
                number = signal.SIGSTOP if draw.random() < 0.1 else signal.SIGKILL
                for pid in members if both else [draw.choice(members)]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if both else number)
                        kills += 1
        results = [child.result() for child in workers]
        told = [operation for result in results for operation in result.operations]
        wait_until(lambda: not client.keys("alive/*"), "what belonged to the workers to go", 60)
        counted = client.get("counted")[0]
        assert client.locks() == []
        got = [item for result in results for item in result.got]
        passed_on = len(got)
        with contextlib.suppress(queue.Empty):
            while True:
                got.append(client.queue("jobs").get_nowait())
                client.queue("jobs").task_done()
        assert client.queue("jobs").join(timeout=0)
        client.set("over", True)
        seen, owned, started_over = watcher.result()
    assert counted == sum(result.counted for result in results), "two held the lock, or none"
    put = [item for result in results for item in result.put]
    assert sorted(got) == sorted(put), "each item was got once"
    deaths = bus.log().count("takes over") + bus.starts - 1
    struck = bus.log().count(STRUCK)
    hits = sum(result.hits for result in results)
    print(
        f"seed {SEED}: {len(told)} operations, {hits} reads from memory, {counted} counted on "
        "under a lock, "
        f"{passed_on} passed on by a queue, {deaths} deaths of brokers, {kills} kills at random, "
        f"{struck} at a point of a turn"
    )
    assert deaths > SECONDS / 5
    assert hits > SECONDS
    for group in range(GROUPS):
        history = [operation for its, operation in told if its == group]
        assert violation(history, (), apply_to_bus) is None, f"seed {SEED}"
    written = {
        (operation.result, operation.arguments[0])
        for _, operation in told
        if operation.name in ("set", "swap") and operation.result is not None
    }
    assert started_over == 0
    assert [revision for revision, _ in seen] == sorted(revision for revision, _ in seen)
    assert len(set(seen)) == len(seen), "no change is told twice"
    assert written <= set(seen), "and none is left out"
    assert sorted(owned) == [
        (f"alive/{number}", kind)
        for number in range(1, WORKERS + 1)
        for kind in ("created", "released")
    ]

"""Locks: how long one takes, who gets it when several want it, and what the dead leave behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from itertools import pairwise
from time import monotonic, monotonic_ns, sleep
from typing import Any, NamedTuple

import msgpack

import udsbus

from ..bench import Bench
from ..clients import connect
from ..load import VALUE, percentiles
from ..results import REDIS, UDSBUS, Goal, Table, percentile
from ..servers import Server
from ..workers import Job, run_together

PROCESSES = 4
HOLD_NS = 1_000_000
SESSIONS = 10_000
LEFT_KEYS, LEFT_LOCKS = 100_000, 1_000
ALONE = Goal(1 / 8, "8 times lower")
SHARE = Goal(0.93, "at least 93 %", at_least=True, of_ratio=False)
FAIR = Goal(1.05, "1.05 at most", of_ratio=False)
HANDOVER = Goal(5.0, "5 times at most")
KILLED = Goal(20.0, "20 ms at most", of_ratio=False)
SLOWER = Goal(1.10, "under 10 % more")
SLOWEST = Goal(5.0, "5 ms at most", of_ratio=False)


def measure(bench: Bench) -> Table:
    table = Table("locks", "A lock, beside redis-py's `Lock`")
    for server in bench.turns():
        ((latencies,),) = [run_together([Job(_alone, (server, bench.scale.seconds))])]
        found = percentiles([latencies])
        for name in ("p50", "p99"):
            goal = ALONE if name == "p50" else None
            table.row("acquire and release", name, "µs", goal).add(server.kind, found[name])
    group = f"{PROCESSES} processes, each holds it 1 ms"
    seconds = bench.scale.seconds * 4 / 3
    table.notes.append(f"{group}: for {seconds:g} s; of the grants that would be possible")
    for server in bench.turns():
        held = run_together([Job(_hold, (server, seconds))] * PROCESSES)
        grants = [len(one.acquired) for one in held]
        possible = seconds * 1e9 / HOLD_NS
        table.row(group, "grants", "of 1", SHARE).add(server.kind, sum(grants) / possible)
        fair = max(grants) / max(1, min(grants))
        table.row(group, "most over fewest", "times", FAIR).add(server.kind, fair)
        p50 = percentile(sorted(_handovers(held)), 50) / 1e3
        table.row(group, "release to next, p50", "µs").add(server.kind, p50)
    return table


def measure_handover(bench: Bench) -> Table:
    """What the lock adds to what waking a process takes."""
    table = Table(
        "handover",
        "A contended lock: from its release until the next holder runs",
        reference="a wake-up",
    )
    table.notes.append("a wake-up: half a ping-pong over a bare socket, in Python, both asleep")
    (_, udsbus_server) = bench.servers
    address = str(bench.directory / "wake.sock")
    for _ in range(bench.scale.rounds):
        halves, _ = run_together([Job(_ping, (address, 500)), Job(_pong, (address,))])
        held = run_together([Job(_hold, (udsbus_server, bench.scale.seconds))] * PROCESSES)
        for name, microseconds in percentiles([halves]).items():
            goal = HANDOVER if name == "p50" else None
            table.row("release to next", name, "µs", goal).add(REDIS, microseconds)
        for name, microseconds in percentiles([array("q", _handovers(held))]).items():
            table.row("release to next", name, "µs").add(UDSBUS, microseconds)
    return table


def measure_sessions(bench: Bench) -> Table:
    """Many clients that are there, and one that dies and leaves much behind."""
    table = Table("sessions", "Sessions, and what they leave", reference="without")
    (_, server) = bench.servers
    many = 500 if bench.scale.quick else SESSIONS
    with udsbus.connect(server.address) as client:
        for _ in range(bench.scale.rounds):
            latencies = _sets(client, bench.scale.seconds)
            table.row(f"`set` beside {many:,} sessions", "p50", "µs", SLOWER).add(
                REDIS, percentiles([latencies])["p50"]
            )
            held = _sessions(server.address, many)
            latencies = _sets(client, bench.scale.seconds)
            table.row(f"`set` beside {many:,} sessions", "p50", "µs").add(
                UDSBUS, percentiles([latencies])["p50"]
            )
            for sock in held:
                sock.close()
            for one in client.clients():
                if one.session != client.session:
                    client.kick(one.session)
            _until(lambda: len(client.clients()) == 1)
        divisor = 50 if bench.scale.quick else 1
        keys, locks = LEFT_KEYS // divisor, LEFT_LOCKS // divisor
        for _ in range(bench.scale.rounds):
            slowest = _slowest_ping_while_dying(client, server.address, keys, locks)
            group = f"a client dies that had {keys:,} keys and {locks:,} locks"
            table.row(group, "slowest ping", "ms", SLOWEST).add(UDSBUS, slowest)
        delays = sorted(_killed(client, server.address) for _ in range(bench.scale.rounds * 20))
        row = table.row("a killed holder", "until the next runs, p99", "ms", KILLED)
        row.add(UDSBUS, percentile(delays, 99))
    return table


# --- in processes of their own ------------------------------------------------------------------


class Held(NamedTuple):
    """When one process had the lock, in ns of the clock that all share."""

    acquired: array[int]
    released: array[int]


def _lock_of(server: Server) -> Any:
    client: Any = connect(server)
    if server.kind == REDIS:
        return client._redis.lock("bench/lock")
    return client._client.lock("bench/lock")


def _alone(ready: Callable[[], object], server: Server, seconds: float) -> array[int]:
    lock = _lock_of(server)
    latencies = array("q")
    ready()
    end = monotonic_ns() + int(seconds * 1e9)
    start = 0
    while start < end:
        start = monotonic_ns()
        lock.acquire()
        lock.release()
        latencies.append(monotonic_ns() - start)
    return latencies


def _hold(ready: Callable[[], object], server: Server, seconds: float) -> Held:
    lock, held = _lock_of(server), Held(array("q"), array("q"))
    ready()
    end = monotonic_ns() + int(seconds * 1e9)
    now = 0
    while now < end:
        lock.acquire()
        now = monotonic_ns()
        held.acquired.append(now)
        until = now + HOLD_NS
        while now < until:
            now = monotonic_ns()
        held.released.append(monotonic_ns())
        lock.release()
    return held


def _handovers(held: list[Held]) -> list[int]:
    """From each release to the next acquisition, if that was another process's."""
    events = sorted(
        [(when, 1, number) for number, one in enumerate(held) for when in one.acquired]
        + [(when, 0, number) for number, one in enumerate(held) for when in one.released]
    )
    found = []
    for (released, kind, by), (acquired, next_kind, to) in pairwise(events):
        if kind == 0 and next_kind == 1 and by != to:
            found.append(acquired - released)
    return found


def _ping(ready: Callable[[], object], address: str, count: int) -> array[int]:
    """Half of each round trip to a process that sleeps in `recv`; between them, what the holder of
    a lock does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        ready()
        peer, _ = listener.accept()
    os.unlink(address)
    halves = array("q")
    with peer:
        for _ in range(count):
            begin = monotonic_ns()
            while (now := monotonic_ns()) < begin + HOLD_NS:
                pass
            peer.sendall(b"ping")
            peer.recv(8)
            halves.append((monotonic_ns() - now) // 2)
    return halves


def _pong(ready: Callable[[], object], address: str) -> None:
    ready()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        while data := sock.recv(8):
            sock.sendall(data)


# --- in this process ----------------------------------------------------------------------------


def _sets(client: udsbus.Client, seconds: float) -> array[int]:
    latencies = array("q")
    end = monotonic_ns() + int(seconds * 1e9)
    start = 0
    while start < end:
        start = monotonic_ns()
        client.set("bench/sessions", VALUE)
        latencies.append(monotonic_ns() - start)
    return latencies


def _sessions(address: str, number: int) -> list[socket.socket]:
    """So many sessions, each with one connection that asks nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, number + 1_000)), hard))
    held = []
    for each in range(number):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        sock.sendall(msgpack.packb([0, 1, "hello", [1, {"session": f"idle-{each}"}]]))
        assert sock.recv(65_536)
        held.append(sock)
    return held


HAVE = """
import sys, udsbus
address, keys, locks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = udsbus.connect(address)
for first in range(0, keys, 1000):
    with client.pipeline() as pipeline:
        for key in range(first, min(first + 1000, keys)):
            pipeline.set(f"left/{key}", b"", ephemeral=True)
for lock in range(locks):
    client.lock(f"left/{lock}").acquire()
print("has", flush=True)
sys.stdin.read()
"""


def _having(address: str, keys: int, locks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HAVE, address, str(keys), str(locks)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "has\n"
    return process


def _slowest_ping_while_dying(client: udsbus.Client, address: str, keys: int, locks: int) -> float:
    process = _having(address, keys, locks)
    process.send_signal(signal.SIGKILL)
    slowest, until = 0.0, monotonic() + 60
    while client.info()["locks"] or client.exists(f"left/{keys - 1}"):
        slowest = max(slowest, *(client.ping() for _ in range(20)))
        assert monotonic() < until
    process.wait()
    return slowest * 1e3


def _killed(client: udsbus.Client, address: str) -> float:
    """Milliseconds from the death of a holder until the next one runs."""
    process = _having(address, 0, 1)
    acquired = []
    lock = client.lock("left/0")

    def wait() -> None:
        lock.acquire()
        acquired.append(monotonic_ns())
        lock.release()

    waiter = threading.Thread(target=wait)
    waiter.start()
    _until(lambda: client.info()["waiting"] == 1)
    killed = monotonic_ns()
    process.send_signal(signal.SIGKILL)
    waiter.join()
    process.wait()
    return (acquired[0] - killed) / 1e6


def _until(condition: Callable[[], bool]) -> None:
    until = monotonic() + 60
    while not condition():
        assert monotonic() < until
        sleep(0.005)

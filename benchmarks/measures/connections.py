"""Many connections of which most are idle: do they cost those that ask?"""

from __future__ import annotations

import contextlib
import resource
import socket
from array import array
from collections.abc import Callable, Iterator
from time import monotonic_ns

import msgpack

from ..bench import Bench
from ..load import percentiles
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

ACTIVE = 100
GOAL = Goal(1.3, "1.3 times at most")


def measure(bench: Bench) -> Table:
    """100 connections of one process ask in turn, alone and beside idle ones."""
    table = Table(
        "connections", f"{ACTIVE} connections ask, of so many",
        reference=f"{ACTIVE} connections", own="so many",
    )  # fmt: skip
    _, udsbus = bench.servers
    for number in range(bench.scale.rounds):
        counts = [ACTIVE, bench.scale.connections]
        for count in counts if number % 2 == 0 else reversed(counts):
            with _held(udsbus, count - ACTIVE):
                (latencies,) = run_together([Job(_ask, (udsbus, bench.scale.seconds))])
            side = REDIS if count == ACTIVE else UDSBUS
            for name, microseconds in percentiles([latencies]).items():
                goal = GOAL if name == "p50" else None
                group = f"{bench.scale.connections:,}"
                table.row(group, name, "µs", goal).add(side, microseconds)
    return table


@contextlib.contextmanager
def _held(server: Server, count: int) -> Iterator[None]:
    """So many idle connections, of this process, which has asked once on each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1_000), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_connected(server))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connected(server: Server) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(server.address)
    sock.sendall(msgpack.packb([0, 1, "ping", []]))
    assert sock.recv(100)
    return sock


def _ask(ready: Callable[[], object], server: Server, seconds: float) -> array[int]:
    """One request on each connection, one after the other."""
    request = msgpack.packb([0, 1, "get", ["bench/0001"]])
    with contextlib.ExitStack() as stack:
        active = [stack.enter_context(_connected(server)) for _ in range(ACTIVE)]
        latencies = array("q")
        ready()
        end = monotonic_ns() + int(seconds * 1e9)
        start = monotonic_ns()
        while start < end:
            for sock in active:
                sock.sendall(request)
                sock.recv(4096)
                now = monotonic_ns()
                latencies.append(now - start)
                start = now
    return latencies

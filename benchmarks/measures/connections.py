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
from ..clients import connect
from ..load import KEYS, VALUE, percentiles
from ..results import REDIS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

ACTIVE = 100
COUNTS = (1, 10, 100, 1_000, 10_000)
GOAL = Goal(1.3, "1.3 times at most", of_ratio=False)
PING = {True: b"PING\r\n", False: msgpack.packb([0, 1, "ping", []])}
GET = {
    True: b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(KEYS[0]), KEYS[0].encode()),
    False: msgpack.packb([0, 1, "get", [KEYS[0]]]),
}
"""What is sent to Redis (True) and to udsbus, over bare sockets: the connections are measured, not
the client libraries."""


def measure(bench: Bench) -> Table:
    """Up to 100 connections of one process ask in turn, beside others that are idle."""
    table = Table("connections", f"Connections, {ACTIVE} of which at most ask one after the other")
    table.notes.append("both are asked over bare sockets, without their client libraries")
    counts = [count for count in COUNTS if count <= bench.scale.connections]
    many = f"{counts[-1]:,} connections, against {ACTIVE}"
    for number in range(bench.scale.rounds):
        p50s: dict[tuple[str, int], float] = {}
        for count in counts if number % 2 == 0 else reversed(counts):
            for server in bench.servers if number % 2 == 0 else reversed(bench.servers):
                with _held(server, count - ACTIVE):
                    job = Job(_ask, (server, min(count, ACTIVE), bench.scale.seconds / 2))
                    (latencies,) = run_together([job])
                found = percentiles([latencies])
                p50s[server.kind, count] = found["p50"]
                for name in ("p50", "p99"):
                    table.row(group_of(count), name, "µs").add(server.kind, found[name])
        for server in bench.servers:
            times = p50s[server.kind, counts[-1]] / p50s[server.kind, ACTIVE]
            table.row(many, "p50", "times", GOAL).add(server.kind, times)
    return table


def group_of(count: int) -> str:
    return "1 connection" if count == 1 else f"{count:,} connections"


@contextlib.contextmanager
def _held(server: Server, count: int) -> Iterator[None]:
    """So many idle connections, of this process, which has asked once on each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 1_000)), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_connected(server))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connected(server: Server) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(server.address)
    sock.sendall(PING[server.kind == REDIS])
    assert sock.recv(100)
    return sock


def _ask(
    ready: Callable[[], object], server: Server, connections: int, seconds: float
) -> array[int]:
    """One request on each connection, one after the other."""
    connect(server).set(KEYS[0], VALUE)
    request = GET[server.kind == REDIS]
    with contextlib.ExitStack() as stack:
        active = [stack.enter_context(_connected(server)) for _ in range(connections)]
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

"""Small and large values: how much goes through `set` and `get` of one process in a second?"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from ..bench import Bench
from ..clients import connect
from ..results import Goal, Table
from ..servers import Server
from ..workers import Job, run_together

KIB = 1024
SIZES = {
    "16 B": 16, "1 KiB": KIB, "64 KiB": 64 * KIB, "1 MiB": KIB * KIB, "16 MiB": 16 * KIB * KIB,
}  # fmt: skip
GOAL = Goal(1.5, "1.5 times", at_least=True)
GOALS = {"1 MiB": GOAL, "16 MiB": GOAL}


def measure(bench: Bench) -> Table:
    table = Table("values", "set and get in turn, by the size of the value, one process")
    for name, size in SIZES.items():
        for server in bench.turns():
            (bytes_a_second,) = run_together([Job(drive, (server, size, bench.scale.seconds))])
            row = table.row(name, "through", "MiB/s", GOALS.get(name))
            row.add(server.kind, bytes_a_second / (KIB * KIB))
    return table


def drive(ready: Callable[[], object], server: Server, size: int, seconds: float) -> float:
    """Bytes a second, each way counted."""
    client = connect(server)
    value = bytes(range(256)) * (size // 256) or bytes(size)
    key = f"bench/value/{size}"
    for _ in range(3):
        client.set(key, value)
        assert client.get(key) == value
    ready()
    begin = monotonic_ns()
    end = begin + int(seconds * 1e9)
    moved = 0
    while (now := monotonic_ns()) < end:
        client.set(key, value)
        client.get(key)
        moved += 2 * size
    client.set(key, b"")
    return moved / ((now - begin) / 1e9)

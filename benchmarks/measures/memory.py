"""How much memory the servers need: for a million keys, and for each key of 16 and 64 bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from ..bench import Bench
from ..clients import connect
from ..results import Goal, Table
from ..servers import Server, running_redis, running_udsbus
from ..workers import Job, run_together

GOAL = Goal(1.9, "1.9 times at most")
BATCH = 1_000


def measure(bench: Bench) -> Table:
    keys = bench.scale.keys
    table = Table("memory", f"{keys:,} keys of 16 bytes with values of 64: resident memory")
    for number in range(min(bench.scale.rounds, 3)):
        sides = [running_redis, running_udsbus]
        for start in sides if number % 2 == 0 else reversed(sides):
            directory = bench.directory / f"memory-{number}"
            directory.mkdir(exist_ok=True)
            with start(directory) as server:
                empty = resident(server)
                run_together([Job(fill, (server, keys))])
                full = resident(server)
            table.row("the server", "empty", "MiB").add(server.kind, empty / 2**20)
            table.row("the server", "full", "MiB", GOAL).add(server.kind, full / 2**20)
            table.row("a key", "16 + 64 bytes", "bytes").add(server.kind, (full - empty) / keys)
    return table


def resident(server: Server) -> int:
    """Bytes, without what other processes share with it of files."""
    if Path("/proc").exists():
        fields = Path(f"/proc/{server.pid}/status").read_text().split("\n")
        sizes = dict(line.split(":", 1) for line in fields if ":" in line)
        return sum(int(sizes[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
    found: int = psutil.Process(server.pid).memory_info().rss
    return found


def fill(ready: Callable[[], object], server: Server, keys: int) -> None:
    client = connect(server)
    ready()
    for begin in range(0, keys, BATCH):
        client.set_at_once(
            {
                f"keys/{number:011}": number.to_bytes(8, "big") * 8
                for number in range(begin, min(begin + BATCH, keys))
            }
        )

"""Few and many keys in a server: do they cost those who ask, and how much memory is each?"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from ..bench import Bench
from ..clients import connect
from ..load import VALUE, Timed, percentiles, time_each
from ..results import Goal, Table
from ..servers import Server, running_redis, running_udsbus
from ..workers import Job, run_together

GOAL = Goal(1.9, "1.9 times at most")
SIZES = (1_000, 10_000, 100_000)
BATCH = 1_000
DRAWN = 10_000
"""Keys that are drawn beforehand and asked for in turn."""


def measure(bench: Bench) -> Table:
    table = Table("keys", "Keys of 16 bytes with values of 64, in a server of their own")
    of_none = table.row("no key", "resident memory", "MiB")
    for keys in bench.scale.sizes(*SIZES):
        group = group_of(keys)
        for number in range(min(bench.scale.rounds, 3)):
            sides = [running_redis, running_udsbus]
            for start in sides if number % 2 == 0 else reversed(sides):
                place = bench.directory / f"keys-{keys}-{number}"
                place.mkdir(exist_ok=True)
                with start(place) as server:
                    empty = resident(server)
                    run_together([Job(fill, (server, keys))])
                    full = resident(server)
                    (runs,) = run_together([Job(ask, (server, keys, bench.scale.seconds / 3))])
                kind = server.kind
                for operation, run in runs.items():
                    p50 = percentiles([run.latencies])["p50"]
                    table.row(group, f"{operation}, p50", "µs").add(kind, p50)
                table.row(group, "memory a key", "bytes").add(kind, (full - empty) / keys)
                goal = GOAL if keys == bench.scale.keys else None
                table.row(group, "resident memory", "MiB", goal).add(kind, full / 2**20)
                of_none.add(kind, empty / 2**20)
    table.notes.append(
        "with few keys, the memory a key is also what the first requests take, and the change log "
        "of udsbus"
    )
    return table


def group_of(keys: int) -> str:
    return f"{keys:,} keys"


def resident(server: Server) -> int:
    """Bytes, without what other processes share with it of files."""
    if Path("/proc").exists():
        fields = Path(f"/proc/{server.pid}/status").read_text().split("\n")
        sizes = dict(line.split(":", 1) for line in fields if ":" in line)
        return sum(int(sizes[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
    found: int = psutil.Process(server.pid).memory_info().rss
    return found


# --- in processes of their own --------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"keys/{number:011}"


def fill(ready: Callable[[], object], server: Server, keys: int) -> None:
    client = connect(server)
    ready()
    for begin in range(0, keys, BATCH):
        numbers = range(begin, min(begin + BATCH, keys))
        client.set_at_once({name_of(number): number.to_bytes(8) * 8 for number in numbers})


def ask(ready: Callable[[], object], server: Server, keys: int, seconds: float) -> dict[str, Timed]:
    """`get` and then `set` of keys at random."""
    client = connect(server)
    draw = random.Random(keys)
    drawn = [name_of(draw.randrange(keys)) for _ in range(DRAWN)]
    calls = {
        "get": [partial(client.get, key) for key in drawn],
        "set": [partial(client.set, key, VALUE) for key in drawn],
    }
    assert client.get(drawn[0]) is not None
    ready()
    return {operation: time_each(list(of), seconds) for operation, of in calls.items()}

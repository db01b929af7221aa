"""`udsbus config push`: from its beginning until all of many workers have the new configuration."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns, sleep

from ..bench import Bench
from ..results import UDSBUS, Goal, Table, percentile
from ..servers import Server
from ..workers import Job, run_together

WORKERS = 100
PUSHES = 50
GAP = 0.1
"""Seconds between two pushes."""
KEY = "config/bench"
SOON = Goal(50.0, "50 ms", of_ratio=False)


@dataclasses.dataclass
class Config:
    number: int
    name: str
    limits: dict[str, int]


def bound(ready: Callable[[], object], server: Server, pushes: int) -> list[int]:
    """Be a worker; when (nanoseconds) it had the value of each push."""
    import udsbus

    when = [0] * (pushes + 1)
    done = threading.Event()
    with udsbus.connect(server.address) as client:
        config = client.bind(KEY, into=Config)

        @config.on_change
        def renewed(value: Config) -> None:
            assert config.value.number >= value.number
            when[value.number] = monotonic_ns()
            if value.number == pushes:
                done.set()

        ready()
        assert done.wait(60)
    return when[1:]


def push(ready: Callable[[], object], server: Server, path: Path, pushes: int) -> list[int]:
    """Push a file with another number each time; when (nanoseconds) each push began."""
    import udsbus
    from udsbus.config.files import Source
    from udsbus.config.formats import FORMATS
    from udsbus.config.pushing import push as push_files

    files = [Source(str(path), KEY, FORMATS["toml"])]
    began = []
    with udsbus.connect(server.address) as client:
        ready()
        for number in range(1, pushes + 1):
            sleep(GAP)
            write(path, number)
            began.append(monotonic_ns())
            push_files(client, files)
    return began


def write(path: Path, number: int) -> None:
    path.write_text(f'number = {number}\nname = "bench"\n[limits]\nrequests = 100\nbytes = 1000\n')


def measure(bench: Bench) -> Table:
    import udsbus

    table = Table("reload", "A file pushed to bound workers, each a process")
    workers = 4 if bench.scale.quick else WORKERS
    pushes = 10 if bench.scale.quick else PUSHES
    bus = next(server for server in bench.servers if server.kind == UDSBUS)
    path = bench.directory / "bench.toml"
    write(path, 0)
    for _ in range(bench.scale.rounds):
        with udsbus.connect(bus.address) as client:
            client.set(KEY, {"number": 0, "name": "bench", "limits": {}})
        jobs = [Job(bound, (bus, pushes)) for _ in range(workers)]
        *seen, began = run_together([*jobs, Job(push, (bus, path, pushes))])
        first, last = [], []
        for number, begin in enumerate(began):
            ages = sorted(when[number] - begin for when in seen)
            first.append(ages[0] / 1e6)
            last.append(ages[-1] / 1e6)
        for what, milliseconds in (("the first", first), ("all", last)):
            for percent in (50, 99):
                goal = SOON if (what, percent) == ("all", 99) else None
                row = table.row(f"until {what} of {workers} have it", f"p{percent}", "ms", goal)
                row.add(UDSBUS, percentile(sorted(milliseconds), percent))
    return table

"""1,000 `set` at once, from one process: by a pipeline, and by the one command for many keys."""

from __future__ import annotations

from ..bench import Bench
from ..load import BATCH
from ..results import Goal, Table

ROWS = {
    "pipeline": ("pipeline of 1,000 set", Goal(3.0, "3 times more", at_least=True)),
    "at_once": ("mset / set_many of 1,000 keys", None),
}


def measure(bench: Bench) -> Table:
    table = Table("batches", "Batches of 1,000 writes, one process, 64 bytes")
    for server in bench.turns():
        for operation, (group, goal) in ROWS.items():
            driven = bench.drive(server, operation)
            writes = driven.calls * len(BATCH)
            a_second = driven.calls_a_second * len(BATCH)
            table.row(group, "writes", "/s", goal).add(server.kind, a_second)
            cpu = {"client CPU": driven.client_cpu, "server CPU": driven.server_cpu}
            for name, seconds in cpu.items():
                table.row(group, name, "µs/op").add(server.kind, seconds / writes * 1e6)
    return table

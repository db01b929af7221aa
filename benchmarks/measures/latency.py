"""`set` and `get` from one process that does nothing else: how long does a call take?"""

from __future__ import annotations

from ..bench import Bench
from ..load import percentiles
from ..results import Goal, Table

GOAL = {"p50": Goal(1 / 6, "6 times lower")}


def measure(bench: Bench) -> Table:
    table = Table("latency", "Latency of one call, one process, 64 bytes")
    for server in bench.turns():
        for operation in ("set", "get"):
            driven = bench.drive(server, operation)
            found = percentiles([run.latencies for run in driven.runs])
            for name, microseconds in found.items():
                table.row(operation, name, "µs", GOAL.get(name)).add(server.kind, microseconds)
            cpu = {"client CPU": driven.client_cpu, "server CPU": driven.server_cpu}
            for name, seconds in cpu.items():
                table.row(operation, name, "µs/op").add(server.kind, seconds / driven.calls * 1e6)
    return table

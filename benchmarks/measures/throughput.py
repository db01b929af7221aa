"""1 to 16 processes at once, `set` and `get` in turn: how much is done, at which p99 and CPU?"""

from __future__ import annotations

from ..bench import Bench
from ..load import percentiles
from ..results import Goal, Table

PROCESSES = (1, 2, 4, 8, 16)
CALLS_GOAL = Goal(2.5, "2.5 times more", at_least=True)
P99_GOAL = Goal(1.0, "not worse")


def group_of(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def measure(bench: Bench) -> Table:
    table = Table("throughput", "Throughput, set and get in turn, 64 bytes")
    for processes in PROCESSES:
        many = processes > 1
        group = group_of(processes)
        calls = table.row(group, "calls", "/s", CALLS_GOAL if many else None)
        p99 = table.row(group, "p99", "µs", P99_GOAL if many else None)
        client_cpu = table.row(group, "client CPU", "µs/op")
        server_cpu = table.row(group, "server CPU", "µs/op")
        for server in bench.turns():
            driven = bench.drive(server, "mixed", processes)
            calls.add(server.kind, driven.calls_a_second)
            p99.add(server.kind, percentiles([run.latencies for run in driven.runs])["p99"])
            client_cpu.add(server.kind, driven.client_cpu / driven.calls * 1e6)
            server_cpu.add(server.kind, driven.server_cpu / driven.calls * 1e6)
    return table

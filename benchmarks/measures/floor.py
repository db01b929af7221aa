"""What the language allows: the barest broker and client in Python, beside Redis."""

from __future__ import annotations

from ..bench import Bench
from ..load import percentiles, publish, receive
from ..results import REDIS, UDSBUS, Table
from ..servers import Server, running_bare
from ..workers import Job, run_together
from .alone import GOALS, build_load_generator, load
from .pubsub import GAP_SECONDS
from .throughput import PROCESSES, group_of


def measure(bench: Bench) -> Table:
    table = Table("floor", "The barest broker and client in Python (bare.py)", own="bare Python")
    program = build_load_generator(bench, table)
    with running_bare(bench.directory) as bare:
        shorter = bench.scale._replace(seconds=bench.scale.seconds / 2)
        beside = bench._replace(servers=(bench.servers[0], bare), scale=shorter)
        for processes in PROCESSES[1:]:
            group = group_of(processes)
            calls = table.row(group, "calls", "/s")
            p99 = table.row(group, "p99", "µs")
            for server in beside.turns():
                driven = beside.drive(server, "mixed", processes)
                calls.add(_side(server), driven.calls_a_second)
                p99.add(_side(server), percentiles([run.latencies for run in driven.runs])["p99"])
        row = table.row(f"a message each {GAP_SECONDS * 1e3:g} ms", "p50", "µs")
        count = bench.scale.messages
        for server in beside.turns():
            jobs = [Job(receive, (server, count)), Job(publish, (server, count, GAP_SECONDS))]
            ages, _ = run_together(jobs)
            row.add(_side(server), percentiles([ages])["p50"])
        if program is None:
            return table
        for depth in GOALS:
            for operation in ("get", "set"):
                row = table.row(f"alone, depth {depth}", operation, "/s")
                for server in beside.turns():
                    figures = load(program, server, operation, depth, shorter.seconds)
                    row.add(_side(server), figures.replies_a_second)
    return table


def _side(server: Server) -> str:
    return REDIS if server.kind == REDIS else UDSBUS

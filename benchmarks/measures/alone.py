"""The servers without Python clients: `loadgen.c` asks both in the same way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ..bench import Bench
from ..machine import CpuMeter
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import Server

CONNECTIONS = 50
GOALS = {
    1: Goal(0.6, "0.6 of Redis", at_least=True),
    16: Goal(0.4, "0.4 of Redis", at_least=True),
}
SOURCE = Path(__file__).parent.parent / "loadgen.c"


def measure(bench: Bench) -> Table:
    table = Table("alone", f"The server alone, {CONNECTIONS} connections, load from C, 64 bytes")
    program = build_load_generator(bench, table)
    if program is None:
        return table
    busiest = 0.0
    for depth, goal in GOALS.items():
        for operation in ("get", "set"):
            replies = table.row(f"depth {depth}", operation, "/s", goal)
            cpu = table.row(f"depth {depth}", f"{operation}, server CPU", "µs/op")
            for server in bench.turns():
                figures = load(program, server, operation, depth, bench.scale.seconds)
                replies.add(server.kind, figures.replies_a_second)
                cpu.add(server.kind, figures.server_cpu * 1e6)
                busiest = max(busiest, figures.own_share)
    table.notes.append(f"the load generator itself used at most {busiest:.0%} of a core")
    return table


def build_load_generator(bench: Bench, table: Table) -> Path | None:
    """The program, made of `loadgen.c`; None, and a note in the table, where that cannot be."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        table.notes.append("without load from C: it needs Linux (epoll) and a compiler named cc")
        return None
    program = bench.directory / "loadgen"
    subprocess.run([compiler, "-std=c11", "-O2", "-o", program, SOURCE], check=True)
    return program


class Load(NamedTuple):
    replies_a_second: float
    server_cpu: float
    """Seconds for each reply."""
    own_share: float
    """Of a core, used by the load generator."""


def load(program: Path, server: Server, operation: str, depth: int, seconds: float) -> Load:
    """So many connections that ask for `seconds`, with `depth` requests on their way on each."""
    protocol = REDIS if server.kind == REDIS else UDSBUS
    meter = CpuMeter(server.pid)
    meter.start()
    shown = subprocess.run(
        [program, server.address, protocol, operation, str(CONNECTIONS), str(depth),
         str(seconds)],
        capture_output=True, text=True, timeout=60 + seconds, check=False,
    )  # fmt: skip
    server_cpu = meter.read()
    if shown.returncode != 0:
        raise RuntimeError(f"the load on {server.kind} failed: {shown.stderr}")
    replies, elapsed, own_cpu, all_replies = map(float, shown.stdout.split())
    return Load(replies / elapsed, server_cpu / all_replies, own_cpu / elapsed)

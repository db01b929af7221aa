"""What the servers use while 100 clients are connected and ask nothing."""

from __future__ import annotations

from time import sleep

from ..bench import Bench
from ..load import idle
from ..machine import CpuMeter
from ..results import Goal, Table
from ..workers import Job, run_together

CLIENTS = 100
GOAL = Goal(0.2, "below 0.2 %", of_ratio=False)


def measure(bench: Bench) -> Table:
    """Both at the same time: each is measured by its own CPU clock."""
    table = Table("idle", f"Idle, {CLIENTS} clients connected")
    settle, seconds = bench.scale.idle_settle, bench.scale.idle_seconds
    meters = {server.kind: CpuMeter(server.pid) for server in bench.servers}
    row = table.row("server", "CPU", "% of a core", GOAL)

    def observe() -> None:
        sleep(settle)
        for meter in meters.values():
            meter.start()
        sleep(seconds)
        for kind, meter in meters.items():
            row.add(kind, meter.read() / seconds * 100)

    held = settle + seconds + 1.0
    run_together([Job(idle, (server, CLIENTS, held)) for server in bench.servers], observe)
    return table

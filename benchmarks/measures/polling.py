"""How long should a client poll for its answer before it sleeps? Each finds out by itself
(`udsbus/spinning.py`): is that as good as whichever is better of always and never, from one process
to many more than there are cores?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import monotonic
from typing import Any

from udsbus.client import connection
from udsbus.spinning import Spinning

from ..bench import Bench
from ..load import Timed, drive, percentiles
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import Server
from ..workers import Job, run_together

PROCESSES = (1, 2, 4, 8, 16, 32)
CALLS_GOAL = Goal(0.9, "90 %", at_least=True)
P99_GOAL = Goal(1.1, "110 % at most")


class Always(Spinning):
    """Polls for all of its time before each sleep."""

    __slots__ = ()

    def spin(self, poll: Callable[[float], list[Any]]) -> list[Any]:
        until = monotonic() + self._seconds
        while monotonic() < until:
            ready = poll(0)
            if ready:
                return ready
        return []


class Never(Spinning):
    """Sleeps at once."""

    __slots__ = ()

    def spin(self, poll: Callable[[float], list[Any]]) -> list[Any]:
        return []


KINDS: dict[str, type[Spinning]] = {"always": Always, "never": Never, "adaptive": Spinning}


def measure(bench: Bench) -> Table:
    table = Table(
        "polling", "Clients that poll as it pays, set and get in turn, 64 bytes",
        reference="better of always, never",
    )  # fmt: skip
    _, bus = bench.servers
    for processes in PROCESSES:
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for number in range(bench.scale.rounds):
            order = list(KINDS) if number % 2 == 0 else list(reversed(KINDS))
            for kind in order:
                job = Job(drive_with, (kind, bus, bench.scale.seconds))
                runs = run_together([job] * processes)
                calls = sum(len(run.latencies) / run.seconds for run in runs)
                found[kind].append((calls, percentiles([run.latencies for run in runs])["p99"]))
        group = "1 process" if processes == 1 else f"{processes} processes"
        for index, (name, unit, goal, better) in enumerate(
            (("calls", "/s", CALLS_GOAL, max), ("p99", "µs", P99_GOAL, min))
        ):
            row = table.row(group, name, unit, goal)
            samples = {kind: [one[index] for one in found[kind]] for kind in KINDS}
            best = better(("always", "never"), key=lambda kind: median(samples[kind]))
            for side, kind in ((REDIS, best), (UDSBUS, "adaptive")):
                for figure in samples[kind]:
                    row.add(side, figure)
            table.notes.append(f"{group}, {name}: {best} polling is better")
    return table


def drive_with(ready: Callable[[], object], kind: str, server: Server, seconds: float) -> Timed:
    vars(connection)["Spinning"] = KINDS[kind]
    return drive(ready, server, "mixed", seconds)

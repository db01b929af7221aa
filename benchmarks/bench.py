"""What every measure is given: the two servers, how long to measure, and where to put files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .load import Timed, drive
from .machine import CpuMeter
from .results import Table
from .servers import Server
from .workers import Job, run_together


class Scale(NamedTuple):
    """How much is measured."""

    rounds: int
    """How often each side has its turn."""
    rival_rounds: int
    """The same beside each rival; there are many."""
    seconds: float
    """Length of one timed run."""
    messages: int
    """Messages of one run of publish and receive."""
    idle_settle: float
    idle_seconds: float
    starts: int
    """How often each program is started."""
    changes: int
    """Changes that a stopped reader is not told of."""
    keys: int
    """Keys that fill a server."""
    connections: int

    def sizes(self, *smaller: int) -> list[int]:
        """Numbers of keys that grow up to `keys`."""
        return [size for size in smaller if size < self.keys] + [self.keys]

    @property
    def quick(self) -> bool:
        """A smoke test."""
        return self.seconds < 1


FULL = Scale(5, 5, 1.5, 500, 2.0, 6.0, 21, 1_000_000, 1_000_000, 10_000)
QUICK = Scale(2, 1, 0.2, 50, 0.5, 1.0, 3, 50_000, 20_000, 1_000)


class Driven(NamedTuple):
    """One run of several processes against one server."""

    runs: list[Timed]
    server_cpu: float

    @property
    def calls(self) -> int:
        return sum(len(run.latencies) for run in self.runs)

    @property
    def calls_a_second(self) -> float:
        return sum(len(run.latencies) / run.seconds for run in self.runs)

    @property
    def client_cpu(self) -> float:
        return sum(run.cpu_seconds for run in self.runs)


class Bench(NamedTuple):
    servers: tuple[Server, Server]
    """Redis and udsbus."""
    scale: Scale
    directory: Path

    def turns(self) -> Iterator[Server]:
        """The server whose turn it is: both in each round, the first of one round last in the
        next, so that whatever else the machine does meets both alike."""
        for number in range(self.scale.rounds):
            yield from self.servers if number % 2 == 0 else reversed(self.servers)

    def drive(self, server: Server, operation: str, processes: int = 1) -> Driven:
        """`load.drive` in so many processes, which are all ready before the clock starts."""
        meter = CpuMeter(server.pid)
        job = Job(drive, (server, operation, self.scale.seconds))
        runs = run_together([job] * processes, meanwhile=meter.start)
        return Driven(runs, meter.read())


Measure = Callable[[Bench], Table]

"""What a journal costs: udsbus with one beside udsbus without, and beside Redis with its own."""

from __future__ import annotations

from ..bench import Bench
from ..load import BATCH, percentiles
from ..results import REDIS, UDSBUS, Goal, Table
from ..servers import Server, running_redis, running_udsbus

COST = {"p50": Goal(1.15, "15 % more at most")}
BESIDE_REDIS = {"p50": Goal(1 / 6, "6 times lower")}
BATCHES = Goal(2.5, "2.5 times more", at_least=True)


def measure(bench: Bench) -> Table:
    """udsbus with `durability=process` beside udsbus with none."""
    table = Table("durability", "`durability=process`, one process, 64 bytes", reference="none")
    with running_udsbus(bench.directory, "process") as durable:
        beside = bench._replace(servers=(bench.servers[1], durable))
        _compare(beside, table, COST, None)
    return table


def measure_beside_redis(bench: Bench) -> Table:
    """udsbus beside Redis, each with a journal that is put on the disk each second."""
    table = Table(
        "journal", "A journal synced each second, one process, 64 bytes",
        reference="Redis, appendonly",
    )  # fmt: skip
    with (
        running_redis(bench.directory, "process") as redis,
        running_udsbus(bench.directory, "process") as durable,
    ):
        _compare(bench._replace(servers=(redis, durable)), table, BESIDE_REDIS, BATCHES)
    return table


def _compare(bench: Bench, table: Table, latency: dict[str, Goal], batches: Goal | None) -> None:
    def side(server: Server) -> str:
        return UDSBUS if server is bench.servers[1] else REDIS

    for server in bench.turns():
        driven = bench.drive(server, "set")
        for name, microseconds in percentiles([run.latencies for run in driven.runs]).items():
            table.row("set", name, "µs", latency.get(name)).add(side(server), microseconds)
        cpu = driven.server_cpu / driven.calls * 1e6
        table.row("set", "server CPU", "µs/op").add(side(server), cpu)
        driven = bench.drive(server, "pipeline")
        a_second = driven.calls_a_second * len(BATCH)
        table.row("pipeline of 1,000 set", "writes", "/s", batches).add(side(server), a_second)

"""Measures that go over sizes have a row of each, and their goal at the largest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench import QUICK, Bench
from benchmarks.measures import connections, keys, recovery
from benchmarks.results import REDIS, UDSBUS, Table
from benchmarks.servers import running_redis, running_udsbus

SHORTEST = QUICK._replace(rounds=1, seconds=0.05, keys=2_000, connections=1_000)


@pytest.fixture
def bench(runtime: Path) -> Iterator[Bench]:
    with running_redis(runtime) as redis, running_udsbus(runtime) as bus:
        yield Bench((redis, bus), SHORTEST, runtime)


def groups(table: Table) -> list[str]:
    assert all(row.samples.keys() == {REDIS, UDSBUS} for row in table.rows)
    return list(dict.fromkeys(row.group for row in table.rows))


def goals(table: Table) -> list[str]:
    return [row.group for row in table.rows if row.goal]


def test_sizes_end_with_the_scale_s_own() -> None:
    assert SHORTEST.sizes(1_000, 10_000) == [1_000, 2_000]


def test_connections(bench: Bench) -> None:
    table = connections.measure(bench)
    many = "1,000 connections, against 100"
    counts = ["1 connection", "10 connections", "100 connections", "1,000 connections"]
    assert groups(table) == [*counts, many]
    assert goals(table) == [many]


def test_keys(bench: Bench) -> None:
    table = keys.measure(bench)
    assert groups(table) == ["no key", "1,000 keys", "2,000 keys"]
    assert goals(table) == ["2,000 keys"]
    for row in table.rows:
        assert row.udsbus > 0, row.name


def test_restart(bench: Bench) -> None:
    table = recovery.measure_restart(bench)
    assert groups(table) == ["1,000 keys", "2,000 keys"]
    assert goals(table) == ["2,000 keys"]

"""The ways to call that the benchmarks compare: each is started, asked and ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.bench import QUICK, Bench
from benchmarks.measures import calls
from benchmarks.results import REDIS, UDSBUS
from benchmarks.rivals.calling import (
    CONNECTION,
    OURS,
    OURS_ASYNC,
    OURS_COROUTINE,
    WAYS,
    Place,
    Way,
)
from benchmarks.servers import running_redis, running_udsbus

SHORTEST = QUICK._replace(rounds=1, seconds=0.05)


@pytest.fixture
def bench(runtime: Path) -> Iterator[Bench]:
    with running_redis(runtime) as redis, running_udsbus(runtime) as bus:
        yield Bench((redis, bus), SHORTEST, runtime)


@pytest.mark.parametrize("way", [*WAYS, OURS, OURS_ASYNC, OURS_COROUTINE], ids=lambda way: way.name)
def test_each_answers_and_leaves_no_process(way: Way, bench: Bench) -> None:
    if way.is_missing:
        if os.environ.get("CI") == "true":
            pytest.fail(way.get_it)
        pytest.skip(way.get_it)
    redis, bus = bench.servers
    before = psutil.Process().children(recursive=True)
    with way.running(Place(bench.directory, redis.address, bus.address)) as target:
        for _ in range(2):
            assert calls.drive(lambda: None, way, target, 0.02).latencies
    assert [one for one in psutil.Process().children(recursive=True) if one not in before] == []


def test_the_measure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = CONNECTION._replace(name="nobody", program="no-such-program", get_it="nowhere")
    monkeypatch.setattr(calls, "WAYS", (CONNECTION, absent))
    monkeypatch.setenv("UDSBUS_SERVED_CALLS", "800")
    monkeypatch.delenv("CI", raising=False)
    table = calls.measure(bench)
    assert table.notes == ["nobody is not here: nowhere"]
    killed = f"{calls.WORKERS} workers killed at random"
    for row in table.rows:
        assert row.samples.keys() == ({UDSBUS} if row.group == killed else {REDIS, UDSBUS})
    for name, figure in (("calls", 800), ("lost", 0), ("doubled, or another's answer", 0)):
        assert table.find(killed, name).udsbus == figure
    assert [row.group for row in table.rows if row.goal] == [
        "against multiprocessing.connection",
        f"{calls.TOGETHER}, against Redis",
        killed,
        killed,
    ]

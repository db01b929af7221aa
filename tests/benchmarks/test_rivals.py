"""The rivals of the benchmarks: each is started, asked and ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.bench import QUICK, Bench
from benchmarks.load import VALUE
from benchmarks.measures import rivals as measure_rivals
from benchmarks.measures.rivals import FROM_MEMORY
from benchmarks.results import REDIS, UDSBUS
from benchmarks.rivals import RIVALS, Rival
from benchmarks.rivals.files import SLOT, SLOTS, MappedDict, made_file
from benchmarks.servers import running_redis, running_udsbus


def present(rival: Rival) -> Rival:
    if rival.is_missing:
        if os.environ.get("CI") == "true":
            pytest.fail(rival.get_it)
        pytest.skip(rival.get_it)
    return rival


def set_and_get(rival: Rival, target: Any) -> Any:
    library = rival.library
    if not library.is_async:
        with library.connect(target) as store:
            store.set(store.key("bench/1"), VALUE)
            return store.value(store.get(store.key("bench/1")))

    async def work() -> Any:
        async with library.connect(target) as store:
            await store.set(store.key("bench/1"), VALUE)
            return store.value(await store.get(store.key("bench/1")))

    return asyncio.run(work())


SERVED = [one for one in RIVALS if one.running]
OF_REDIS = [one for one in RIVALS if not one.running]


@pytest.mark.parametrize("rival", SERVED, ids=lambda one: one.name)
def test_a_rival_keeps_a_value_and_leaves_no_process(rival: Rival, runtime: Path) -> None:
    present(rival)
    assert rival.running is not None
    before = psutil.Process().children(recursive=True)
    with rival.running(runtime) as target:
        assert set_and_get(rival, target) == VALUE
        assert set_and_get(rival, target) == VALUE, "a second client, of what is there"
    assert [one for one in psutil.Process().children(recursive=True) if one not in before] == []


@pytest.mark.parametrize(
    "rival", [one for one in RIVALS if not one.running], ids=lambda one: one.name
)
def test_a_client_of_redis_keeps_a_value(rival: Rival, runtime: Path) -> None:
    with running_redis(runtime) as redis:
        assert set_and_get(present(rival), redis.address) == VALUE


def test_the_measure_has_rows_for_both_sides(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortest = QUICK._replace(rival_rounds=2, seconds=0.02)
    files = tuple(rival for rival in RIVALS if rival.answers_alone)[:1]
    absent = Rival("nobody", files[0].library, program="no-such-program", get_it="nowhere")
    monkeypatch.setattr(measure_rivals, "RIVALS", (*files, absent))
    monkeypatch.delenv("CI", raising=False)
    with running_redis(runtime) as redis, running_udsbus(runtime) as bus:
        bench = Bench((redis, bus), shortest, runtime)
        table = measure_rivals.measure(bench)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(RuntimeError, match="nobody is not here: nowhere"):
            measure_rivals.measure(bench)
    name = files[0].name
    assert {row.group for row in table.rows} == {name, f"{name}; {FROM_MEMORY}"}
    assert all(len(row.samples[side]) == 2 for row in table.rows for side in (REDIS, UDSBUS))
    assert "nobody is not here: nowhere" in table.notes


def count_up(path: str, times: int, key: str) -> None:
    mapped = MappedDict(path)
    for number in range(1, times + 1):
        mapped.set(key, number.to_bytes(8))
    mapped.close()


def test_processes_share_a_mapped_dict(tmp_path: Path) -> None:
    with made_file(tmp_path) as path:
        processes = [
            multiprocessing.get_context("spawn").Process(target=count_up, args=(path, 300, key))
            for key in ("one", "two")
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        mapped = MappedDict(path)
        assert [mapped.get(key) for key in ("one", "two")] == [(300).to_bytes(8)] * 2
        assert mapped.get("three") is None
        mapped.close()


def test_a_mapped_dict_says_when_something_does_not_fit(tmp_path: Path) -> None:
    with made_file(tmp_path) as path:
        mapped = MappedDict(path)
        with pytest.raises(ValueError, match="room"):
            mapped.set("key", bytes(65))
        for place in range(SLOTS):
            SLOT.pack_into(mapped._map, place * SLOT.size, str(place).encode(), 1, b"v")
        with pytest.raises(KeyError):
            mapped.set("one more", b"")
        mapped.close()

"""udsbus beside everything else that processes share keys by, each in turn with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..bench import Bench
from ..load import KEYS, VALUE, Timed, percentiles, time_each, time_each_async
from ..results import REDIS, UDSBUS, Table
from ..rivals import OURS, OURS_ASYNC, OURS_FROM_MEMORY, RIVALS, Library, Rival
from ..rivals.store import Store
from ..workers import Job, run_together

PROCESSES = 4
TOGETHER = f"{PROCESSES} processes, set and get"
FROM_MEMORY = "udsbus from memory"
MEMORY_FILES = Path("/dev/shm")
ENOUGH_BYTES = 1 << 30


def measure(bench: Bench) -> Table:
    table = Table("rivals", "One key of 64 bytes, set and got", reference="the other")
    table.notes.append(
        "without persistence: etcd `--unsafe-no-fsync`, NATS with memory storage, SQLite with WAL "
        "and `synchronous=OFF`, udsbus and Redis without a journal; their files in a tmpfs, where "
        "there is one"
    )
    table.notes.append(
        "udsbus asks for each read (`cache=False`), but in the groups that say from memory"
    )
    for number, rival in enumerate(RIVALS):
        if rival.is_missing:
            missing = f"{rival.name} is not here: {rival.get_it}"
            if os.environ.get("CI") == "true":
                raise RuntimeError(missing)
            table.notes.append(missing)
            continue
        with tempfile.TemporaryDirectory(prefix=f"udsbus-{number}-", dir=_place(bench)) as place:
            _compare(bench, table, rival, Path(place))
    return table


def _place(bench: Bench) -> Path:
    """A tmpfs with room for what etcd sets aside, so that no disk is behind anybody's file."""
    there = MEMORY_FILES.is_dir() and os.access(MEMORY_FILES, os.W_OK)
    roomy = there and shutil.disk_usage(MEMORY_FILES).free > ENOUGH_BYTES
    return MEMORY_FILES if roomy else bench.directory


def _compare(bench: Bench, table: Table, rival: Rival, place: Path) -> None:
    redis, bus = bench.servers
    ours = {rival.name: OURS_ASYNC if rival.library.is_async else OURS}
    if rival.answers_alone:
        ours[f"{rival.name}; {FROM_MEMORY}"] = OURS_FROM_MEMORY
    with rival.running(place) if rival.running else nullcontext(redis.address) as target:
        for number in range(bench.scale.rival_rounds):
            for group, own in ours.items():
                sides = [(REDIS, rival.library, target), (UDSBUS, own, bus.address)]
                for side, *whom in sides if number % 2 == 0 else reversed(sides):
                    _add(table, group, side, (*whom, bench.scale.seconds / 4))


def _add(table: Table, group: str, side: str, arguments: tuple[Any, ...]) -> None:
    (alone,) = run_together([Job(drive, (("set", "get"), *arguments))])
    for operation, run in alone.items():
        found = percentiles([run.latencies])
        for name in ("p50", "p99"):
            table.row(group, f"{operation}, {name}", "µs").add(side, found[name])
    together = run_together([Job(drive, (("mixed",), *arguments))] * PROCESSES)
    a_second = sum(len(run["mixed"].latencies) / run["mixed"].seconds for run in together)
    table.row(group, TOGETHER, "/s").add(side, a_second)


# --- in processes of their own --------------------------------------------------------------------


def drive(
    ready: Callable[[], object],
    operations: tuple[str, ...],
    library: Library,
    target: Any,
    seconds: float,
) -> dict[str, Timed]:
    """Each operation for so long, one call after the other."""
    if library.is_async:
        return asyncio.run(_drive_async(ready, operations, library, target, seconds))
    with library.connect(target) as store:
        calls = calls_of(store)
        for call in calls["mixed"]:
            call()
        assert store.value(calls["get"][0]()) == VALUE
        ready()
        return {operation: time_each(calls[operation], seconds) for operation in operations}


async def _drive_async(
    ready: Callable[[], object],
    operations: tuple[str, ...],
    library: Library,
    target: Any,
    seconds: float,
) -> dict[str, Timed]:
    async with library.connect(target) as store:
        calls = calls_of(store)
        for call in calls["mixed"]:
            await call()
        assert store.value(await calls["get"][0]()) == VALUE
        ready()
        return {op: await time_each_async(calls[op], seconds) for op in operations}


def calls_of(store: Store) -> dict[str, list[Callable[[], Any]]]:
    keys = [store.key(key) for key in KEYS[:100]]
    sets = [partial(store.set, key, VALUE) for key in keys]
    gets = [partial(store.get, key) for key in keys]
    mixed = [call for pair in zip(sets, gets, strict=True) for call in pair]
    return {"set": list(sets), "get": list(gets), "mixed": list(mixed)}

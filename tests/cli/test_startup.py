"""What a single request costs as a whole process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import udsbus

from .support import COMMAND, Command

HEAVY = {
    "anyio", "asyncio", "rich", "trio", "logging", "subprocess",
    "udsbus.broker", "udsbus.engine", "udsbus.client.sync", "udsbus.client.events",
    "udsbus.client.spawning", "udsbus.wire.methods", "udsbus.messages", "hashlib",
}  # fmt: skip


def imported(command: Command, *args: str) -> set[str]:
    code, _, err = command(*args, PYTHONPROFILEIMPORTTIME="1")
    assert code == 0
    return {line.rpartition("|")[2].strip() for line in err.splitlines() if "|" in line}


@pytest.mark.parametrize(
    "args", [["get", "key"], ["set", "key", "1"], ["keys", "--values"], ["info"], ["ping"]]
)
def test_nothing_is_imported_that_is_not_needed(
    command: Command, client: udsbus.Client, args: list[str]
) -> None:
    client.set("key", 1)
    assert imported(command, *args) & HEAVY == set()


def test_a_watch_needs_no_rich_and_no_broker(command: Command, client: udsbus.Client) -> None:
    client.set("key", 1)
    modules = imported(command, "watch", "key", "--initial", "--count", "1")
    assert modules & {"rich", "anyio", "asyncio", "udsbus.broker", "udsbus.engine"} == set()


def test_get_takes_at_most_twice_its_bare_imports(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    """Processor time, the least of several runs, so that other processes do not count. All but the
    first find bytecode, as an installed udsbus does, whatever this environment says of it."""
    client.set("key", 1)
    bare = [sys.executable, "-c", "import msgpack, click"]
    environ = command.environ | {
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # without the hooks of the tests
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path),
    }
    times = {"bare": 1e9, "get": 1e9}
    for _ in range(12):
        for name, args in (("bare", bare), ("get", [*COMMAND, "get", "key"])):
            times[name] = min(times[name], _processor_seconds(args, environ))
    assert times["get"] <= 2 * times["bare"], times


def _processor_seconds(args: list[str], environ: dict[str, str]) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run(args, stdout=subprocess.DEVNULL, env=environ, check=True)
    return used() - before

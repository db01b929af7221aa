"""How long a program takes that does nothing but import udsbus, or get one key with the CLI."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter

import udsbus

from ..bench import Bench
from ..load import KEYS
from ..results import REDIS, UDSBUS, Goal, Table

BASELINE = "import msgpack, click"
PROGRAMS = {
    "import udsbus": (["-c", "import udsbus"], Goal(1.5, "1.5 times at most")),
    "udsbus get": (["-m", "udsbus", "get", KEYS[0]], Goal(2.0, "twice at most")),
}


def measure(bench: Bench) -> Table:
    table = Table("startup", "From starting a process to its end", reference=BASELINE)
    address = bench.servers[1].address
    environment = {**os.environ, "UDSBUS_SOCKET": address}
    with udsbus.connect(address) as client:
        client.set(KEYS[0], "something to find")
    for number in range(bench.scale.starts + 1):
        for name, (arguments, goal) in PROGRAMS.items():
            reference = _seconds(["-c", BASELINE], environment)
            ours = _seconds(arguments, environment)
            if number:  # the first start reads files that are not in memory yet
                row = table.row("whole process", name, "ms", goal)
                row.add(REDIS, reference * 1e3)
                row.add(UDSBUS, ours * 1e3)
    return table


def _seconds(arguments: list[str], environment: dict[str, str]) -> float:
    start = perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    return perf_counter() - start

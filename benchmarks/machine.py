"""What a run ran on, and the CPU time of processes."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

import udsbus
from udsbus.broker.server import COMPILED

from .rivals.servers import program
from .servers import redis_program, redis_version

PACKAGES = (
    *("redis", "hiredis", "coredis", "gunicorn", "pymemcache", "nats-py", "aetcd", "grpcio"),
    *("msgpack", "anyio", "click"),
)
RIVALS = ("memcached", "nats-server", "etcd")


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads.

    On Linux from the process's own clock (clock_getcpuclockid(3)), in nanoseconds; elsewhere from
    psutil, often in hundredths of a second.
    """
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class CpuMeter:
    """CPU time of one process between two moments."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begin = 0.0

    def start(self) -> None:
        self._begin = cpu_seconds(self._pid)

    def read(self) -> float:
        """Seconds of CPU since `start`."""
        return cpu_seconds(self._pid) - self._begin


def described() -> dict[str, str]:
    """The machine and every version that matters, as they are at the start of a run."""
    facts = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, {_virtual()}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "udsbus": udsbus.__version__ + (", compiled" if COMPILED else ", not compiled"),
        "redis-server": ".".join(map(str, redis_version(redis_program()))),
    }
    facts |= {name: found for name in RIVALS if (found := _version(name))}
    facts["SQLite"] = sqlite3.sqlite_version
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[f"{package} (Python)"] = version(package)
    return facts


def _version(name: str) -> str:
    """What a program says of itself; nothing where there is none."""
    command = program(name)
    if command is None:
        return ""
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(?:\.\d+)+", shown.stdout)
    return found[0] if found else ""


def _processor() -> str:
    return next(_cpu_info("model name"), platform.processor() or platform.machine())


def _virtual() -> str:
    flags = next(_cpu_info("flags"), "").split()
    return "virtual machine" if "hypervisor" in flags else "no hypervisor seen"


def _cpu_info(field: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                yield value.strip()

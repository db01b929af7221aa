"""What does not load as it should, as ODD says: see test_odd_pools.py."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import udsbus

app = udsbus.Services()
HOW, _, WHERE = os.environ["ODD"].partition(" ")
KEPT: list[bytes] = []


@app.service("odd")
class Odd:
    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float, begun: str) -> int:
        Path(begun).touch()
        time.sleep(seconds)
        return os.getpid()

    def grow_later(self) -> int:
        threading.Timer(0.3, lambda: KEPT.append(b"x" * 200_000_000)).start()
        return os.getpid()

    def spawn(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    def print_much(self) -> int:
        for _ in range(40):
            print("x" * 1000)
        return os.getpid()


class NeedsArguments:
    def __init__(self, what: object) -> None:
        self.what = what

    def call(self) -> None:
        pass


class Nothing:
    pass


if HOW == "exit":
    sys.exit("no database is configured")
elif HOW == "first":
    with contextlib.suppress(FileExistsError):
        os.close(os.open(WHERE, os.O_CREAT | os.O_EXCL))
        raise ConnectionRefusedError("the database is not there yet")
elif HOW == "atexit":
    atexit.register(Path(WHERE).touch)
elif HOW == "slow":
    time.sleep(60)

"""What cannot begin, or takes long to, while there is a file that says so: see test_pools.py."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import udsbus

app = udsbus.Services()


@app.service("flaps")
class Flaps:
    def __init__(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            how = Path(os.environ["FLAPPING_MARKER"]).read_text()
            if how == "never ready":
                time.sleep(60)
            os._exit(9)

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

"""A module that ends its process after it was imported once: see test_pools.py."""

from __future__ import annotations

import os

import udsbus

app = udsbus.Services()


@app.service("flaps")
class Flaps:
    def __init__(self) -> None:
        if os.path.exists(os.environ["FLAPPING_MARKER"]):
            os._exit(9)

    def pid(self) -> int:
        return os.getpid()

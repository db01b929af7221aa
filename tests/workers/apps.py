"""What the pools of the tests serve."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator

import udsbus

app = udsbus.Services()
nothing = udsbus.Services()
number = 7


@app.service("work", retry=5)
class Work:
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: object) -> object:
        return value

    def end(self, code: int) -> None:
        os._exit(code)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def say(self, text: str) -> None:
        print(text)
        print(text.upper(), file=sys.stderr)

    def sleep(self, seconds: float, begun: str = "") -> int:
        if begun:
            os.close(os.open(begun, os.O_CREAT))
        time.sleep(seconds)
        return os.getpid()

    def keep(self, size: int) -> int:
        self.kept.append(b"x" * size)
        return os.getpid()

    def print_for_ever(self) -> None:
        while True:
            os.write(1, b"y\n" * 2000)

    def items(self, seconds: float) -> Iterator[int]:
        until = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until:
            yield number
            number += 1
            time.sleep(0.05)


async def items(seconds: float) -> AsyncIterator[int]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield 1
        await asyncio.sleep(0.05)


@app.service("once")
class Once:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def double(value: int) -> int:
    """As it was written before anybody thought of a pool."""
    return 2 * value


async def later(value: int) -> int:
    return value

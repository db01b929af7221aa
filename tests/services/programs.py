"""Programs that serve, for the tests: `python -m tests.services.programs NAME ADDRESS …`.

Each prints a line when it can be called and told to end, and serves until it is told.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import udsbus


class Work:
    """What the tests call."""

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: object) -> object:
        return value

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, marker: str) -> int:
        """Die unless the file is there already."""
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return os.getpid()
        self.die()
        raise AssertionError

    def die_after(self, items: int) -> Iterator[int]:
        yield from range(items)
        self.die()

    def sleep(self, seconds: float, begun: str = "") -> int:
        if begun:
            os.close(os.open(begun, os.O_CREAT))
        time.sleep(seconds)
        return os.getpid()


def say_when_told() -> None:
    """Print the line when SIGTERM is waited for, which is not yet so."""

    def say() -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            time.sleep(0.001)
        print("serving", flush=True)

    threading.Thread(target=say).start()


def work(address: str, retry: str = "0", concurrency: str = "1") -> None:
    with udsbus.connect(address, name="worker") as client:
        client.service("work", Work(), retry=int(retry), concurrency=int(concurrency))
        say_when_told()
        client.serve(grace=20)
    print("ended", flush=True)


async def _work_async(address: str, retry: str = "0") -> None:
    class AsyncWork:
        async def pid(self) -> int:
            return os.getpid()

        async def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    async with udsbus.connect_async(address) as client:
        served = client.service("work", AsyncWork(), retry=int(retry))
        await served.offered()
        say_when_told()
        await client.serve(grace=20)
    print("ended", flush=True)


def work_async(address: str, retry: str = "0") -> None:
    import anyio

    anyio.run(_work_async, address, retry)


def work_asyncio(address: str) -> None:
    """In an event loop that anyio has not started."""
    import asyncio

    asyncio.run(_work_async(address))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

"""Programs that serve, for the tests: `python -m tests.services.programs NAME ADDRESS …`.

Each prints a line when it can be called and told to end, and serves until it is told.
"""

from __future__ import annotations

import os
import resource
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

    def large(self, size: int, begun: str) -> bytes:
        os.close(os.open(begun, os.O_CREAT))
        time.sleep(0.2)
        return b"x" * size

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


class Forks:
    """Its child lives on."""

    def die(self) -> None:
        _leave_child()
        os.kill(os.getpid(), signal.SIGKILL)


class AsyncForks:
    async def die(self) -> None:
        Forks().die()


def _leave_child() -> None:
    reading, writing = os.pipe()
    if not os.fork():
        os.close(1)  # which the tests read to its end
        os.write(writing, b".")
        time.sleep(20)
        os._exit(0)
    os.read(reading, 1)


def forks(address: str, is_async: str) -> None:
    with udsbus.connect(address) as client:
        client.service("forks", AsyncForks() if is_async == "True" else Forks())
        say_when_told()
        client.serve()


class Calc:
    """What the tests of the command call."""

    def add(self, a: int, b: int = 1, *, double: bool = False) -> int:
        """Add them."""
        return 2 * (a + b) if double else a + b

    def back(self, *args: object, **kwargs: object) -> object:
        return [list(args), kwargs]

    def count(self, up_to: int, go_on: str = "") -> Iterator[int]:
        """One after the other; each waits for a file that is named like the one before it."""
        for number in range(up_to):
            yield number
            while go_on and not os.path.exists(f"{go_on}{number}"):
                time.sleep(0.005)

    def pieces(self) -> Iterator[object]:
        yield "text"
        yield b"\xff\x00"

    def some(self) -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    def fail(self, message: str) -> None:
        raise ValueError(message)

    def nobody(self) -> None:
        raise udsbus.ServiceUnavailable("a service of its own is away", service="other")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def calc(address: str) -> None:
    with udsbus.connect(address, name="\x1b[31mred") as client:
        client.service("calc", Calc())
        client.service("texts/shout", str.upper)
        client.service("odd\x1b[31m", str.lower)
        say_when_told()
        client.serve()


def call_without_files(address: str) -> None:
    """Call in vain: no more files can be opened. Prints how that ended each time."""
    with udsbus.connect(address, timeout=2) as client:
        client.get("key")
        client._calls._find("work/pid")
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
        for _ in range(5):
            try:
                client.call("work/pid")
            except udsbus.Error as error:
                print(type(error).__name__, flush=True)


def stuck(address: str) -> None:
    """An async worker whose plain generator hangs."""
    import anyio

    async def serve() -> None:
        class Stuck:
            def items(self) -> Iterator[int]:
                yield 1
                time.sleep(60)

        async with udsbus.connect_async(address) as client:
            await client.service("stuck", Stuck()).offered()
            say_when_told()
            await client.serve(grace=0.2)

    anyio.run(serve)


async def _work_async(address: str, retry: str = "0") -> None:
    import anyio

    class AsyncWork:
        async def pid(self) -> int:
            return os.getpid()

        def echo(self, value: object) -> object:
            return value

        async def large(self, size: int, begun: str) -> bytes:
            os.close(os.open(begun, os.O_CREAT))
            await anyio.sleep(0.2)
            return b"x" * size

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

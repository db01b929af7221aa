"""What the tests of the contract share."""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from tests.client.support import PATIENCE
from udsbus import AsyncClient, AsyncWatch, Change

T = TypeVar("T")
Got = TypeVar("Got", covariant=True)


class Task(Generic[T]):
    """A function in a task of its own, with its result."""

    def __init__(self, tasks: anyio.abc.TaskGroup, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._outcome: list[T] = []
        self._error: Exception | None = None
        self._over = anyio.Event()
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            self._outcome.append(await self._function())
        except Exception as error:
            self._error = error
        finally:
            self._over.set()

    @property
    def done(self) -> bool:
        return self._over.is_set()

    async def result(self) -> T:
        with anyio.fail_after(PATIENCE):
            await self._over.wait()
        if self._error is not None:
            raise self._error
        return self._outcome[0]


class Told(Generic[T]):
    """What a callback is called with, in whichever thread."""

    def __init__(self) -> None:
        self._told = queue.SimpleQueue[T]()

    def __call__(self, what: T) -> None:
        self._told.put(what)

    async def next(self) -> T:
        def get() -> T:
            return self._told.get(timeout=PATIENCE)

        return await anyio.to_thread.run_sync(get, abandon_on_cancel=True)


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """For what tells nobody when it happens: ask until it has."""
    try:
        with anyio.fail_after(PATIENCE):
            while not await condition():
                await anyio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain for: {what}") from None


class Source(Protocol[Got]):
    async def get(self, timeout: float | None = None) -> Got | None: ...


async def take(source: Source[T], number: int) -> list[T]:
    """The next `number` of a watch or a subscription."""
    found: list[T] = []
    while len(found) < number:
        item = await source.get(timeout=PATIENCE)
        assert item is not None, f"{number - len(found)} are missing after {found[-3:]}"
        found.append(item)
    return found


async def told(watch: AsyncWatch[Any], number: int) -> list[tuple[str, str, Any]]:
    """(kind, key, value) of the next `number` changes."""
    found: list[tuple[str, str, Any]] = []
    while len(found) < number:
        each = await watch.get(timeout=PATIENCE)
        assert each is not None, f"{number - len(found)} are missing after {found[-3:]}"
        if isinstance(each, Change):
            found.append((each.kind, each.key, each.value))
    return found


async def waiters(client: AsyncClient, lock: str) -> int:
    return sum([len(each.waiting) for each in await client.locks(lock)])


async def until_waiting(client: AsyncClient, lock: str, number: int = 1) -> None:
    async def enough() -> bool:
        return await waiters(client, lock) == number

    await until(enough, f"{number} to wait for {lock}")


async def until_kept_waiting(client: AsyncClient, number: int = 1) -> None:
    """Whatever they wait for."""

    async def enough() -> bool:
        found: int = (await client.info())["waiting"]
        return found == number

    await until(enough, f"{number} to wait")

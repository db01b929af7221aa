from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc
import pytest

import udsbus
from tests.client.support import PATIENCE
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import AsyncClient

from . import adapter

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "trio": ("trio", {}),
    "sync": ("asyncio", {"use_uvloop": False}),
}
if importlib.util.find_spec("uvloop") is not None:
    BACKENDS["uvloop"] = ("asyncio", {"use_uvloop": True})

_names = (f"name-{number}" for number in itertools.count())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs is ended by its event loop. The signal of pytest-timeout only takes that
    away from it, so that its fixtures hang too."""
    for item in items:
        here = item.path.parent == Path(__file__).parent
        if here and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = bounded(item.obj)


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def within_patience(**fixtures: Any) -> None:
        with anyio.fail_after(PATIENCE):
            await test(**fixtures)

    return within_patience


class Connect(Protocol):
    """`udsbus.connect_async`, by default to the bus of the tests."""

    def __call__(
        self, address: str | None = None, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[AsyncClient]: ...


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each test runs with each kind of client."""
    found: str = request.param
    return found


@pytest.fixture
def anyio_backend(kind: str) -> tuple[str, dict[str, Any]]:
    return BACKENDS[kind]


@pytest.fixture(scope="session")
def bus() -> Iterator[BrokerProcess]:
    """One broker for all tests; `connect` leaves it without keys and clients."""
    directory = Path(tempfile.mkdtemp(prefix="udsbus-"))
    with running_broker(directory / "bus.sock") as broker:
        yield broker
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def threads() -> Iterator[adapter.Threads]:
    """Those of sync clients."""
    threads = adapter.Threads()
    yield threads
    threads.join()


def connecting(kind: str, threads: adapter.Threads, bus: BrokerProcess) -> Connect:
    def connect(
        address: str | None = None, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[AsyncClient]:
        address = bus.address if address is None else address
        options = {"timeout": PATIENCE} | options
        if kind == "sync":
            return adapter.connect(threads, address, **options)
        return udsbus.connect_async(address, **options)

    return connect


@pytest.fixture
def connect(kind: str, threads: adapter.Threads, bus: BrokerProcess) -> Iterator[Connect]:
    """Makes a client."""
    yield connecting(kind, threads, bus)
    with udsbus.connect(bus.address, timeout=PATIENCE) as cleaner:
        for pattern in cleaner.schemas():
            cleaner.set_schema(pattern, None)
        for topic in cleaner.retained():
            cleaner.unretain(topic)
        with cleaner.pipeline() as pipeline:
            for key in cleaner.keys():
                pipeline.delete(key)
        wait_until(lambda: len(cleaner.clients()) == 1, "the clients that the test has left to go")
        assert [lock.name for lock in cleaner.locks() if lock.holders] == []


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[AsyncClient]:
    """A client of a bus that has no key yet, and no other client but those of the test."""
    async with connect() as client:
        yield client


@pytest.fixture
async def other(connect: Connect) -> AsyncIterator[AsyncClient]:
    """Another client of the same bus."""
    async with connect() as other:
        yield other


@pytest.fixture
async def stranger(
    connect: Connect, kind: str, threads: adapter.Threads, bus: BrokerProcess
) -> AsyncIterator[AsyncClient]:
    """A sync client where `client` is async, and an async one where that is sync."""
    other_kind = "async" if kind == "sync" else "sync"
    async with connecting(other_kind, threads, bus)() as stranger:
        yield stranger


@pytest.fixture
async def tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """For what a test does at once; it ends with the test."""
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


@pytest.fixture
def name() -> str:
    """A name for a queue or a lock that no other test has used."""
    return next(_names)

"""What services bear: functions that end in odd ways, calls that are given up, places that are
lost, those who take their time."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest

import udsbus
from udsbus import (
    AsyncClient,
    AsyncStream,
    BrokerUnavailable,
    InvalidRequest,
    RemoteError,
    RequestTimeout,
    ServiceUnavailable,
)
from udsbus.services.asking import NotTaken
from udsbus.services.caller import BEAT_SECONDS
from udsbus.services.free import Taker

from .conftest import Connect
from .support import Task, until
from .test_services import served, streamed

pytestmark = pytest.mark.anyio


class OwnEnd(BaseException):
    pass


ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, OwnEnd]


class Ends:
    """With a coroutine function, so that those of a sync client need an event loop too."""

    def plainly(self, number: int) -> None:
        raise ENDS[number]

    async def at_once(self, number: int) -> None:
        if ENDS[number] is not KeyboardInterrupt:  # that is Ctrl-C, in the main thread
            raise ENDS[number]
        raise OwnEnd

    def in_a_stream(self, number: int) -> Iterator[int]:
        yield 1
        raise ENDS[number]

    async def cancelled(self) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    async def here(self) -> str:
        return "here"


@pytest.mark.parametrize("way", ["plainly", "at_once", "in_a_stream"])
async def test_no_exception_ends_the_worker(
    client: AsyncClient, other: AsyncClient, way: str
) -> None:
    await served(client, "ends", Ends())
    for number in range(len(ENDS)):
        with pytest.raises(RemoteError):
            if way == "in_a_stream":
                async for _ in await other.call("ends/in_a_stream", number):
                    pass
            else:
                await other.call(f"ends/{way}", number)
        assert await other.call("ends/here") == "here"


async def test_nor_does_a_task_that_somebody_else_has_cancelled(
    client: AsyncClient, other: AsyncClient, kind: str
) -> None:
    if kind == "trio":
        pytest.skip("there are no tasks of asyncio")
    await served(client, "ends", Ends())
    with pytest.raises(RemoteError, match="CancelledError"):
        await other.call("ends/cancelled")
    assert await other.call("ends/here") == "here"


class Mixed:
    """Plain functions beside a coroutine function, which so are carried out in threads."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.go_on = threading.Event()
        self.made = 0
        self.was_told = False

    async def here(self) -> str:
        return "here"

    def go(self) -> None:
        self.go_on.set()

    def items(self, size: int = 1) -> Iterator[bytes]:
        try:
            while True:
                self.made += 1
                yield b"x" * size
        finally:
            self.closed.set()

    def closes_late(self) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            self.was_told = self.go_on.wait(20)
            self.closed.set()

    def waits_for_it(self) -> None:
        self.go_on.wait(20)

    def waits(self, seconds: float) -> None:
        time.sleep(seconds)


async def first(stream: AsyncStream) -> Any:
    async for item in stream:
        return item
    raise AssertionError("it has none")


async def free(client: AsyncClient, service: str) -> int | None:
    ((worker,),) = [info.workers for info in await client.services(service)]
    return worker.free


async def all_free(client: AsyncClient, service: str, count: int) -> None:
    async def are() -> bool:
        return await free(client, service) == count

    await until(are, f"{count} places to be free")


async def test_a_worker_that_streams_is_busy_until_the_stream_is_left(
    client: AsyncClient, other: AsyncClient
) -> None:
    mixed = Mixed()
    await served(client, "mixed", mixed)
    async with await streamed(other, "mixed/items") as stream:
        assert await first(stream) == b"x"
        await anyio.sleep(1.2 * BEAT_SECONDS)  # in which the worker looks what has become of it
        assert await free(client, "mixed") == 0
    assert await anyio.to_thread.run_sync(mixed.closed.wait, 20)
    assert await other.call("mixed/here") == "here"
    await all_free(client, "mixed", 1)


async def test_a_generator_that_takes_long_to_close_holds_up_nobody(
    client: AsyncClient, other: AsyncClient
) -> None:
    mixed = Mixed()
    await served(client, "mixed", mixed, concurrency=2)
    async with await streamed(other, "mixed/closes_late") as stream:
        assert await first(stream) == 1
    assert await other.call("mixed/here") == "here"
    await other.call("mixed/go")
    assert await anyio.to_thread.run_sync(mixed.closed.wait, 20)
    assert mixed.was_told


async def test_a_plain_function_is_in_hand_until_it_has_ended(
    client: AsyncClient, other: AsyncClient
) -> None:
    """Though nobody waits for it any more, nor can anybody end it."""
    mixed = Mixed()
    await served(client, "mixed", mixed)
    with pytest.raises(RequestTimeout):
        await other.call("mixed/waits_for_it", timeout=0.2)
    await anyio.sleep(1.2 * BEAT_SECONDS)  # in which the worker looks what has become of it
    assert await free(client, "mixed") == 0
    mixed.go_on.set()
    await all_free(client, "mixed", 1)
    await other.ping()  # for a goodbye it needs a connection again


async def test_a_call_that_is_given_up_before_it_begins_leaves_its_place(
    client: AsyncClient, other: AsyncClient
) -> None:
    await served(client, "mixed", Mixed())
    assert await other.call("mixed/here") == "here"
    for _ in range(30):
        with pytest.raises((RequestTimeout, BrokerUnavailable)):
            await other.call("mixed/waits", 0.001, timeout=1e-5)
    await all_free(client, "mixed", 1)
    assert await other.call("mixed/here") == "here"
    await other.ping()  # for a goodbye it needs a connection again


async def test_places_that_are_lost_come_back_though_a_call_is_in_hand(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        go_on.wait(20)

    service = await served(client, "long", long, concurrency=3)
    Task(tasks, functools.partial(other.call, "long"))
    assert await anyio.to_thread.run_sync(begun.wait, 20)
    taker = Taker(service._endpoint.path + ".free")
    assert taker.take()
    assert taker.take()
    assert not taker.take(), "as two callers that died just then"
    taker.close()
    await all_free(client, "long", 2)
    go_on.set()
    await all_free(client, "long", 3)


@pytest.mark.parametrize(("size", "most"), [(2**20, 6), (1024, 900)])
async def test_a_stream_is_not_made_much_further_than_it_is_taken(
    client: AsyncClient, other: AsyncClient, size: int, most: int
) -> None:
    """A socket takes some 200 KiB."""
    mixed = Mixed()
    await served(client, "mixed", mixed)
    async with await streamed(other, "mixed/items", size) as stream:
        assert len(await first(stream)) == size
        before = -1
        while before != mixed.made:  # until no more are made
            before = mixed.made
            await anyio.sleep(0.1)
        assert mixed.made < most


async def test_a_function_hides_a_method_only_while_it_is_served(
    client: AsyncClient, connect: Connect
) -> None:
    class Calc:
        def add(self) -> str:
            return "the method"

    async with connect() as before, connect() as caller:
        await served(client, "calc", Calc())
        assert await caller.call("calc/add") == "the method"
        function = await served(before, "calc/add", lambda: "the function")
        assert await caller.call("calc/add") == "the function"
        await function.stop()
        assert await caller.call("calc/add") == "the method"


async def test_a_time_out_is_also_for_finding_out_who_serves(connect: Connect, bus: Any) -> None:
    async with connect() as caller:
        await caller.ping()
        os.kill(bus.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(RequestTimeout):
                await caller.call("nobody/add", timeout=0.2)
            assert time.monotonic() < began + caller.timeout / 2
        finally:
            os.kill(bus.pid, signal.SIGCONT)
        await caller.ping()  # for a goodbye it needs a connection again


async def test_exceptions_keep_what_they_hold(client: AsyncClient, other: AsyncClient) -> None:
    class Fails:
        def shared(self) -> None:
            raise TooDear(3, limit=2)

        def file(self) -> None:
            open("/there/is/no/such")  # noqa: SIM115

        def noted(self) -> None:
            error = ValueError("why")
            error.add_note("and what to do")
            raise error

        def modules(self) -> None:
            import no_such_module  # type: ignore[import-not-found] # noqa: F401

        def held(self) -> None:
            raise TooDear(threading.Lock(), limit=2)

    await served(client, "fails", Fails())
    with pytest.raises(TooDear, match="3 is more than 2") as dear:
        await other.call("fails/shared")
    assert (dear.value.price, dear.value.limit) == (3, 2)
    with pytest.raises(FileNotFoundError) as missing:
        await other.call("fails/file")
    assert missing.value.filename == "/there/is/no/such"
    with pytest.raises(ValueError, match="why") as noted:
        await other.call("fails/noted")
    assert noted.value.__notes__ == ["and what to do"]
    with pytest.raises(ModuleNotFoundError) as module:
        await other.call("fails/modules")
    assert module.value.name == "no_such_module"
    with pytest.raises(TooDear) as without:
        await other.call("fails/held")
    assert vars(without.value) == {"limit": 2}, "what has no form is left out"


class TooDear(Exception):
    def __init__(self, price: object, *, limit: int) -> None:
        super().__init__(f"{price} is more than {limit}")
        self.price = price
        self.limit = limit


async def test_what_means_something_inside_udsbus_means_nothing_from_outside(
    client: AsyncClient, other: AsyncClient
) -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise NotTaken

    await served(client, "fails", fails)
    with pytest.raises(RemoteError, match="NotTaken"):
        await other.call("fails")
    assert len(calls) == 1


async def test_a_proxy_leaves_a_time_out_to_the_function(
    client: AsyncClient, other: AsyncClient
) -> None:
    await served(client, "get", lambda url, timeout=10: [url, timeout])
    assert await other.service_proxy("get", timeout=5)("u", timeout=2) == ["u", 2]


class Says:
    """An object that is called like a function."""

    def __call__(self, word: str) -> str:
        return word.upper()


class Methods:
    def _add(self, a: int, b: int) -> int:
        return a + b

    one_more = functools.partialmethod(_add, 1)

    @functools.singledispatchmethod
    def kind(self, value: object) -> str:
        return "other"

    @kind.register
    def _(self, value: int) -> str:
        return "int"


async def test_what_is_like_a_function_is_served(client: AsyncClient, other: AsyncClient) -> None:
    await served(client, "says", Says())
    assert await other.call("says", "loud") == "LOUD"
    await served(client, "methods", Methods())
    assert await other.call("methods/one_more", 2) == 3
    assert [await other.call("methods/kind", each) for each in (1, "a")] == ["int", "other"]


@pytest.mark.parametrize("target", [5, "text", None, udsbus])
async def test_what_is_nothing_like_it_is_refused(client: AsyncClient, target: object) -> None:
    with pytest.raises(InvalidRequest, match="is no function, class or object with methods"):
        client.service("slip", target)


async def test_a_worker_that_fails_is_withdrawn_and_said(
    client: AsyncClient, other: AsyncClient
) -> None:
    service = await served(client, "calc", lambda: 1)
    assert await other.call("calc") == 1
    worker: Any = getattr(service, "_of", service)._worker
    worker._show = None

    async def gone() -> bool:
        return not await client.services("calc")

    await until(gone, "it to be withdrawn")
    assert service.failed
    with pytest.raises(ServiceUnavailable):
        await other.call("calc")

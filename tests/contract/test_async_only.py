"""What only the async client has: it is awaited, begins with a block, and belongs to its loop."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

import udsbus
from tests.harness import BrokerProcess
from udsbus import AsyncClient, Change, InvalidRequest

from .conftest import BACKENDS, Connect
from .support import Task, Told, told, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[kind for kind in BACKENDS if kind != "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


# --- the dict -----------------------------------------------------------------------------------


async def test_what_stands_for_the_syntax_of_dicts(client: AsyncClient, other: AsyncClient) -> None:
    mapping = client.mapping("m")
    assert await mapping.size() == 0
    assert await mapping.has("a") is False
    await mapping.set("a", {"list": [1]})
    await mapping.set(("t", 1), None)
    assert await mapping.has("a") is True
    assert await other.mapping("m").get("a") == {"list": [1]}
    assert await mapping.size() == 2
    await mapping.delete("a")
    with pytest.raises(KeyError, match="'a'"):
        await mapping.delete("a")
    assert list(await mapping.keys()) == [("t", 1)]
    assert "'m'" in repr(mapping)


async def test_a_loop_over_its_keys_may_be_left(client: AsyncClient) -> None:
    """Nothing has to be closed, of which trio would warn."""
    mapping = client.mapping("m")
    await mapping.update(dict.fromkeys(range(3)))
    async for key in mapping:
        assert key == 0
        break
    keys = aiter(mapping)
    assert [await anext(keys), await anext(keys), await anext(keys)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(keys)


# --- what is remembered -------------------------------------------------------------------------


async def test_who_reads_all_the_time_gives_way(connect: Connect) -> None:
    """For what is remembered nobody has to wait, so there would be no turn for others, and no
    moment at which it could be cancelled."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with connect() as client, anyio.create_task_group() as tasks:
        await client.set("a", 1)
        await client.set("list", [])
        tasks.start_soon(others)
        reads: list[Callable[[], Awaitable[Any]]] = [
            partial(client.get, "a"), partial(client.get, "list"), partial(client.entry, "a"),
            partial(client.exists, "a"), partial(client.get_many, ["a", "list"]), client.revision,
        ]  # fmt: skip
        for read in reads:
            before = turns
            with anyio.move_on_after(10) as scope:
                while turns < before + 3:
                    await read()
            assert not scope.cancelled_caught
            with anyio.move_on_after(0.01) as scope:
                while True:
                    await read()
            assert scope.cancelled_caught
        tasks.cancel_scope.cancel()


# --- functions that are awaited -----------------------------------------------------------------


async def test_async_functions_are_called(client: AsyncClient) -> None:
    """And may use the client."""
    changes, values = Told[object](), Told[object]()

    async def function(change: Change) -> None:
        await client.increment("calls")
        changes(change.value)

    async def bound_to(value: object) -> None:
        values((value, await client.get("calls")))

    await client.on_change("a", function)
    bound = await client.bind("calls", default=0)
    bound.on_change(bound_to)
    for number in range(3):
        await client.set("a", number)
        assert await changes.next() == number
        assert await values.next() == (number + 1, number + 1)


async def test_an_async_function_is_called_for_one_change_after_the_other(
    client: AsyncClient,
) -> None:
    seen: list[tuple[str, int]] = []
    over = anyio.Event()

    async def function(change: Change) -> None:
        seen.append(("begins", change.value))
        await client.ping()
        seen.append(("ends", change.value))
        if change.value == 2:
            over.set()

    await client.on_change("a", function)
    for number in range(3):
        await client.set("a", number)
    await over.wait()
    assert seen == [(what, number) for number in range(3) for what in ("begins", "ends")]


async def test_a_predicate_may_ask_the_bus(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def items() -> list[int]:
        found: list[int] = await client.get("items", [])
        return found

    async def wait() -> list[int]:
        async with client.condition("c") as _:
            return await client.condition("c").wait_for(items)

    async def waits() -> bool:
        return await other.count("conditions/c/*") == 1

    task = Task(tasks, wait)
    await until(waits, "it to wait")
    async with other.condition("c"):
        await other.set("items", [1])
        await other.condition("c").notify()
    assert await task.result() == [1]
    async with client.condition("c"):
        assert await client.condition("c").wait_for(lambda: 0, timeout=0.01) == 0


async def test_an_action_may_ask_the_bus(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def act() -> None:
        await client.increment("acted")

    async def fail() -> None:
        raise ZeroDivisionError

    task = Task(tasks, client.barrier("b", 2, act).wait)
    assert sorted([await client.barrier("b", 2, act).wait(), await task.result()]) == [0, 1]
    assert await client.get("acted") == 1
    with pytest.raises(ZeroDivisionError):
        await client.barrier("c", 1, fail).wait()
    assert await other.barrier("c", 1).broken


# --- event loops --------------------------------------------------------------------------------


class Coarse(asyncio.SelectorEventLoop):
    """Its clock ticks every 10 ms, that of uvloop every one: so timers may be early."""

    def time(self) -> float:
        return math.ceil(super().time() * 100) / 100

    def call_at(  # type: ignore[override]
        self, when: float, *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return super().call_at(when - 0.01, *args, **options)


def test_a_timer_that_is_early_is_none_the_less_over(bus: BrokerProcess) -> None:
    async def main() -> None:
        async with udsbus.connect_async(bus.address) as client:
            async with await client.election("nobody").observe() as leaders:
                assert await leaders.get() is None
                for _ in range(50):
                    assert await client.event("never").wait(timeout=0.009) is False
                    with pytest.raises(TimeoutError):
                        await leaders.get(timeout=0.009)

    anyio.run(main, backend_options={"loop_factory": Coarse})


# --- begins and ends ----------------------------------------------------------------------------


async def test_a_watch_begins_when_it_is_awaited(client: AsyncClient) -> None:
    async def watches() -> int:
        found: int = (await client.info())["watches"]
        return found

    watch = client.watch("a")
    await client.set("a", 1)
    assert await watches() == 0
    assert await watch is watch
    assert await watch.start() is watch
    await client.set("a", 2)
    assert await told(watch, 1) == [("updated", "a", 2)]
    del watch

    async def none_left() -> bool:
        await client.set("a", 3)
        return await watches() == 0

    await until(none_left, "one that nobody holds any more to end")


async def test_without_a_block_it_is_of_no_use(address: str) -> None:
    client = udsbus.connect_async(address)
    asks: list[Callable[[], Any]] = [
        lambda: client.get("a"),
        lambda: client.set("a", 1, ephemeral=True),
        lambda: client.lock("a").acquire(),
        lambda: client.rlock("a").acquire(),
        lambda: client.semaphore("a").acquire(),
        lambda: client.queue("a").get(),
        lambda: client.queue("a", 1).put(1),
        lambda: client.event("a").wait(),
        lambda: client.barrier("a", 2).wait(),
        lambda: client.election("a").campaign(),
        lambda: client.bind("a"),
        lambda: client.watch("a"),
        lambda: client.subscribe("a"),
    ]
    for ask in asks:
        with pytest.raises(InvalidRequest, match="not connected: `async with"):
            await ask()
    assert "not connected" in repr(client)
    await client.close()


async def test_each_block_needs_a_client_of_its_own(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match="begun already"):
        async with client:
            pass
    assert await client.set("a", 1)


async def test_it_belongs_to_the_thread_of_its_loop(client: AsyncClient) -> None:
    def elsewhere() -> object:
        with pytest.raises(InvalidRequest, match=r"anyio\.from_thread\.run"):
            client.get("a").send(None)
        return anyio.from_thread.run(client.set, "a", threading.get_ident())

    await anyio.to_thread.run_sync(elsewhere)
    assert await client.get("a") != threading.get_ident()


async def test_each_says_what_it_is(client: AsyncClient) -> None:
    things = [
        client, client.lock("a"), client.rlock("a"), client.rwlock("a"), client.rwlock("a").read,
        client.semaphore("a"), client.bounded_semaphore("a"), client.event("a"),
        client.condition("a"), client.barrier("a", 2), client.counter("a"), client.election("a"),
        client.rate_limiter("a", 1), client.queue("a"), client.lifo_queue("a"),
        client.priority_queue("a"), client.mapping("a"),
    ]  # fmt: skip
    for thing in things:
        assert repr(thing).startswith(f"<udsbus.{type(thing).__name__} ")
        assert client.address in repr(thing)


async def test_it_is_not_pickled(client: AsyncClient) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client.lock("a"))


# --- whose it is --------------------------------------------------------------------------------


async def test_a_task_does_not_own_what_one_that_has_ended_held(client: AsyncClient) -> None:
    """Also if it stands at the same place of memory, so has the same `id`."""

    async def acquire() -> None:
        await client.rlock("r").acquire()

    refused = 0

    async def release() -> None:
        nonlocal refused
        with pytest.raises(InvalidRequest, match=r"thread|task"):
            await client.rlock("r").release()
        refused += 1

    async with anyio.create_task_group() as first:
        first.start_soon(acquire)
    for number in range(1, 51):
        async with anyio.create_task_group() as later:
            later.start_soon(release)
        assert refused == number

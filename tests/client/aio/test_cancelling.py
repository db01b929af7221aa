"""A call that is cancelled, at whichever await, leaves the connection and the bus in order."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE
from udsbus import AsyncClient

from .cancelling import cancelled_at, cancelled_with_answer

pytestmark = pytest.mark.anyio

MOST = 60
"""Awaits, after which an operation is taken not to end."""

Operation = Callable[[AsyncClient], Awaitable[Any]]


async def in_block(manager: Any) -> None:
    async with manager:
        await anyio.lowlevel.checkpoint()


async def transaction(client: AsyncClient) -> None:
    async with client.transaction() as t:
        t.increment("n")
        t.set("a", 1)


async def pipeline(client: AsyncClient) -> None:
    async with client.pipeline() as p:
        for number in range(600):
            p.set(f"many/{number % 7}", number)


async def watch(client: AsyncClient) -> None:
    async with client.watch("**", initial=True) as changes:
        await changes.get(timeout=0.01)


async def subscribe(client: AsyncClient) -> None:
    async with client.subscribe("**") as messages:
        await messages.get(timeout=0.01)


async def observe(client: AsyncClient) -> None:
    async with await client.election("e").observe() as leaders:
        await leaders.get()


async def take_item(client: AsyncClient) -> None:
    await client.queue("full").get()
    await client.queue("full").put("item")


async def take_nothing(client: AsyncClient) -> None:
    with contextlib.suppress(queue.Empty):
        await client.queue("empty").get(block=False)


async def take_and_do(client: AsyncClient) -> None:
    async with await client.queue("full").get(ack=True):
        await anyio.lowlevel.checkpoint()
    await client.queue("full").put("item")


async def campaign(client: AsyncClient) -> None:
    async with client.election("e").leading("me"):
        await anyio.lowlevel.checkpoint()


async def condition(client: AsyncClient) -> None:
    async with client.condition("c") as _:
        await client.condition("c").wait(timeout=0.01)


async def barrier(client: AsyncClient) -> None:
    with_one = client.barrier("b1", 1)
    await with_one.wait()


EVERY: dict[str, Operation] = {
    "get": lambda c: c.get("a"),
    "set": lambda c: c.set("a", 1),
    "set ephemeral": lambda c: c.set("a", 1, ephemeral=True),
    "items": lambda c: c.items(),
    "update": lambda c: c.update("a", lambda value: value),
    "increment": lambda c: c.increment("n"),
    "publish": lambda c: c.publish("t", 1),
    "transaction": transaction,
    "pipeline": pipeline,
    "info": lambda c: c.info(),
    "clients": lambda c: c.clients(),
    "lock": lambda c: in_block(c.lock("l")),
    "rlock": lambda c: in_block(c.rlock("l")),
    "rwlock read": lambda c: in_block(c.rwlock("l").read),
    "rwlock write": lambda c: in_block(c.rwlock("l").write),
    "semaphore": lambda c: in_block(c.semaphore("s", 2)),
    "lock in vain": lambda c: c.lock("taken").acquire(timeout=0.01),
    "event": lambda c: c.event("e").wait(timeout=0.01),
    "condition": condition,
    "barrier": barrier,
    "queue": take_item,
    "queue in vain": take_nothing,
    "queue ack": take_and_do,
    "election": campaign,
    "observe": observe,
    "limiter": lambda c: c.rate_limiter("r", 1000, 1).acquire(),
    "watch": watch,
    "subscribe": subscribe,
}


async def settled(client: AsyncClient, other: AsyncClient) -> None:
    """Nothing is held, waited for or lost; over the same connection as ever."""
    with anyio.fail_after(PATIENCE):
        while client._asked or client._told_of:
            await client.ping()
            await anyio.sleep(0)
    assert await client.get("probe") == "as it was"
    holders = {lock.name for lock in await other.locks() if lock.holders or lock.waiting}
    assert holders == {"taken"}
    about = await other.info()
    assert (about["waiting"], about["watches"], about["subscriptions"]) == (0, 0, 0)
    assert await other.queue("full").qsize() == 1
    assert [key for key in await other.keys("conditions/**") if "/" in key] == []
    assert await other.keys("barriers/*/*") == []
    assert not [h for h in client.holdings._held.values() if h]
    assert await other.election("e").leader() is None


async def prepare(client: AsyncClient, other: AsyncClient) -> Any:
    await client.set("probe", "as it was")
    await client.queue("full").put("item")
    await other.lock("taken").acquire()
    await client.ping()
    return client._link


@pytest.mark.parametrize("name", EVERY)
async def test_at_every_await(client: AsyncClient, other: AsyncClient, name: str) -> None:
    link = await prepare(client, other)
    for at in range(1, MOST):
        if not await cancelled_at(at, partial(EVERY[name], client)):
            break
        if name in ("queue", "queue ack") and not await other.queue("full").qsize():
            await client.ping()  # which comes after whatever is to put it right
            if not await other.queue("full").qsize():
                await other.queue("full").put("item")  # it had been got, and was not put again
        await settled(client, other)
    else:
        pytest.fail(f"more than {MOST} awaits")
    assert client._link is link, "no connection was lost over it"
    assert at > 1


on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@on_asyncio
@pytest.mark.parametrize("name", EVERY)
async def test_with_every_answer(client: AsyncClient, other: AsyncClient, name: str) -> None:
    link = await prepare(client, other)
    for which in range(1, MOST):
        if not await cancelled_with_answer(client, which, partial(EVERY[name], client)):
            break
        if name in ("queue", "queue ack") and not await other.queue("full").qsize():
            await client.ping()
            if not await other.queue("full").qsize():
                await other.queue("full").put("item")
        await settled(client, other)
    else:
        pytest.fail(f"more than {MOST} answers")
    assert client._link is link
    assert which > 1


@on_asyncio
async def test_no_lock_is_left_to_nobody(client: AsyncClient, other: AsyncClient) -> None:
    """It is granted in the very moment in which who waits is cancelled."""
    theirs = other.lock("l")
    await theirs.acquire()
    async with anyio.create_task_group() as tasks:
        done = anyio.Event()

        async def waits() -> None:
            assert await cancelled_with_answer(client, 1, client.lock("l").acquire)
            done.set()

        tasks.start_soon(waits)
        while (await other.info())["waiting"] == 0:
            await anyio.sleep(0)
        await theirs.release()
        await done.wait()
        assert await theirs.acquire(timeout=PATIENCE)


@on_asyncio
@pytest.mark.parametrize("ack", [False, True])
async def test_no_item_is_lost_on_its_way(
    client: AsyncClient, other: AsyncClient, ack: bool
) -> None:
    """It comes in the very moment in which who waits is cancelled: it goes back to its place."""
    theirs = other.queue("q")
    async with anyio.create_task_group() as tasks:

        async def waits() -> None:
            get = partial(client.queue("q").get, ack=ack)
            assert await cancelled_with_answer(client, 1, get)

        tasks.start_soon(waits)
        while (await other.info())["waiting"] == 0:
            await anyio.sleep(0)
        await theirs.put("first")
    await theirs.put("second")
    with anyio.fail_after(PATIENCE):
        while await theirs.qsize() < 2:
            await anyio.sleep(0)
    assert [await theirs.get(), await theirs.get()] == ["first", "second"]


async def test_who_is_cancelled_does_not_stand_in_line(
    client: AsyncClient, other: AsyncClient
) -> None:
    """What nobody waits for any more is taken by the next."""
    with anyio.move_on_after(0.05):
        await client.queue("q").get()
    await other.queue("q").put("for the next")
    assert await other.queue("q").get(timeout=PATIENCE) == "for the next"
    assert (await other.info())["waiting"] == 0


async def test_others_go_on(client: AsyncClient) -> None:
    """Calls of other tasks over the same connection get their own answers."""
    await client.set_many({f"k/{number}": number for number in range(50)})
    wrong: list[Any] = []

    async def reads(number: int) -> None:
        for _ in range(40):
            value = await client.get(f"k/{number}")
            if value != number:
                wrong.append((number, value))

    async def is_cancelled() -> None:
        for at in range(40):
            with anyio.CancelScope() as scope:
                if at % 2:
                    scope.cancel()
                else:
                    scope.deadline = anyio.current_time()
                await client.get("k/0")

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(reads, number)
        for _ in range(10):
            tasks.start_soon(is_cancelled)
    assert wrong == []
    assert client._asked == {}


async def test_the_end_of_the_block_leaves_no_task(broker: Any, anyio_backend: str) -> None:
    """Also when it is cancelled in the midst of anything."""
    for at in range(1, MOST):

        async def whole() -> None:
            async with udsbus.connect_async(broker.address, timeout=PATIENCE) as client:
                client.on_change("**", lambda change: None)
                await client.lock("l").acquire()
                await client.set("a", 1)

        if not await cancelled_at(at, whole):
            break
        async with udsbus.connect_async(broker.address, timeout=PATIENCE) as client:
            assert await client.locks() == [], "it has said goodbye"
            assert await client.lock("l").acquire(timeout=PATIENCE), "it was given up"
            assert len(anyio.get_running_tasks()) < 12
    else:
        pytest.fail(f"more than {MOST} awaits")
    assert at > 3


async def test_a_barrier_forgets_who_is_cancelled_while_the_lock_is_released(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, release = client.barrier("b", 2), client.holdings.release

    async def cancelled(*arguments: Any) -> bool:
        scope.cancel()
        return await release(*arguments)

    with anyio.CancelScope() as scope:
        monkeypatch.setattr(client.holdings, "release", cancelled)
        await barrier.wait()
    monkeypatch.undo()
    assert scope.cancelled_caught
    await client.ping()
    assert await barrier.n_waiting == 0

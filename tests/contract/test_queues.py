"""Queues."""

from __future__ import annotations

import datetime
import queue
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from udsbus import AsyncClient, AsyncQueue, Conflict, InvalidRequest, UnsupportedValue

from .conftest import Connect
from .support import Task, told, until_kept_waiting

pytestmark = pytest.mark.anyio

Make = Callable[[AsyncClient, str, int], AsyncQueue]


def fifo(client: AsyncClient, name: str, maxsize: int) -> AsyncQueue:
    return client.queue(name, maxsize=maxsize)


def lifo(client: AsyncClient, name: str, maxsize: int) -> AsyncQueue:
    return client.lifo_queue(name, maxsize=maxsize)


def lowest(client: AsyncClient, name: str, maxsize: int) -> AsyncQueue:
    return client.priority_queue(name, maxsize=maxsize)


@pytest.fixture(params=[fifo, lifo, lowest])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


# --- in and out ---------------------------------------------------------------------------------


async def test_the_order(client: AsyncClient, other: AsyncClient, name: str) -> None:
    for make, order in ((fifo, [2, 3, 1]), (lifo, [1, 3, 2]), (lowest, [1, 2, 3])):
        jobs = make(client, f"{name}/{make.__name__}", 0)
        assert (jobs.name, jobs.maxsize) == (f"{name}/{make.__name__}", 0)
        for item in (2, 3, 1):
            await jobs.put(item)
        assert await jobs.qsize() == 3
        theirs = make(other, f"{name}/{make.__name__}", 0)
        assert [await theirs.get() for _ in range(3)] == order
        assert await jobs.empty()


async def test_the_methods_of_each(client: AsyncClient, make: Make, name: str) -> None:
    jobs = make(client, name, 2)
    assert await jobs.empty() is True
    for ask in (jobs.get_nowait, partial(jobs.get, block=False), partial(jobs.get, timeout=0.01)):
        with pytest.raises(queue.Empty):
            await ask()
    await jobs.put_nowait(1)
    assert await jobs.full() is False
    await jobs.put(2, True, 1.0)
    assert await jobs.full() is True
    assert await jobs.qsize() == 2
    for put in (
        jobs.put_nowait,
        partial(jobs.put, block=False),
        partial(jobs.put, timeout=0.01),
    ):
        with pytest.raises(queue.Full):
            await put(3)
    with pytest.raises(queue.Empty):
        await make(client, f"{name}/none", 0).get(False, ack=True)
    taken = await jobs.get(timeout=1.0, ack=True)
    assert await jobs.join(timeout=0.01) is False
    await taken.done()
    assert await jobs.get_nowait() in (1, 2)
    await jobs.task_done()
    assert await jobs.join() is True
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        await jobs.task_done()


async def test_each_item_to_one(
    client: AsyncClient, other: AsyncClient, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    """None is lost, none is doubled, and those of one come in the order in which it put them."""

    async def put(mine: AsyncClient, number: int) -> None:
        for n in range(40):
            await mine.queue(name, maxsize=5).put((number, n))

    async def get(mine: AsyncClient) -> list[Any]:
        found = []
        jobs = mine.queue(name, maxsize=5)
        while (item := await jobs.get()) is not None:
            found.append(item)
            await jobs.task_done()
        await jobs.task_done()
        return found

    getting = [Task(tasks, partial(get, mine)) for mine in (client, other, other)]
    putting = [Task(tasks, partial(put, mine, n)) for n, mine in enumerate((client, other))]
    for putter in putting:
        await putter.result()
    for _ in getting:
        await client.queue(name).put(None)
    found = [await task.result() for task in getting]
    assert sorted(item for its in found for item in its) == [
        (number, n) for number in range(2) for n in range(40)
    ]
    for its in found:
        for number in range(2):
            of_one = [item for item in its if item[0] == number]
            assert of_one == sorted(of_one)
    assert await client.queue(name).join(PATIENCE)
    assert await client.keys(f"$sys/queues/{name}/*") == []


async def test_who_waits_longest_gets_it_first(
    client: AsyncClient, other: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    waiting = []
    for number in range(4):
        waiting.append(Task(tasks, make((client, other)[number % 2], name, 0).get))
        await until_kept_waiting(client, number + 1)
    for number in range(4):
        await make(client, name, 0).put(number)
        assert await waiting[number].result() == number


async def test_who_waits_for_room_puts_when_there_is(
    client: AsyncClient, other: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    await make(client, name, 1).put(0)
    for number in range(3):
        task = Task(tasks, partial(make(other, name, 1).put, number + 1))
        await until_kept_waiting(client)
        assert not task.done
        assert await make(client, name, 1).get() == number
        await task.result()
    assert await make(client, name, 1).get() == 3


async def test_what_the_items_may_be(client: AsyncClient, other: AsyncClient, name: str) -> None:
    for value in (
        None, 0, "", (1, [2, {"three": 3.0}]), b"\x00", {1, 2}, datetime.date(2026, 1, 2),
    ):  # fmt: skip
        await client.queue(name).put(value)
        got = await other.queue(name).get()
        assert got == value
        assert type(got) is type(value)
    jobs = client.priority_queue(name)
    items: list[Any] = [(2, "b"), (1, {"job": 1}), (1, {"job": 0}), (-5, None), (1.5, "c")]
    for item in items:
        await jobs.put(item)
    assert [await jobs.get() for _ in items] == [
        (-5, None), (1, {"job": 1}), (1, {"job": 0}), (1.5, "c"), (2, "b"),
    ]  # fmt: skip


async def test_a_queue_is_keys_that_can_be_watched(client: AsyncClient, name: str) -> None:
    async with client.watch(f"$sys/queues/{name}/*") as watch:
        await client.queue(name).put({"url": "a"})
        await client.queue(name).get()
        (created, key, value), (deleted, same, _) = await told(watch, 2)
    assert (created, value, deleted) == ("created", {"url": "a"}, "deleted")
    assert key == same


# --- what is to be done -------------------------------------------------------------------------


async def test_taken_is_done_or_goes_back(
    client: AsyncClient, other: AsyncClient, make: Make, name: str
) -> None:
    jobs = make(client, name, 0)
    await jobs.put("a")
    async with await jobs.get(ack=True) as item:
        assert item == "a"
        assert await jobs.empty()
        assert not await jobs.join(0.01)
    assert await jobs.join(0)
    await jobs.put("b")
    with pytest.raises(ZeroDivisionError):
        async with await jobs.get(ack=True):
            raise ZeroDivisionError
    taken = await jobs.get(ack=True)
    assert taken.item == "b"
    await taken.done()
    for settle in (taken.done, taken.give_back):
        with pytest.raises(InvalidRequest, match="settled before"):
            await settle()
    await jobs.put("c")
    taken = await jobs.get(ack=True)
    await taken.give_back()
    lost = await jobs.get(ack=True)
    await other.kick(client.session)
    assert await make(other, name, 0).get() == "c"
    with pytest.raises(Conflict, match="has gone back"):
        await lost.done()


async def test_what_a_closed_client_has_not_done_comes_back(
    client: AsyncClient, connect: Connect, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    """In its place, before what was put later."""
    for number in (1, 2):
        await client.queue(name).put(number)
    async with connect() as brief:
        taken = await brief.queue(name).get(ack=True)
        assert taken.item == 1
        assert await client.queue(name).get(timeout=PATIENCE) == 2
        task = Task(tasks, client.queue(name).get)
        await until_kept_waiting(client)
    assert await task.result() == 1


async def test_join_waits_until_all_is_done(
    client: AsyncClient, other: AsyncClient, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    jobs = client.queue(name)
    for number in range(2):
        await jobs.put(number)
    task = Task(tasks, other.queue(name).join)
    await until_kept_waiting(client)
    for number in range(2):
        assert not task.done
        assert await jobs.get() == number
        await jobs.task_done()
    assert await task.result() is True


async def test_others_are_answered_while_one_waits(
    client: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    """Of the same client, too."""
    task = Task(tasks, make(client, name, 0).get)
    await until_kept_waiting(client)
    for number in range(20):
        await client.set("a", number)
    assert not task.done
    await make(client, name, 0).put(1)
    assert await task.result() == 1


# --- what is wrong ------------------------------------------------------------------------------


async def test_wrong_arguments(client: AsyncClient, make: Make, name: str) -> None:
    jobs = make(client, name, 0)
    for wrong in (-1, "1", float("nan")):
        for ask in (jobs.get, partial(jobs.put, 1), jobs.join):
            with pytest.raises(ValueError, match="timeout must be"):
                await ask(timeout=wrong)  # type: ignore[arg-type]
    for size in ("3", 1.5, None):
        with pytest.raises(InvalidRequest, match="maxsize"):
            make(client, name, size)  # type: ignore[arg-type]
    for of in ("", "q/", "a/*"):
        with pytest.raises(InvalidRequest):
            await make(client, of, 0).put(1)
        with pytest.raises(InvalidRequest):
            await make(client, of, 0).get(False)
    with pytest.raises(UnsupportedValue, match=r"cannot be sent|put \(priority, item\)"):
        await jobs.put(object())
    assert await jobs.empty()


async def test_what_has_no_order(client: AsyncClient, name: str) -> None:
    items: list[Any] = [{}, None, {1}, ({}, 1), float("nan"), 1 << 2000]
    for item in items:
        with pytest.raises(TypeError, match=r"put \(priority, item\)"):
            await client.priority_queue(name).put(item)
    assert await client.priority_queue(name).empty()

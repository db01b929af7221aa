"""A sync and an async client on one bus: what the one holds the other waits for."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from udsbus import AsyncClient, Deadlock, Message

from .support import Task, take, told, until, until_kept_waiting, until_waiting

pytestmark = pytest.mark.anyio


async def test_they_are_of_different_kinds(client: AsyncClient, stranger: AsyncClient) -> None:
    assert {repr(client).split()[0], repr(stranger).split()[0]} == {
        "<udsbus.Client",
        "<udsbus.AsyncClient",
    }


async def test_values_changes_and_messages(client: AsyncClient, stranger: AsyncClient) -> None:
    for one, two in ((client, stranger), (stranger, client)):
        async with one.watch("a") as watch, one.subscribe("news") as news:
            await two.set("a", (1, {2}))
            assert await two.publish("news", [3]) == 1
            assert [change[1:] for change in await told(watch, 1)] == [("a", (1, {2}))]
            assert await take(news, 1) == [Message("news", [3])]
        assert await one.get("a") == (1, {2})
        async with one.transaction() as t:
            t.increment("n")
        assert {each.session for each in await one.clients()} == {one.session, two.session}


@pytest.mark.parametrize("of", ["lock", "rlock", "semaphore", "bounded_semaphore"])
async def test_a_lock_of_the_one_is_waited_for_by_the_other(
    client: AsyncClient, stranger: AsyncClient, name: str, of: str, tasks: anyio.abc.TaskGroup
) -> None:
    async def hold(mine: AsyncClient) -> list[str]:
        async with getattr(mine, of)(name):
            return [holder.session for holder in await mine.lock_holders(name)]

    for one, two in ((client, stranger), (stranger, client)):
        async with getattr(one, of)(name):
            task = Task(tasks, partial(hold, two))
            await until_waiting(one, name)
            assert not task.done
        assert await task.result() == [two.session]


async def test_a_deadlock_of_both(
    client: AsyncClient, stranger: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def cross() -> None:
        async with stranger.lock("b"), stranger.lock("a"):
            pass

    async with client.lock("a"):
        task = Task(tasks, cross)
        await until_waiting(client, "a")
        with pytest.raises(Deadlock):
            await client.lock("b").acquire(unless_deadlock=True)
    await task.result()


async def test_a_queue_between_them(
    client: AsyncClient, stranger: AsyncClient, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    async def put(mine: AsyncClient) -> None:
        for number in range(40):
            await mine.queue(name, maxsize=3).put(number)

    async def get(mine: AsyncClient) -> list[int]:
        jobs = mine.queue(name, maxsize=3)
        found = []
        for number in range(40):
            if number % 2:
                async with await jobs.get(ack=True) as item:
                    found.append(item)
            else:
                found.append(await jobs.get())
                await jobs.task_done()
        return found

    for one, two in ((client, stranger), (stranger, client)):
        getting, putting = Task(tasks, partial(get, one)), Task(tasks, partial(put, two))
        await putting.result()
        assert await getting.result() == list(range(40))
        assert await two.queue(name).join(PATIENCE)
        taken = Task(tasks, one.priority_queue(name).get)
        await until_kept_waiting(two)
        await two.priority_queue(name).put((1, "item"))
        assert await taken.result() == (1, "item")
        await one.queue(name).task_done()


async def test_events_conditions_and_barriers(
    client: AsyncClient, stranger: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def notified(mine: AsyncClient) -> bool:
        async with mine.condition("c") as _:
            return await mine.condition("c").wait(PATIENCE)

    for one, two in ((client, stranger), (stranger, client)):

        async def watches(number: int = 1, two: AsyncClient = two) -> bool:
            found: int = (await two.info())["watches"]
            return found == number

        waiting = Task(tasks, one.event("go").wait)
        await until(watches, "it to wait")
        await two.event("go").set()
        assert await waiting.result()
        await one.event("go").clear()

        condition = Task(tasks, partial(notified, one))
        await until(partial(two.count, "conditions/c/*"), "it to wait")
        async with two.condition("c"):
            await two.condition("c").notify_all()
        assert await condition.result()

        meeting = Task(tasks, one.barrier("b", 2).wait)
        assert sorted([await two.barrier("b", 2).wait(), await meeting.result()]) == [0, 1]


async def test_elections_counters_limiters_and_dicts(
    client: AsyncClient, stranger: AsyncClient
) -> None:
    for one, two in ((client, stranger), (stranger, client)):
        async with await one.election("a").observe() as leaders:
            assert await leaders.get() is None
            async with two.election("a").leading("they") as leader:
                assert await leaders.get(PATIENCE) == leader
                assert not await one.election("a").campaign(timeout=0)
        await one.counter("n").increment()
        assert await two.counter("n").value == await one.counter("n").value
        limiter = two.rate_limiter("r", 1 / 3600, burst=2)
        assert await one.rate_limiter("r", 1 / 3600, burst=2).try_acquire()
        assert await limiter.available() < 2
        await one.mapping("m").update({("a", 1): [1, 2]})
        assert await two.mapping("m").pop(("a", 1)) == [1, 2]

"""Events, conditions and barriers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from threading import BrokenBarrierError

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from udsbus import AsyncClient, AsyncCondition, InvalidRequest, NotHeld

from .conftest import Connect
from .support import Task, until

pytestmark = pytest.mark.anyio


async def until_watched(client: AsyncClient, number: int) -> None:
    async def watched() -> bool:
        found: int = (await client.info())["watches"]
        return found == number

    await until(watched, f"{number} watches")


async def until_there(client: AsyncClient, pattern: str, number: int) -> None:
    async def there() -> bool:
        return await client.count(pattern) == number

    await until(there, f"{number} keys {pattern}")


# --- events -------------------------------------------------------------------------------------


async def test_an_event_wakes_all_who_wait(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    event = client.event("go")
    assert (event.name, event.key) == ("go", "events/go")
    assert await event.is_set() is False
    waiting = [Task(tasks, mine.event("go").wait) for mine in (client, other) * 2]
    await until_watched(client, 4)
    assert not any(task.done for task in waiting)
    await event.set()
    assert [await task.result() for task in waiting] == [True] * 4
    assert await other.event("go").is_set() is True
    assert await event.wait() is True
    assert await client.get("events/go") is True
    await event.clear()
    await event.clear()
    assert await other.event("go").is_set() is False
    assert await event.wait(timeout=0.01) is False
    await until_watched(client, 0)


async def test_who_waits_is_woken_by_an_event_that_is_cleared_at_once(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    task = Task(tasks, client.event("go").wait)
    await until_watched(other, 1)
    await other.event("go").set()
    await other.event("go").clear()
    assert await task.result() is True


# --- conditions ---------------------------------------------------------------------------------


async def test_a_condition_passes_work_on(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def consume(mine: AsyncClient) -> list[int]:
        condition = mine.condition("work")
        found: list[int] = []
        while True:
            async with condition:
                while not (items := await mine.get("items")):
                    assert await condition.wait()
                await mine.set("items", items[1:])
            if items[0] is None:
                return found
            found.append(items[0])

    consuming = [Task(tasks, partial(consume, mine)) for mine in (client, other, other)]
    condition = client.condition("work")
    for number in [*range(20), None, None, None]:
        async with condition:
            await client.set("items", [*await client.get("items", []), number])
            await condition.notify()
    found = [await task.result() for task in consuming]
    assert sorted(number for each in found for number in each) == list(range(20))
    assert await client.keys("conditions/**") == []


async def test_who_waits_longest_is_notified_first(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    woken: list[int] = []

    async def wait(mine: AsyncClient, number: int) -> None:
        condition = mine.condition("c")
        async with condition:
            assert await condition.wait(PATIENCE)
            woken.append(number)

    waiting = []
    for number in range(4):
        waiting.append(Task(tasks, partial(wait, (client, other)[number % 2], number)))
        await until_there(client, "conditions/c/*", number + 1)
    condition = client.condition("c")
    async with condition:
        await condition.notify()
    await waiting[0].result()
    async with condition:
        await condition.notify(n=2)
    await waiting[1].result()
    await waiting[2].result()
    assert not waiting[3].done
    async with condition:
        await condition.notify_all()
    await waiting[3].result()
    assert sorted(woken[1:3]) == [1, 2]
    assert (woken[0], woken[3]) == (0, 3)


async def test_notify_all(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def wait(mine: AsyncClient) -> bool:
        condition = mine.condition("c")
        async with condition:
            return await condition.wait(timeout=PATIENCE)

    waiting = [Task(tasks, partial(wait, mine)) for mine in (client, other, other)]
    await until_there(client, "conditions/c/*", 3)
    async with client.condition("c") as acquired:
        assert acquired is True
        await client.condition("c").notify_all()
        await client.condition("c").notify_all()
    assert [await task.result() for task in waiting] == [True] * 3


async def test_wait_for(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    looked: list[int] = []

    def predicate() -> int:
        looked.append(len(looked))
        return 7 if len(looked) == 3 else 0

    async def wait() -> int:
        condition = client.condition("c")
        async with condition:
            return await condition.wait_for(predicate, PATIENCE)

    condition = other.condition("c")
    async with condition:
        assert await condition.wait_for(lambda: 0, timeout=0.01) == 0
        assert await condition.wait_for(lambda: "at once") == "at once"
    task = Task(tasks, wait)
    for times in (2, 3):
        await until_there(other, "conditions/c/*", 1)
        async with condition:
            await condition.notify()

        async def looked_again(times: int = times) -> bool:
            return len(looked) >= times

        # Its key may be there anew by now: it waits again.
        await until(looked_again, f"the predicate to be asked {times} times")
    assert await task.result() == 7
    assert looked == [0, 1, 2]


async def test_a_condition_needs_its_lock(client: AsyncClient, other: AsyncClient) -> None:
    condition = client.condition("c")
    assert condition.name == "c"
    asks: list[Callable[[], Awaitable[object]]] = [
        condition.wait,
        partial(condition.wait_for, lambda: 0),
        condition.notify,
        condition.notify_all,
    ]
    for ask in asks:
        with pytest.raises(NotHeld):
            await ask()
    assert await condition.acquire()
    assert await condition.acquire(), "an RLock"
    assert await condition.wait(0.01) is False
    assert await client.lock("conditions/c").locked()
    assert not await other.condition("c").acquire(blocking=False)
    await condition.release()
    await condition.release()
    assert not await client.lock("conditions/c").locked()
    with pytest.raises(NotHeld):
        await condition.release()
    assert await client.keys("conditions/**") == []


async def test_a_condition_of_another_lock(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """The lock is free while one waits."""

    def condition_of(mine: AsyncClient, kind: str) -> AsyncCondition:
        lock = mine.lock("mine") if kind == "lock" else mine.rlock("mine")
        return mine.condition("c", lock=lock)

    async def wait(kind: str) -> bool:
        async with condition_of(client, kind) as acquired:
            assert acquired
            return await condition_of(client, kind).wait()

    for kind in ("lock", "rlock"):
        task = Task(tasks, partial(wait, kind))
        await until_there(other, "conditions/c/*", 1)
        async with condition_of(other, kind):
            assert await client.lock("mine").locked()
            await condition_of(other, kind).notify()
        assert await task.result() is True
        assert not await client.lock("mine").locked()


async def test_who_is_gone_is_not_notified(
    client: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    async def wait(mine: AsyncClient) -> bool:
        async with mine.condition("c"):
            return await mine.condition("c").wait()

    async with connect() as brief:
        gone = Task(tasks, partial(wait, brief))
        await until_there(client, "conditions/c/*", 1)
        stays = Task(tasks, partial(wait, client))
        await until_there(client, "conditions/c/*", 2)
    with pytest.raises(InvalidRequest):  # it has not got its lock back
        await gone.result()
    await until_there(client, "conditions/c/*", 1)
    async with client.condition("c"):
        await client.condition("c").notify()
    assert await stays.result() is True


# --- barriers -----------------------------------------------------------------------------------


async def test_a_barrier(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def meet(mine: AsyncClient) -> list[int]:
        barrier = mine.barrier("b", 3)
        numbers = []
        for turn in range(5):
            await mine.increment(f"turn/{turn}")
            numbers.append(await barrier.wait(PATIENCE))
            assert await mine.get(f"turn/{turn}") == 3
        return numbers

    meeting = [Task(tasks, partial(meet, mine)) for mine in (client, other, other)]
    rounds = zip(*[await task.result() for task in meeting], strict=True)
    assert [sorted(numbers) for numbers in rounds] == [[0, 1, 2]] * 5
    barrier = client.barrier("b", 3)
    assert (barrier.name, barrier.parties, barrier.key) == ("b", 3, "barriers/b")
    assert await barrier.n_waiting == 0
    assert await barrier.broken is False


async def test_the_last_who_comes_acts_before_all_go_on(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    acted: list[bool] = []

    async def meet(mine: AsyncClient) -> list[bool]:
        await mine.barrier("b", parties=2, action=lambda: acted.append(True)).wait()
        return list(acted)

    meeting = [Task(tasks, partial(meet, mine)) for mine in (client, other)]
    assert [await task.result() for task in meeting] == [[True], [True]]


async def test_an_action_that_fails_breaks_it(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def until_waits() -> bool:
        return await client.barrier("b", 2).n_waiting == 1

    first = Task(tasks, client.barrier("b", 2).wait)
    await until(until_waits, "it to wait")
    with pytest.raises(ZeroDivisionError):
        await other.barrier("b", 2, lambda: 1 / 0).wait()
    with pytest.raises(BrokenBarrierError):
        await first.result()
    assert await client.barrier("b", 2).broken


async def test_a_broken_barrier(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    barrier = client.barrier("b", 3)

    async def one_waits() -> bool:
        return await barrier.n_waiting == 1

    def waiting() -> Task[int]:
        return Task(tasks, other.barrier("b", 3).wait)

    first = waiting()
    await until(one_waits, "it to wait")
    with pytest.raises(BrokenBarrierError):
        await client.barrier("b", 3, timeout=0.01).wait()
    with pytest.raises(BrokenBarrierError):
        await first.result()
    assert await barrier.broken
    with pytest.raises(BrokenBarrierError):
        await barrier.wait(timeout=PATIENCE)
    await barrier.reset()
    assert not await other.barrier("b", 3).broken

    for end, broken in ((barrier.reset, False), (barrier.abort, True)):
        task = waiting()
        await until(one_waits, "it to wait")
        await end()
        with pytest.raises(BrokenBarrierError):
            await task.result()
        assert await barrier.broken is broken
        assert await barrier.n_waiting == 0


async def test_a_party_that_goes_is_not_counted(
    client: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    barrier = client.barrier("b", 2)

    async def one_waits() -> bool:
        return await barrier.n_waiting == 1

    async with connect() as brief:
        gone = Task(tasks, brief.barrier("b", 2).wait)
        await until(one_waits, "it to wait")
    with pytest.raises(InvalidRequest, match="closed"):
        await gone.result()
    assert await barrier.n_waiting == 0
    assert not await barrier.broken
    first = Task(tasks, client.barrier("b", 2).wait)
    await until(one_waits, "the first to wait")
    assert await barrier.wait() == 1
    assert await first.result() == 0


async def test_what_is_no_barrier(client: AsyncClient) -> None:
    for parties in (0, 1.5, True):
        with pytest.raises(InvalidRequest, match="parties must be"):
            client.barrier("b", parties)  # type: ignore[arg-type]

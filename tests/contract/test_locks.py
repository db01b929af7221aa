"""Locks, semaphores, and who holds and waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from udsbus import (
    AsyncBoundedSemaphore,
    AsyncClient,
    AsyncLock,
    AsyncRLock,
    AsyncSemaphore,
    AsyncSharedLock,
    Conflict,
    Deadlock,
    InvalidRequest,
    LockLost,
    NotHeld,
)

from .conftest import Connect
from .support import Task, until, until_waiting, waiters

pytestmark = pytest.mark.anyio

Make = Callable[[AsyncClient, str], Any]
Waiting = Callable[[AsyncClient, str], AsyncLock | AsyncRLock | AsyncSharedLock]


def lock(client: AsyncClient, name: str) -> AsyncLock:
    return client.lock(name)


def rlock(client: AsyncClient, name: str) -> AsyncRLock:
    return client.rlock(name)


def write(client: AsyncClient, name: str) -> AsyncLock:
    return client.rwlock(name).write


def read(client: AsyncClient, name: str) -> AsyncSharedLock:
    return client.rwlock(name).read


def semaphore(client: AsyncClient, name: str) -> AsyncSemaphore:
    return client.semaphore(name)


def bounded_semaphore(client: AsyncClient, name: str) -> AsyncBoundedSemaphore:
    return client.bounded_semaphore(name, 1)


@pytest.fixture(params=[lock, rlock, write, semaphore, bounded_semaphore])
def make(request: pytest.FixtureRequest) -> Make:
    """Each that one may hold at a time."""
    found: Make = request.param
    return found


async def acquired_and_released(lock: Any) -> bool:
    found: bool = await lock.acquire()
    await lock.release()
    return found


# --- one at a time ------------------------------------------------------------------------------


async def test_one_at_a_time(
    client: AsyncClient, other: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    """A read and a write, with others in between if the lock is none."""

    async def add(mine: AsyncClient) -> None:
        for _ in range(10):
            async with make(mine, name) as acquired:
                assert acquired is True
                await mine.set("sum", await mine.get("sum", 0) + 1)

    for task in [Task(tasks, partial(add, mine)) for mine in (client, other) * 2]:
        await task.result()
    assert await client.get("sum") == 40
    assert await client.locks(name) == []


async def test_first_come_first_served(
    client: AsyncClient, other: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    order: list[int] = []

    async def work(mine: AsyncClient, number: int) -> None:
        async with make(mine, name):
            order.append(number)

    lock = make(client, name)
    assert await lock.acquire() is True
    queued = []
    for number in range(6):
        queued.append(Task(tasks, partial(work, (client, other)[number % 2], number)))
        await until_waiting(client, name, number + 1)
    await lock.release()
    for task in queued:
        await task.result()
    assert order == [0, 1, 2, 3, 4, 5]


async def test_time_outs(client: AsyncClient, other: AsyncClient, make: Make, name: str) -> None:
    lock = make(client, name)
    async with make(other, name):
        assert await lock.acquire(False) is False
        assert await lock.acquire(blocking=False) is False
        began = anyio.current_time()
        assert await lock.acquire(timeout=0.05) is False
        assert anyio.current_time() - began >= 0.049
        assert await lock.acquire(True, 0.01) is False
        assert await waiters(client, name) == 0
        for arguments in ({"blocking": False, "timeout": 1}, {"timeout": -2}, {"timeout": "1"}):
            with pytest.raises(InvalidRequest, match="timeout"):
                await lock.acquire(**arguments)
        with pytest.raises(OverflowError):
            await lock.acquire(timeout=1e300)
    assert await lock.acquire(timeout=PATIENCE) is True
    await lock.release()


async def test_a_block_left_by_an_exception_releases(
    client: AsyncClient, other: AsyncClient, make: Make, name: str
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make(client, name):
            raise ZeroDivisionError
    assert await make(other, name).acquire(False)
    await make(other, name).release()


async def test_what_a_closed_client_held_is_free(
    client: AsyncClient, connect: Connect, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    async with connect() as brief:
        await make(brief, name).acquire()
        task = Task(tasks, partial(acquired_and_released, make(client, name)))
        await until_waiting(client, name)
    assert await task.result() is True


async def test_waiting_longer_than_a_request_may_take(
    client: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    async with connect(timeout=0.5) as hasty:
        await client.lock("a").acquire()
        task = Task(tasks, partial(acquired_and_released, hasty.lock("a")))
        await until_waiting(client, "a")
        await anyio.sleep(0.7)
        assert not task.done
        await client.lock("a").release()
        assert await task.result() is True


async def test_others_are_answered_while_one_waits(
    client: AsyncClient, other: AsyncClient, make: Make, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    async with make(other, name):
        task = Task(tasks, partial(acquired_and_released, make(client, name)))
        await until_waiting(other, name)
        for number in range(20):
            await client.set("a", number)
            assert await client.get("a") == number
        assert not task.done
    await task.result()


# --- whose it is --------------------------------------------------------------------------------


async def test_a_lock_belongs_to_the_client(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """Not to the object, nor to the task."""
    lock = client.lock("a")
    assert lock.name == "a"
    await lock.acquire()
    assert await other.lock("a").locked()
    assert not await other.lock("a").acquire(blocking=False)
    with pytest.raises(NotHeld, match="not held by this client"):
        await other.lock("a").release()
    await Task(tasks, client.lock("a").release).result()
    assert not await lock.locked()
    assert await lock.owner() is None
    with pytest.raises(NotHeld):
        await lock.release()


async def test_token_and_key(client: AsyncClient, other: AsyncClient) -> None:
    lock = client.lock("a")
    for ask in (lambda: lock.token, lambda: lock.key):
        with pytest.raises(NotHeld):
            ask()
    await lock.acquire()
    token = lock.token
    assert await client.exists(lock.key)
    owner = await other.lock("a").owner()
    assert owner is not None
    assert (owner.session, owner.token, owner.shared) == (client.session, token, False)
    assert lock.key.startswith(f"$sys/locks/a/{client.session}.")
    await lock.release()
    async with other.lock("a"):
        assert other.lock("a").token > token
        with pytest.raises(NotHeld):
            lock.token  # noqa: B018


async def test_an_rlock_may_be_acquired_again_by_who_holds_it(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    lock = client.rlock("a")
    async with lock, client.rlock("a") as again:
        assert again is True
        assert await lock.acquire(blocking=False)
        await lock.release()

        async def another() -> bool:
            with pytest.raises(NotHeld):
                await lock.release()
            return await lock.acquire(timeout=0.01)

        assert await Task(tasks, another).result() is False
        assert not await other.rlock("a").acquire(False)
        token = lock.token
        waiting = Task(tasks, other.rlock("a").acquire)
        await until_waiting(client, "a")
    assert await waiting.result()
    assert await lock.locked()
    owner = await lock.owner()
    assert owner is not None
    assert owner.session == other.session
    assert owner.token > token
    with pytest.raises(NotHeld):
        await lock.release()


async def test_an_rlock_of_many_tasks(client: AsyncClient, tasks: anyio.abc.TaskGroup) -> None:
    inside = 0

    async def work() -> None:
        nonlocal inside
        lock = client.rlock("a")
        for _ in range(5):
            async with lock, lock:
                inside += 1
                await client.ping()
                assert inside == 1
                inside -= 1

    for task in [Task(tasks, work) for _ in range(4)]:
        await task.result()


async def test_readers_and_writers(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    mine, theirs = client.rwlock("a"), other.rwlock("a")
    assert mine.name == "a"
    async with mine.read, theirs.read:
        assert await mine.read.locked()
        assert not await mine.write.locked()
        assert mine.read.token != theirs.read.token
        assert mine.read.key != theirs.read.key
        assert not await mine.write.acquire(blocking=False)
        assert not await mine.write.acquire(timeout=0.01)
        writer = Task(tasks, theirs.write.acquire)
        await until_waiting(client, "a")
        assert not await mine.read.acquire(blocking=False), "nobody overtakes the writer"
        assert not await mine.read.acquire(timeout=0.01)
    assert await writer.result()
    assert await mine.write.locked()
    assert not await mine.read.locked()
    owner = await mine.write.owner()
    assert owner is not None
    assert owner.session == other.session
    await theirs.write.release()
    with pytest.raises(NotHeld):
        await mine.read.release()
    async with mine.read:
        reader = await mine.read.owner()
        assert reader is not None
        assert reader.shared


async def test_each_reader_gives_its_own_back(
    client: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """So that it is told right who holds it."""
    lock = client.rwlock("a").read
    await lock.acquire()
    (first,) = await client.lock_holders("a")
    await Task(tasks, lock.acquire).result()
    await lock.release()
    (holder,) = await client.lock_holders("a")
    assert holder.thread != first.thread
    await lock.release()


# --- semaphores ---------------------------------------------------------------------------------


async def test_a_semaphore(
    client: AsyncClient, other: AsyncClient, name: str, tasks: anyio.abc.TaskGroup
) -> None:
    mine, theirs = client.semaphore(name, value=2), other.semaphore(name, 2)
    assert (mine.name, mine.value) == (name, 2)
    async with mine, theirs:
        assert not await mine.acquire(timeout=0.01)
        assert not await mine.acquire(blocking=False)
        assert [lock.permits for lock in await client.locks(name)] == [2]
        with pytest.raises(Conflict, match="2 permits"):
            await client.semaphore(name, 3).acquire()
        with pytest.raises(Conflict, match="2 permits"):
            await client.lock(name).acquire()
    signals = f"{name}/signals"

    async def wait() -> list[bool]:
        return [await other.semaphore(signals, 0).acquire() for _ in range(3)]

    waiting = Task(tasks, wait)
    await until_waiting(client, signals)
    await client.semaphore(signals, 0).release(n=3)
    assert await waiting.result() == [True, True, True]
    await other.semaphore(signals, 0).release(3)
    assert [lock.permits for lock in await client.locks(signals)] == [3]


async def test_a_bounded_semaphore(client: AsyncClient, other: AsyncClient, name: str) -> None:
    semaphore = client.bounded_semaphore(name, value=2)
    assert (semaphore.name, semaphore.value) == (name, 2)
    assert await semaphore.acquire(timeout=1)
    assert await semaphore.acquire(blocking=True)
    assert not await other.bounded_semaphore(name, 2).acquire(blocking=False)
    with pytest.raises(ValueError, match="released too often"):
        await semaphore.release(3)
    with pytest.raises(ValueError, match="released too often"):
        await other.bounded_semaphore(name, 2).release()
    await semaphore.release(n=2)
    async with semaphore:
        assert (await client.locks(name))[0].permits == 2
    for wrong in (-1, 1.5, True):
        with pytest.raises(InvalidRequest, match="whole number of permits"):
            client.semaphore(name, wrong)  # type: ignore[arg-type]
    for wrong in (0, 1.5, True):
        for each in (semaphore, client.semaphore(name, 2)):
            with pytest.raises(InvalidRequest, match="n must be"):
                await each.release(wrong)  # type: ignore[arg-type]


# --- lost ---------------------------------------------------------------------------------------


async def test_a_lock_that_is_lost(client: AsyncClient, other: AsyncClient) -> None:
    lock = other.lock("a")
    await lock.acquire()
    token = lock.token
    assert await client.kick(other.session)
    async with client.lock("a"):
        with pytest.raises(LockLost, match=str(token)):
            await other.set("k", 1, fence=token)
        with pytest.raises(LockLost, match="was lost"):
            await lock.release()
    with pytest.raises(NotHeld):
        lock.token  # noqa: B018
    async with lock:
        assert lock.token > token


async def test_an_rlock_that_is_lost(client: AsyncClient, other: AsyncClient) -> None:
    lock = other.rlock("a")
    with pytest.raises(LockLost):
        async with lock:
            await client.kick(other.session)
    async with lock:
        assert await lock.locked()


async def test_a_lock_that_lingers(client: AsyncClient, other: AsyncClient, name: str) -> None:
    """Nobody has it for a while, if its holder is kicked."""
    lingering: list[Any] = [
        other.lock(f"{name}/1"),
        other.rlock(f"{name}/2"),
        other.rwlock(f"{name}/3").write,
        other.rwlock(f"{name}/4").read,
    ]
    for lock in lingering:
        assert await lock.acquire(linger=1.0)
    assert await client.kick(other.session)
    for number in range(1, 5):
        assert not await client.lock(f"{name}/{number}").acquire(blocking=False)
    for number in range(1, 5):
        async with client.lock(f"{name}/{number}"):
            pass


# --- who waits for whom -------------------------------------------------------------------------


async def test_who_holds_and_who_waits(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    await client.rwlock("a/b").read.acquire()
    task = Task(tasks, other.lock("a/b").acquire)
    await until_waiting(client, "a/*")
    (info,) = await client.locks(pattern="a/**")
    assert (info.name, info.permits) == ("a/b", None)
    (holder,), (waiter,) = info.holders, info.waiting
    assert (holder.session, holder.shared) == (client.session, True)
    assert (waiter.session, waiter.shared) == (other.session, False)
    assert 0 <= waiter.seconds <= holder.seconds < PATIENCE
    assert [each.token for each in await other.lock_holders("a/b")] == [holder.token]
    assert await client.locks("b/**") == []
    await client.rwlock("a/b").read.release()
    assert await task.result()
    await other.lock("a/b").release()


@pytest.mark.parametrize("waiting", [lock, rlock, write, read])
async def test_deadlock(
    client: AsyncClient,
    other: AsyncClient,
    waiting: Waiting,
    tasks: anyio.abc.TaskGroup,
) -> None:
    async def cross() -> None:
        async with other.lock("b"), other.lock("a"):
            pass

    assert await client.deadlocks() == []
    async with client.lock("a"):
        task = Task(tasks, cross)
        await until_waiting(client, "a")
        with pytest.raises(Deadlock, match="2 wait in a circle") as caught:
            await waiting(client, "b").acquire(unless_deadlock=True)
        assert [session for session, _ in caught.value.details["cycle"]] == [
            client.session,
            other.session,
        ]
        assert await client.deadlocks() == []
    await task.result()
    assert await waiting(client, "b").acquire(unless_deadlock=True)
    await waiting(client, "b").release()


async def test_a_circle_is_found(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """Of tasks of one client and of another."""
    first_held, second_held = anyio.Event(), anyio.Event()

    async def cross(
        mine: AsyncClient, first: str, second: str, held: anyio.Event, others: anyio.Event
    ) -> bool:
        async with mine.lock(first):
            held.set()
            await others.wait()
            if acquired := await mine.lock(second).acquire(timeout=PATIENCE):
                await mine.lock(second).release()
            return acquired

    async def found() -> bool:
        return len(await client.deadlocks()) == 1

    crossing = [
        Task(tasks, partial(cross, client, "a", "b", first_held, second_held)),
        Task(tasks, partial(cross, other, "b", "a", second_held, first_held)),
    ]
    await until(found, "the circle to be seen")
    (circle,) = await client.deadlocks()
    assert {(each.session, each.holds, each.wants) for each in circle} == {
        (client.session, "a", "b"),
        (other.session, "b", "a"),
    }
    await client.kick(other.session)
    assert await crossing[0].result()
    with pytest.raises(LockLost):
        await crossing[1].result()


# --- what is wrong ------------------------------------------------------------------------------


async def test_names_that_are_none(client: AsyncClient, make: Make) -> None:
    for wrong in ("", "a//b", "a/*"):
        with pytest.raises(InvalidRequest):
            await make(client, wrong).acquire()
    assert [lock.name for lock in await client.locks() if lock.holders] == []

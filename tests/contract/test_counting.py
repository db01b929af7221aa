"""Counters, elections and rate limiters."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from udsbus import AsyncClient, InvalidRequest, Leader, LockLost, NotHeld, UnsupportedValue

from .conftest import Connect
from .support import Task, until, until_waiting

pytestmark = pytest.mark.anyio

# --- counters -----------------------------------------------------------------------------------


async def test_counting(client: AsyncClient, other: AsyncClient) -> None:
    counter = client.counter("jobs")
    assert (counter.name, counter.key) == ("jobs", "counters/jobs")
    assert (await counter.value, await client.exists(counter.key)) == (0, False)
    assert await counter.increment() == 1
    assert await counter.increment(by=3) == 4
    assert await counter.decrement() == 3
    assert await counter.decrement(by=0.5) == 2.5
    assert await other.counter("jobs").value == 2.5
    await counter.reset(value=7)
    assert await client.get("counters/jobs") == 7
    await counter.reset()
    assert await other.counter("jobs").value == 0


async def test_none_is_lost(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def count(mine: AsyncClient) -> None:
        for _ in range(30):
            await mine.counter("n").increment()

    for task in [Task(tasks, partial(count, mine)) for mine in (client, other) * 2]:
        await task.result()
    assert await client.counter("n").value == 120


async def test_what_cannot_be_counted(client: AsyncClient) -> None:
    counter = client.counter("wrong")
    for wrong in ("1", None, True):
        for method in (counter.increment, counter.decrement, counter.reset):
            with pytest.raises(InvalidRequest, match="must be an int or a float"):
                await method(wrong)  # type: ignore[arg-type]
    await client.set("counters/wrong", "text")
    with pytest.raises(InvalidRequest, match="does not hold a number"):
        await counter.increment()
    with pytest.raises(InvalidRequest, match="does not hold a number"):
        await counter.value
    with pytest.raises(InvalidRequest, match="empty segment"):
        await client.counter("").increment()


# --- elections ----------------------------------------------------------------------------------


async def test_one_leads_and_the_next_follows(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    mine, theirs = client.election("a"), other.election("a")
    assert (mine.name, mine.key) == ("a", "elections/a")
    assert await mine.leader() is None
    assert await mine.campaign("me") is True
    assert await theirs.leader() == Leader(client.session, "me", mine.token)
    assert (await mine.is_leader(), await theirs.is_leader()) == (True, False)
    assert await theirs.campaign("they", timeout=0) is False
    assert await theirs.campaign(value="they", timeout=0.05) is False
    task = Task(tasks, partial(theirs.campaign, "they"))
    await until_waiting(client, "elections/a")
    assert await mine.campaign("me, elsewhere"), "who leads tells something new"
    assert await theirs.leader() == Leader(client.session, "me, elsewhere", mine.token)
    before = mine.token
    await mine.resign()
    assert await task.result() is True
    assert await mine.leader() == Leader(other.session, "they", theirs.token)
    assert theirs.token > before
    await theirs.resign()
    assert await client.locks("elections/**") == []
    assert await client.keys("elections/**") == []


async def test_who_observes_sees_each(client: AsyncClient, other: AsyncClient) -> None:
    async with await client.election("a").observe() as leaders:
        assert await leaders.get() is None
        async with other.election("a").leading(value="they") as leader:
            assert leader == Leader(other.session, "they", other.election("a").token)
            assert await leaders.get(timeout=PATIENCE) == leader
            async with await client.election("a").observe() as late:
                assert await late.get() == leader
                with pytest.raises(TimeoutError):
                    await late.get(timeout=0.01)
        assert await leaders.get(timeout=PATIENCE) is None
        with pytest.raises(TimeoutError):
            await leaders.get(timeout=0)
        await other.election("a").campaign(1)
        async for each in leaders:
            assert each == await other.election("a").leader()
            break
        with pytest.raises(InvalidRequest, match="timeout must be"):
            await leaders.get(timeout=-1)
    with pytest.raises(EOFError):
        await leaders.get()
    assert [each async for each in leaders] == []
    leaders = await client.election("a").observe()
    leaders.close()
    await other.election("a").resign()


async def test_a_leader_that_goes(
    client: AsyncClient, other: AsyncClient, connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    async with await client.election("a").observe() as leaders:
        async with connect() as brief:
            await brief.election("a").campaign("first")
            task = Task(tasks, partial(other.election("a").campaign, "second"))
            await until_waiting(client, "elections/a")
        assert await task.result()
        seen: list[Leader | None] = [None]
        while (last := seen[-1]) is None or last.value != "second":
            seen.append(await leaders.get(timeout=PATIENCE))
    await other.election("a").resign()


async def test_who_lost_it_finds_out(client: AsyncClient, other: AsyncClient) -> None:
    mine = client.election("a")
    await mine.campaign()
    token = mine.token
    await other.kick(client.session)

    async def nobody_leads() -> bool:
        return await other.election("a").leader() is None

    await until(nobody_leads, "the end of it")
    with pytest.raises(LockLost):
        await client.set("state", 1, fence=token)
    with pytest.raises(LockLost):
        await mine.campaign("again")
    with pytest.raises(LockLost):
        await mine.resign()
    with pytest.raises(NotHeld):
        await mine.resign()
    with pytest.raises(NotHeld):
        mine.token  # noqa: B018
    async with mine.leading():
        assert await mine.is_leader()


async def test_what_cannot_be_told(client: AsyncClient) -> None:
    election = client.election("a")
    with pytest.raises(UnsupportedValue):
        await election.campaign(object())
    assert await client.locks("elections/**") == [], "it does not lead, then"
    with pytest.raises(InvalidRequest, match="timeout must be"):
        await election.campaign(timeout=-1)


async def test_a_block_left_by_an_exception_resigns(client: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.election("a").leading():
            raise ZeroDivisionError
    assert await client.election("a").leader() is None
    assert await client.locks("elections/**") == []


# --- rate limiters ------------------------------------------------------------------------------

HOUR = 1 / 3600
"""So slow that nothing comes during a test."""


async def test_no_more_than_there_are(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def take(mine: AsyncClient) -> int:
        limiter = mine.rate_limiter("shared", HOUR, burst=25)
        return sum([await limiter.try_acquire() for _ in range(10)])

    taking = [Task(tasks, partial(take, mine)) for mine in (client, other) * 2]
    assert sum([await task.result() for task in taking]) == 25
    limiter = client.rate_limiter("shared", rate=HOUR, burst=25)
    assert (limiter.name, limiter.key, limiter.rate) == ("shared", "rates/shared", HOUR)
    assert limiter.burst == 25
    assert await limiter.available() < 1


async def test_who_takes_too_many_waits(client: AsyncClient) -> None:
    limiter = client.rate_limiter("a", 100, burst=1)
    assert await limiter.available() == 1
    began = anyio.current_time()
    for _ in range(4):
        assert await limiter.acquire() is True
    async with limiter:
        assert anyio.current_time() - began > 4 / 100 - 0.002, "the first at once, each 10 ms later"
    assert await client.rate_limiter("b", 200, burst=2).acquire(n=2, timeout=1)


async def test_longer_than_one_would_wait(client: AsyncClient) -> None:
    limiter = client.rate_limiter("c", HOUR, burst=2)
    assert await limiter.try_acquire(n=2)
    before = await limiter.available()
    with anyio.fail_after(PATIENCE):
        assert await limiter.acquire(timeout=3_000) is False
    assert await limiter.try_acquire() is False
    assert await limiter.available() == pytest.approx(before, abs=0.1), "and has taken none"


async def test_wrong_rates(client: AsyncClient) -> None:
    wrong: list[Any] = [0, -1, float("inf"), float("nan"), "1", None, True]
    for rate in wrong:
        with pytest.raises(InvalidRequest, match="rate must be"):
            client.rate_limiter("x", rate)
    for burst in (0, 0.5, -1, float("nan"), "1"):
        with pytest.raises(InvalidRequest, match="burst must be"):
            client.rate_limiter("x", 1, burst)  # type: ignore[arg-type]
    limiter = client.rate_limiter("x", 5)
    for n in (0, -1, 5.1, "1", float("nan")):
        with pytest.raises(InvalidRequest, match="n must be"):
            await limiter.acquire(n)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="n must be"):
            await limiter.try_acquire(n)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="timeout must be"):
        await limiter.acquire(timeout=-1)
    assert await client.keys("rates/x") == []

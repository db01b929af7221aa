"""Watches and subscriptions of an async client: how they begin, lag, resume and end."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE
from tests.harness import BrokerProcess
from udsbus import AsyncClient, Change, Client, InvalidRequest
from udsbus.limits import ASYNC_WATCH_BACKLOG, CHANGE_LOG_CHANGES

pytestmark = pytest.mark.anyio


async def taken(watch: Any, number: int) -> list[Any]:
    """The next so many."""
    found: list[Any] = []
    with anyio.fail_after(PATIENCE):
        while len(found) < number:
            found.append(await watch.get())
    return found


def write(address: str, first: int, last: int, keys: int) -> None:
    """By another client, in one go."""
    with udsbus.connect(address) as writer, writer.pipeline() as pipeline:
        for number in range(first, last):
            pipeline.set(f"w/{number % keys}", number)


async def test_a_slow_consumer_lets_go(client: AsyncClient, other: AsyncClient) -> None:
    """It takes no more memory than its backlog; and then goes on where it was, without a gap."""
    much = ASYNC_WATCH_BACKLOG + 3_000
    assert much < CHANGE_LOG_CHANGES
    async with client.watch("w/*") as watch:
        await anyio.to_thread.run_sync(write, client.address, 0, much, 7)
        with anyio.fail_after(PATIENCE):
            while (await other.info())["watches"]:
                await client.ping()
        assert watch.let_go == 1
        assert ASYNC_WATCH_BACKLOG < watch.waiting <= ASYNC_WATCH_BACKLOG + 2_000, (
            "and what was on its way"
        )
        assert [change.value for change in await taken(watch, much)] == list(range(much))
        assert (await other.info())["watches"] == 1, "it follows again"
        assert watch.started_over == 0


async def test_a_very_slow_one_gets_the_present_state(
    client: AsyncClient, other: AsyncClient
) -> None:
    """When the change log does not reach back, the newest of each key, and what is gone."""
    much = ASYNC_WATCH_BACKLOG + CHANGE_LOG_CHANGES + 5_000
    await client.set("w/gone", "soon")
    known: dict[str, Any] = {}
    async with client.watch("w/*", initial=True) as watch:
        (first,) = await taken(watch, 1)
        assert isinstance(first, Change)
        known[first.key] = first.value
        await anyio.to_thread.run_sync(write, client.address, 0, much, 7)
        await other.delete("w/gone")
        end = await other.set("w/last", "last")
        with anyio.fail_after(PATIENCE):
            while (change := await watch.get()) is not None:
                if not isinstance(change, Change):
                    continue
                if change.value is None:
                    known.pop(change.key)
                else:
                    known[change.key] = change.value
                if change.revision >= end and change.key == "w/last":
                    break
        while (change := await watch.get(timeout=0.05)) is not None:
            if isinstance(change, Change):
                known.pop(change.key) if change.value is None else known.update(
                    {change.key: change.value}
                )
        assert known == dict(await other.items("w/*"))
        assert (watch.let_go, watch.started_over) == (1, 1)


async def test_others_do_not_wait_for_a_slow_one(client: AsyncClient) -> None:
    """Neither other watches nor requests over the same connection."""
    async with client.watch("w/*"), client.watch("other") as quick:
        await anyio.to_thread.run_sync(write, client.address, 0, ASYNC_WATCH_BACKLOG + 3_000, 7)
        await client.set("other", 1)
        (change,) = await taken(quick, 1)
        assert change.value == 1


async def test_awaited_instead_of_a_block(client: AsyncClient, other: AsyncClient) -> None:
    watch = await client.watch("a")
    await client.set("a", 1)
    (change,) = await taken(watch, 1)
    assert change.value == 1
    watch.close()
    assert await watch.get() is None
    await client.ping()
    assert (await other.info())["watches"] == 0


async def test_what_nobody_holds_is_over(client: AsyncClient, other: AsyncClient) -> None:
    watch = await client.watch("a")
    subscription = await client.subscribe("t")
    assert (await other.info())["watches"] == 1
    del watch, subscription
    gc.collect()
    await other.set("a", 1)
    await other.publish("t", 1)
    with anyio.fail_after(PATIENCE):
        while (about := await other.info())["watches"] or about["subscriptions"]:
            await other.set("a", 1)
            await other.publish("t", 1)
            await client.ping()


async def test_several_tasks_take_from_one(client: AsyncClient) -> None:
    """Each change goes to one of them."""
    seen: list[int] = []
    async with client.watch("n") as watch, anyio.create_task_group() as tasks:

        async def takes() -> None:
            while (change := await watch.get()) is not None:
                seen.append(change.value)
                if len(seen) == 50:
                    watch.close()

        for _ in range(5):
            tasks.start_soon(takes)
        for number in range(50):
            await client.set("n", number)
    assert sorted(seen) == list(range(50))


async def test_close_in_a_function(client: AsyncClient) -> None:
    done = anyio.Event()
    called = 0

    async def once(change: Any) -> None:
        nonlocal called
        called += 1
        watch.close()
        done.set()

    watch = client.on_change("a", once)
    await watch
    for number in range(5):
        await client.set("a", number)
    await done.wait()
    await client.ping()
    await anyio.wait_all_tasks_blocked()
    assert called == 1


async def test_the_client_closed_in_a_function(broker: BrokerProcess) -> None:
    done = anyio.Event()
    async with udsbus.connect_async(broker.address) as client:

        async def once(change: Any) -> None:
            await client.close()
            done.set()

        await client.on_change("a", once)
        await client.set("a", 1)
        with anyio.fail_after(PATIENCE):
            await done.wait()
        with pytest.raises(InvalidRequest, match="closed"):
            await client.get("a")
        await client.close()


async def test_functions_async_or_not(client: AsyncClient, caplog: Any) -> None:
    seen: list[Any] = []
    done = anyio.Event()

    @client.on_change("a/*", initial=True)
    def plain(change: Any) -> None:
        seen.append(("plain", change.key))
        raise LookupError("of the function")

    @client.on_change("a/*")
    async def asynchronous(change: Any) -> None:
        await client.get("a/1")
        seen.append(("async", change.key))
        if change.key == "a/2":
            done.set()

    await client.ping()
    await client.set("a/1", 1)
    await client.set("a/2", 2)
    with anyio.fail_after(PATIENCE):
        await done.wait()
        while ("plain", "a/2") not in seen:
            await client.ping()
    assert ("async", "a/1") in seen
    assert "failed; it is called for the next all the same" in caplog.text


@pytest.mark.parametrize("cut", range(3))
async def test_a_lost_connection(client: AsyncClient, cut: int) -> None:
    """Without a gap and without a double, also for who waits just then."""
    sync = await anyio.to_thread.run_sync(Client, client.address)
    seen: list[int] = []
    try:
        async with client.watch("n") as watch, anyio.create_task_group() as tasks:

            async def takes() -> None:
                while len(seen) < 30:
                    change = await watch.get()
                    assert change is not None
                    seen.append(change.value)

            tasks.start_soon(takes)
            for number in range(30):
                if number % 10 == cut and client._link is not None:
                    client._link._end("cut by the test")
                await anyio.to_thread.run_sync(sync.set, "n", number)
        assert seen == list(range(30))
        assert watch.started_over == 0
    finally:
        await anyio.to_thread.run_sync(sync.close)


async def test_it_is_used_in_its_own_loop_only(client: AsyncClient, broker: Any) -> None:
    def elsewhere() -> None:
        with pytest.raises(InvalidRequest, match="another thread"):
            anyio.run(client.get, "a")

    await anyio.to_thread.run_sync(elsewhere)
    unused = udsbus.connect_async(broker.address)
    with pytest.raises(InvalidRequest, match="not connected: `async with"):
        await unused.get("a")
    with pytest.raises(InvalidRequest, match="not connected"):
        unused.on_change("a", print)
    with pytest.raises(InvalidRequest, match="begun already"):
        async with client:
            pass
    assert await client.get("a") is None


async def test_a_list_that_waits_for_room_is_given_up_with_its_connection(
    client: AsyncClient,
) -> None:
    """Its next page is not asked for over the next connection, where the list begins anew."""
    keys = {f"k/{number}": number for number in range(2 * ASYNC_WATCH_BACKLOG)}
    await client.set_many(keys)
    async with client.watch("k/*", initial=True) as watch:
        assert client._link is not None
        client._link._end("cut by the test")
        told = {change.key for change in await taken(watch, watch.waiting)}  # still without one
        with anyio.fail_after(PATIENCE):
            assert await client.get("k/1") == 1
            while isinstance(change := await watch.get(), Change):
                told.add(change.key)
    assert told == keys.keys()

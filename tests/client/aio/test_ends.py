"""What an async client does when its process forks, is in a hurry, or runs out of something."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE, in_child
from tests.harness import BrokerProcess
from udsbus import AsyncClient, BrokerUnavailable, InvalidRequest

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def test_a_child_after_a_fork_cannot_use_it(client: AsyncClient, other: AsyncClient) -> None:
    """Not even what needs no answer, since it would go over the parent's connection."""
    watch = await client.watch("**")

    def use() -> None:
        for call in (client.get("a"), client.set("a", "the child's")):
            with pytest.raises(InvalidRequest, match="a child after a fork needs one of its own"):
                call.send(None)
        with pytest.raises(InvalidRequest, match="a child after a fork"):
            client.subscribe("a").start().send(None)
        watch.close()

    in_child(use)
    await other.set("a", 1)
    change = await watch.get(timeout=PATIENCE)
    assert change is not None
    assert (change.key, change.value) == ("a", 1)
    assert await client.get("a") == 1


@on_asyncio
async def test_its_end_is_cancelled(broker: BrokerProcess) -> None:
    """By `Task.cancel`, from which nothing shields, while it waits for a broker that hangs."""
    before = asyncio.all_tasks()
    clients = []

    async def whole() -> None:
        async with udsbus.connect_async(broker.address, timeout=PATIENCE) as client:
            clients.append(client)
            await client.set("mine", 1, ephemeral=True)
            os.kill(broker.pid, signal.SIGSTOP)

    task = asyncio.create_task(whole())
    try:
        while not (clients and any(a.call.method == "goodbye" for a in clients[0]._asked.values())):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert asyncio.all_tasks() == before
    assert clients[0]._link is None
    async with udsbus.connect_async(broker.address, timeout=PATIENCE) as other:
        with anyio.fail_after(PATIENCE):
            while await other.exists("mine"):
                await anyio.sleep(0)


async def test_no_descriptor_is_left(client: AsyncClient) -> None:
    """The block goes on, and connects when there is one again."""
    client.timeout = 0.3
    link = client._link
    assert link is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filled = [os.dup(0)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        for cut in (False, True):
            if cut:
                link._end("cut by the test")
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    filled.append(os.dup(0))
        with pytest.raises(BrokerUnavailable, match="cannot make a socket: Too many open files"):
            await client.get("a")
        while filled:
            os.close(filled.pop())
        assert await client.get("a", "absent") == "absent"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled:
            os.close(descriptor)


async def test_a_watch_of_more_than_it_holds(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins all the same; what is there is fetched as it is taken."""
    monkeypatch.setattr("udsbus.client.aio.following.ASYNC_WATCH_BACKLOG", 100)
    values = {f"k/{number}": "x" * 1000 for number in range(5000)}
    await client.set_many(values)
    found: dict[str, str] = {}
    async with client.watch("k/*", initial=True) as watch:
        assert 100 < watch.waiting < len(values)
        while len(found) < len(values):
            change = await watch.get(timeout=PATIENCE)
            assert isinstance(change, udsbus.Change)
            found[change.key] = change.value
        assert isinstance(await watch.get(timeout=PATIENCE), udsbus.CaughtUp)
        await client.set("k/0", "changed")
        change = await watch.get(timeout=PATIENCE)
        assert isinstance(change, udsbus.Change)
        assert change.value == "changed"
    assert found == values


def test_a_forked_child_that_ends_leaves_the_parent_its_events(broker: BrokerProcess) -> None:
    """The poll of the event loop is that of both."""

    async def main() -> None:
        async with udsbus.connect_async(broker.address, timeout=5) as client:
            await client.set("a", 1)
            pid = os.fork()
            if pid == 0:
                try:
                    await client.close()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            assert await client.get("a") == 1

    asyncio.run(main())

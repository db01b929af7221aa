"""Who is there, and how clients begin and end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE, wait_for_end
from tests.harness import BrokerProcess, running_broker
from udsbus import (
    AsyncClient,
    BrokerUnavailable,
    InvalidRequest,
    LimitExceeded,
    LockLost,
    RequestTimeout,
)

from .conftest import Connect
from .support import Task, Told, told, until, until_kept_waiting

pytestmark = pytest.mark.anyio


async def sessions(client: AsyncClient) -> set[str]:
    return {each.session for each in await client.clients()}


# --- about --------------------------------------------------------------------------------------


async def test_ping_revision_and_info(client: AsyncClient, bus: BrokerProcess) -> None:
    assert 0 < await client.ping() < PATIENCE
    revision = await client.set("a", 1)
    assert await client.revision() == revision
    info = await client.info()
    assert (info["pid"], info["address"], info["revision"]) == (bus.pid, bus.address, revision)


async def test_clients_see_one_another(client: AsyncClient, connect: Connect) -> None:
    before = time.time()
    async with client.watch("$sys/clients/*") as watch:
        async with connect(name="other", metadata={"room": 7}) as other:
            assert other.name == "other"
            assert client.name is None
            mine, others = await client.clients()
            assert (mine.session, mine.name, mine.metadata) == (client.session, None, None)
            assert others[:5] == (other.session, "other", os.getpid(), os.getuid(), os.getgid())
            assert others.metadata == {"room": 7}
            assert before - 60 < mine.since <= others.since <= time.time()
        key = f"$sys/clients/{other.session}"
        assert [change[:2] for change in await told(watch, 2)] == [
            ("created", key),
            ("released", key),
        ]
    assert await sessions(client) == {client.session}


async def test_kick(client: AsyncClient, other: AsyncClient) -> None:
    told_of = Told[str]()

    @other.on_kick
    def kicked() -> None:
        told_of("kicked")

    assert kicked.__name__ == "kicked"
    other.on_kick(lambda: told_of("again"))
    with pytest.raises(InvalidRequest, match="calls a function, not int"):
        other.on_kick(5)  # type: ignore[type-var]
    await other.set("e", 1, ephemeral=True)
    async with client.watch("e") as watch:
        assert await client.kick(other.session) is True
        assert await told(watch, 1) == [("released", "e", None)]
    assert [await told_of.next(), await told_of.next()] == ["kicked", "again"]
    assert await client.kick("nobody") is False
    assert await other.set("e", 2), "it comes back as a new client"


async def test_an_exception_of_a_callback_is_logged(
    client: AsyncClient, other: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    told_of = Told[str]()
    await other.watch("a")  # it hears at once what happens

    @other.on_kick
    def fails() -> None:
        raise ZeroDivisionError("of the callback")

    other.on_kick(lambda: told_of("all the same"))
    await client.kick(other.session)
    assert await told_of.next() == "all the same"
    assert "ZeroDivisionError: of the callback" in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)


# --- begins -------------------------------------------------------------------------------------


async def test_what_a_client_knows_of_itself(connect: Connect, bus: BrokerProcess) -> None:
    async with connect(timeout=5.0) as client:
        assert (client.address, client.timeout) == (bus.address, 5.0)
        assert client.session in await sessions(client)
        assert bus.address in repr(client)
        assert "open" in repr(client)
    assert "closed" in repr(client)


async def test_nobody_is_there(connect: Connect, address: str) -> None:
    with pytest.raises(BrokerUnavailable, match=f"udsbus serve --socket {address}"):
        async with connect(address):
            pass


async def test_a_client_that_is_refused(connect: Connect) -> None:
    with pytest.raises(LimitExceeded, match="metadata"):
        async with connect(metadata="x" * 5_000):
            pass
    for timeout in (0, -1, "1", None, True):
        with pytest.raises(InvalidRequest, match="timeout must be"):
            async with connect(timeout=timeout):
                pass


async def test_autostart(connect: Connect, address: str) -> None:
    async with connect(address=address, autostart=True) as client:
        pid = (await client.info())["pid"]
        async with connect(address, autostart=True) as another:
            assert (await another.info())["pid"] == pid
    async with connect(address) as client:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)


async def test_a_broker_that_does_not_answer(connect: Connect, address: str) -> None:
    async def set_again() -> bool:
        with contextlib.suppress(RequestTimeout, BrokerUnavailable):
            await client.set("b", 1)
            return bool(await client.get("b") == 1)
        return False

    with running_broker(address) as broker:
        async with connect(address, timeout=0.3) as client:
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                with pytest.raises(RequestTimeout, match="nobody knows whether"):
                    await client.set("a", 1)
                with pytest.raises((RequestTimeout, BrokerUnavailable), match="answer"):
                    await client.get("a")
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            await until(set_again, "an answer")


async def test_a_time_out_of_some_requests(connect: Connect, address: str) -> None:
    with running_broker(address) as broker:
        async with connect(address) as client:
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                with client.timeout_of(0.3), pytest.raises((RequestTimeout, BrokerUnavailable)):
                    await client.get("a")
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            with client.timeout_of(seconds=PATIENCE):
                assert await client.get("a") is None
            assert client.timeout == PATIENCE
            with pytest.raises(InvalidRequest, match="timeout must be"):
                with client.timeout_of(0):
                    pass


async def test_a_broker_that_is_gone(connect: Connect, address: str) -> None:
    async def answers() -> bool:
        with contextlib.suppress(BrokerUnavailable):
            return bool(await client.get("a", "there") == "there")
        return False

    with running_broker(address) as broker:
        async with connect(address, timeout=0.3) as client:
            broker.kill()
            for _ in range(2):
                with pytest.raises(BrokerUnavailable):
                    await client.get("a")
            with running_broker(address):
                await until(answers, "another broker to answer")


ENDLESS_WAITS: list[Callable[[AsyncClient], Any]] = [
    lambda client: client.lock("taken").acquire(),
    lambda client: client.queue("q").get(),
]


@pytest.mark.parametrize("wait", ENDLESS_WAITS)
async def test_whoever_waits_without_time_out_learns_that_the_broker_is_gone(
    connect: Connect, address: str, tasks: anyio.abc.TaskGroup, wait: Callable[[AsyncClient], Any]
) -> None:
    with running_broker(address) as broker:
        async with connect(address) as holder, connect(address, timeout=0.3) as client:
            await holder.lock("taken").acquire()

            async def waits() -> None:
                await wait(client)

            waiting = Task(tasks, waits)
            await until_kept_waiting(holder)
            broker.kill()
            with pytest.raises(BrokerUnavailable):
                await waiting.result()
            with pytest.raises(BrokerUnavailable):
                await wait(client)


async def test_a_bus_that_keeps_nothing_loses_its_locks(connect: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "bus.sock")
    with running_broker(path) as broker:
        async with connect(path) as client:
            lock = client.lock("a")
            await lock.acquire()
            broker.kill()
            with running_broker(path):
                with pytest.raises(LockLost):
                    await client.set("k", 1, fence=lock.token)
                with pytest.raises(LockLost, match="was lost"):
                    await lock.release()
                async with lock:
                    assert await lock.locked()


# --- ends ---------------------------------------------------------------------------------------

ASKS: list[Callable[[AsyncClient], Any]] = [
    lambda client: client.get("a"),
    lambda client: client.set("a", 1),
    lambda client: client.keys(),
    lambda client: client.ping(),
    lambda client: client.clients(),
    lambda client: client.publish("a", 1),
    lambda client: client.watch("a"),
    lambda client: client.subscribe("a"),
    lambda client: client.lock("a").acquire(),
    lambda client: client.rlock("a").acquire(),
    lambda client: client.semaphore("a").acquire(),
    lambda client: client.event("a").wait(),
    lambda client: client.condition("a").acquire(),
    lambda client: client.barrier("a", 2).wait(),
    lambda client: client.queue("a").put(1),
    lambda client: client.queue("a").get(),
    lambda client: client.counter("a").increment(),
    lambda client: client.election("a").campaign(),
    lambda client: client.election("a").observe(),
    lambda client: client.rate_limiter("a", 1).acquire(),
    lambda client: client.mapping("a").setdefault("b"),
]


@pytest.mark.parametrize("ask", ASKS)
async def test_a_closed_client_is_of_no_more_use(
    connect: Connect, ask: Callable[[AsyncClient], Any]
) -> None:
    async with connect() as client:
        pass
    with pytest.raises(InvalidRequest, match="this client is closed"):
        await ask(client)


async def test_a_batch_of_a_closed_client(connect: Connect) -> None:
    async with connect() as client:
        batches: list[Any] = [client.transaction(), client.pipeline()]
    for batch in batches:
        with pytest.raises(InvalidRequest, match="this client is closed"):
            async with batch:
                batch.set("a", 1)


async def test_close_may_be_called_twice(connect: Connect, client: AsyncClient) -> None:
    async with connect() as brief:
        await brief.set("e", 1, ephemeral=True)
        await brief.close()
        assert not await client.exists("e")
        await brief.close()
        with pytest.raises(InvalidRequest, match="closed"):
            await brief.get("a")


WAITS: dict[str, Callable[[AsyncClient], Awaitable[object]]] = {
    "lock": lambda client: client.lock("held").acquire(),
    "rlock": lambda client: client.rlock("held").acquire(),
    "read": lambda client: client.rwlock("held").read.acquire(timeout=PATIENCE),
    "event": lambda client: client.event("never").wait(),
    "barrier": lambda client: client.barrier("never", 2).wait(),
    "queue": lambda client: client.queue("empty").get(),
    "join": lambda client: client.queue("undone").join(),
    "put": lambda client: client.queue("undone", 1).put(2),
    "campaign": lambda client: client.election("led").campaign(),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_who_waits_hears_that_his_client_is_closed(
    client: AsyncClient, connect: Connect, wait: str, tasks: anyio.abc.TaskGroup
) -> None:
    async def waits() -> bool:
        info = await client.info()
        return bool(info["waiting"] or info["watches"])

    await client.lock("held").acquire()
    await client.election("led").campaign()
    if await client.queue("undone").empty():
        await client.queue("undone").put(1)
    async with connect() as brief:
        task = Task(tasks, lambda: WAITS[wait](brief))
        await until(waits, "it to wait")
    # With an item on its way, a sync client does not know whose that is now.
    with pytest.raises((InvalidRequest, BrokerUnavailable), match="closed"):
        await task.result()
    await until_kept_waiting(client, 0)
    await client.election("led").resign()
    await client.lock("held").release()


async def test_a_block_that_ends_with_an_exception(client: AsyncClient, connect: Connect) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect() as brief:
            await brief.set("e", 1, ephemeral=True)
            await brief.watch("a")
            raise ZeroDivisionError
    assert not await client.exists("e")
    assert await sessions(client) == {client.session}


async def test_many_clients(client: AsyncClient, connect: Connect) -> None:
    async def work() -> None:
        async with connect() as brief, brief.watch("n") as watch:
            await brief.increment("n")
            assert await watch.get(timeout=PATIENCE) is not None

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(work)
    assert await client.get("n") == 10
    assert await sessions(client) == {client.session}

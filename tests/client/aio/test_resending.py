"""What an async client has asked for when its connection is lost is asked again, and done once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import udsbus
from tests.client.support import PATIENCE, FakeBroker, Hangup, Silence, notification
from tests.harness import BrokerProcess
from tests.pairs import Pair
from udsbus import AsyncClient, BrokerUnavailable, RequestTimeout

pytestmark = pytest.mark.anyio

WRITES: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "set": lambda c: c.set("a", 1),
    "set_many": lambda c: c.set_many({"a": 1}),
    "delete": lambda c: c.delete("a"),
    "increment": lambda c: c.increment("a"),
    "expire": lambda c: c.expire("a", 1),
    "persist": lambda c: c.persist("a"),
    "publish": lambda c: c.publish("a", 1),
}


@pytest.mark.parametrize("name", WRITES)
async def test_it_is_sent_again_as_the_same_request(address: str, name: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        if len(broker.requests) < 3:
            raise Hangup
        return 5

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address, name="me") as client:
            assert await WRITES[name](client) == 5
    hellos = [request for request in broker.sent if request[1] == "hello"]
    writes = [request for request in broker.sent if request[1] not in ("hello", "goodbye")]
    assert len(writes) == len(hellos) == 3
    assert writes[0] == writes[1] == writes[2], "with the msgid that it had"
    assert hellos[0] == hellos[1] == hellos[2], "in the same lane of the same session"


async def test_many_are_sent_again_in_their_order(address: str) -> None:
    """With what was answered before left out."""

    def answer(method: str, params: list[Any]) -> Any:
        if method == "increment" and len(broker.requests) == 30:
            raise Hangup
        return params[0] if params else 0

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address) as client:
            found: list[Any] = []

            async def increments(number: int) -> None:
                found.append(await client.increment(f"n/{number}"))

            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(increments, number)
    assert set(found) == {f"n/{number}" for number in range(100)}
    first: list[int] = []
    again: list[int] = []
    for msgid, method, _ in broker.sent:
        if method == "hello":
            first, again = again, []
        elif method == "increment":
            again.append(msgid)
    assert first == list(range(1, 31))
    assert again == list(range(101 - len(again), 101))
    assert again == sorted(again)


async def test_an_end(address: str) -> None:
    """It may be the request that kills the broker."""

    def answer(method: str, params: list[Any]) -> Any:
        raise Hangup

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address) as client:
            with pytest.raises(BrokerUnavailable, match="lost 5 times"):
                await client.set("a", 1)
        assert broker.requests.count("set") == 5


@pytest.mark.parametrize("what", ["bus", "epoch"])
async def test_another_broker_is_not_asked_again(address: str, what: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        setattr(broker, what, "another" if what == "bus" else 2)
        if len(broker.requests) == 1:
            raise Hangup
        return 5

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address) as client:
            if what == "bus":
                with pytest.raises(BrokerUnavailable, match=r"nobody knows .* another broker"):
                    await client.set("a", 1)
            else:
                with pytest.raises(BrokerUnavailable, match=r"nobody knows .* another broker"):
                    await client.publish("a", 1)
            assert await client.exists("a")


async def test_no_answer_in_time(address: str) -> None:
    """The others go on, and the answer that comes too late is nobody's."""

    def answer(method: str, params: list[Any]) -> Any:
        if params and params[0] in ("slow", "slower"):
            raise Silence
        return 5

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address, timeout=0.2) as client:
            with pytest.raises(RequestTimeout, match="nobody knows whether"):
                await client.set("slow", 1)
            with pytest.raises(RequestTimeout, match=r"0\.2 s$"):
                await client.get("slower")
            late = [msgid for msgid, _, params in broker.sent if params and "slow" in str(params)]
            for msgid in late:
                broker.send(bytes([0x94, 1, msgid, 0xC0, 9]))
            assert await client.set("a", 1) == 5
            assert client._asked == {}


async def test_nobody_there(address: str, runtime: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="no such socket"):
        async with udsbus.connect_async(address):
            pytest.fail("there is nothing to connect to")
    with FakeBroker(address, lambda method, params: 5):
        async with udsbus.connect_async(address, timeout=0.3) as client:
            assert await client.set("a", 1) == 5
            link = client._link
            assert link is not None
            os.rename(address, f"{address}.away")
            link._end("cut by the test")
            with pytest.raises(BrokerUnavailable, match="no such socket"):
                await client.get("a")
            os.rename(f"{address}.away", address)
            assert await client.set("a", 1) == 5, "when it is back"


async def test_the_broker_says_why(address: str) -> None:
    with FakeBroker(address, lambda method, params: 5) as broker:
        async with udsbus.connect_async(address, timeout=0.2) as client:
            broker.accepting.clear()
            broker.send(notification("closing", "shutdown", "the broker is stopping"))
            broker.hang_up()
            with pytest.raises(BrokerUnavailable, match=r"stopping|did not answer"):
                await client.set("a", 1)
            broker.accepting.set()


async def test_answers_that_have_come_are_told(address: str) -> None:
    """So that the broker keeps few of them, however many there were."""
    with FakeBroker(address, lambda method, params: 5) as broker:
        async with udsbus.connect_async(address) as client:
            for _ in range(200):
                await client.set("a", 1)
            await client.ping()
    told = [params for method, params in broker.notified if method == "received"]
    assert told == [[64, []], [128, []], [192, []]]


class Counts:
    """Tasks that increment, each a key of its own, and say how often they did."""

    def __init__(self, client: AsyncClient, tasks: int) -> None:
        self.client = client
        self.done = [0] * tasks
        self.over = False

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(len(self.done)):
                tasks.start_soon(self._increment, number)

    async def _increment(self, number: int) -> None:
        while not self.over:
            value = await self.client.increment(f"n/{number}")
            self.done[number] += 1
            assert value == self.done[number]

    async def check(self) -> None:
        found = dict(await self.client.items("n/*"))
        assert [found[f"n/{number}"] for number in range(len(self.done))] == self.done


@pytest.mark.slow
async def test_takeovers(address: str, runtime: Path, anyio_backend: str) -> None:
    """Each increment of a hundred tasks is done once, whoever is killed meanwhile."""
    pair = Pair(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as sync:
            async with udsbus.connect_async(address, timeout=PATIENCE) as client:
                counts = Counts(client, 100)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(counts.run)
                    for _ in range(3):
                        broker, _ = await anyio.to_thread.run_sync(pair.ready, sync)
                        before = sum(counts.done)
                        while sum(counts.done) < before + 500:
                            await anyio.sleep(0)
                        os.kill(broker, signal.SIGKILL)
                    before = sum(counts.done)
                    while sum(counts.done) < before + 500:
                        await anyio.sleep(0)
                    counts.over = True
                await counts.check()
                assert len([c for c in await client.clients() if c.session == client.session]) == 1
    finally:
        pair.close()


@pytest.mark.slow
async def test_locks_and_queues_through_takeovers(
    address: str, runtime: Path, anyio_backend: str
) -> None:
    """Who waits goes on waiting, who holds goes on holding, and each item is got once."""
    pair = Pair(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as sync:
            async with (
                udsbus.connect_async(address, timeout=PATIENCE) as client,
                udsbus.connect_async(address, timeout=PATIENCE) as other,
            ):
                got: list[int] = []
                put = 0
                inside = 0
                held = 0
                over = False

                async def takes() -> None:
                    while (item := await client.queue("q").get()) is not None:
                        got.append(item)

                async def puts() -> None:
                    nonlocal put
                    while not over:
                        put += 1
                        await other.queue("q", maxsize=5).put(put)

                async def holds(which: AsyncClient) -> None:
                    nonlocal inside, held
                    while not over:
                        async with which.lock("l"):
                            inside += 1
                            assert inside == 1
                            await which.ping()
                            inside -= 1
                            held += 1

                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(takes)
                        tasks.start_soon(holds, client)
                        tasks.start_soon(holds, other)
                    tasks.start_soon(puts)
                    for _ in range(3):
                        broker, _ = await anyio.to_thread.run_sync(pair.ready, sync)
                        before = len(got), held
                        while len(got) < before[0] + 100 or held < before[1] + 20:
                            await anyio.sleep(0)
                        os.kill(broker, signal.SIGKILL)
                    over = True
                    for _ in range(3):
                        await other.queue("q").put(None)
                assert sorted(got) == list(range(1, put + 1))
                assert await client.locks() == []
                assert await client.queue("q").qsize() == 0
    finally:
        pair.close()


async def test_it_is_released_when_its_process_is_not(broker: BrokerProcess) -> None:
    """The end of a client takes along what is its, though its process goes on."""
    async with udsbus.connect_async(broker.address) as other:
        async with udsbus.connect_async(broker.address) as client:
            await client.set("mine", 1, ephemeral=True)
            await client.lock("l").acquire()
            async with other.watch("mine") as watch:
                await client.close()
                change = await watch.get(timeout=PATIENCE)
        assert change is not None
        assert change.kind == "released"
        assert await other.lock("l").acquire(timeout=PATIENCE)


async def test_who_waits_for_room_does_not_wait_for_longer_than_the_time_out(
    broker: BrokerProcess, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udsbus.client.aio.session.AT_ONCE", 3)
    async with udsbus.connect_async(broker.address, timeout=0.3) as client:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            for number in range(5):
                with anyio.fail_after(PATIENCE), pytest.raises(RequestTimeout):
                    await client.set("a", number)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        with client.timeout_of(PATIENCE):
            await client.set("a", 5)
            assert await client.get("a") == 5


async def test_what_was_given_up_without_a_connection_is_not_sent_again(
    address: str, tmp_path: Path, anyio_backend: str
) -> None:
    """The error says that it is not."""
    first = BrokerProcess(address, state=tmp_path / "state", durability="process")
    async with udsbus.connect_async(address, timeout=0.5) as client:
        await client.set("n", 0)
        os.kill(first.pid, signal.SIGSTOP)

        async def increment() -> None:
            with pytest.raises(BrokerUnavailable, match="it was not sent again"):
                await client.increment("n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(increment)
            await anyio.sleep(0.1)
            first.kill()
        second = BrokerProcess(address, state=tmp_path / "state", durability="process")
        try:
            with client.timeout_of(PATIENCE):
                assert await client.get("n") == 0
        finally:
            second.stop()


async def test_no_more_is_sent_at_once_than_another_broker_knows_the_answers_of(
    address: str, tmp_path: Path, anyio_backend: str
) -> None:
    many = 3_500
    first = BrokerProcess(address, state=tmp_path / "state", durability="process")
    second: BrokerProcess | None = None
    done = 0

    async def increment(client: AsyncClient) -> None:
        nonlocal done
        async with client.transaction() as transaction:
            transaction.increment("n")
            transaction.get("long")  # so that not all answers fit into the socket
        done += 1

    try:
        async with udsbus.connect_async(address, timeout=PATIENCE) as client:
            await client.set("long", "x" * 400)
            async with anyio.create_task_group() as tasks:
                for _ in range(many):
                    tasks.start_soon(increment, client)
                await anyio.lowlevel.checkpoint()
                if client._link is not None:
                    client._link._flush()
                time.sleep(1.0)
                first.kill()
                second = BrokerProcess(address, state=tmp_path / "state", durability="process")
            assert (await client.get("n"), done) == (many, many)
    finally:
        first.kill()
        if second is not None:
            second.stop()

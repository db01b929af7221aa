"""An async client and its broker tell each other that they live; and whoever hangs is found out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE, Child, FakeBroker, notification, stopped
from tests.harness import BrokerProcess, RawClient, wait_until
from udsbus import AsyncClient, AsyncSubscription, AsyncWatch, Change, Message, RequestTimeout
from udsbus.client.aio import following as following_module
from udsbus.limits import BEATS_MISSED, CHANGE_LOG_CHANGES, HEARTBEAT_LEAST

pytestmark = pytest.mark.anyio

OFTEN = 4 * HEARTBEAT_LEAST
"""On a busy machine a process may have to wait for longer than a few of the shortest."""


async def until(condition: Callable[[], Any], what: str) -> None:
    """As `wait_until`, with the event loop going on."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        await anyio.sleep(0.005)


async def take(source: AsyncWatch, number: int) -> list[Change]:
    found = [await source.get(timeout=PATIENCE) for _ in range(number)]
    changes = [change for change in found if change is not None]
    assert len(changes) == number, f"{number - len(changes)} changes are missing"
    return changes


async def rest(source: AsyncSubscription) -> list[Message]:
    found = []
    while (message := await source.get(timeout=0)) is not None:
        found.append(message)
    return found


async def test_it_answers(address: str, anyio_backend: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        return [1, 5, []] if method == "watch" else True

    with FakeBroker(address, answer) as broker:
        async with udsbus.connect_async(address, heartbeat=7) as client, client.watch("a") as watch:
            (hello,) = [params for _, method, params in broker.sent if method == "hello"]
            assert hello[1]["heartbeat"] == 7
            broker.send(
                notification("ping", 8) + notification("change", 9, "created", "a", b"\x01")
            )
            await take(watch, 1)
            await until(lambda: ("pong", [8]) in broker.notified, "the answer")


async def test_a_broker_that_hangs_is_found_out(
    broker: BrokerProcess, other: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        udsbus.connect_async(broker.address, heartbeat=OFTEN, timeout=1.0) as client,
        client.watch("a/*") as watch,
        client.subscribe("a/*") as subscription,
    ):
        assert client.in_sync
        with stopped(broker.pid):
            await until(lambda: "it hangs" in caplog.text, "it to be noticed")
            assert not client.in_sync
            assert watch.lag > 2 * OFTEN
            with pytest.raises(RequestTimeout), other.timeout_of(0.1):
                await other.ping()
        for number in range(100):
            await other.set(f"a/{number}", number)
        assert [change.value for change in await take(watch, 100)] == list(range(100))
        assert watch.started_over == 0
        await until(lambda: client.in_sync, "all to be well")
        assert subscription.interruptions >= 1


def follow(address: str) -> tuple[list[Any], int, str]:
    """What a watch tells of until it is 99, how often it started over, and what was logged."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("udsbus.client").addHandler(handler)

    async def main() -> tuple[list[Any], int]:
        async with udsbus.connect_async(address, heartbeat=OFTEN) as client:
            async with client.watch("a/*") as watch:
                await client.set("ready", 1)
                values: list[Any] = []
                while not values or values[-1] != 99:
                    values += [change.value for change in await take(watch, 1)]
                return values, watch.started_over

    values, started_over = anyio.run(main)
    return values, started_over, "\n".join(said)


def test_a_client_that_hangs_is_ended_and_goes_on(broker: BrokerProcess) -> None:
    with RawClient(broker.address) as raw, Child(lambda: follow(broker.address)) as child:
        wait_until(lambda: raw.call("get", "ready"), "it to follow")
        with stopped(child.pid):
            for number in range(50):
                raw.call("set", f"a/{number}", number)
            wait_until(lambda: raw.call("info")["counters"]["closed"].get("silent"), "its end")
            for number in range(50, 100):
                raw.call("set", f"a/{number}", number)
        values, started_over, said = child.result()
    assert values == list(range(100))
    assert started_over == 0
    assert "nothing was heard of you" in said
    assert "nothing was heard of the broker" not in said


async def test_who_follows_nothing_expects_nothing(broker: BrokerProcess) -> None:
    async with udsbus.connect_async(broker.address, heartbeat=OFTEN) as client:
        await client.ping()
        await anyio.sleep(2 * BEATS_MISSED * OFTEN)  # nothing happens, and that is what is tested
        assert client.in_sync
        assert (await client.info())["counters"]["accepted"] == 1


async def test_an_idle_watch_does_not_start_over(broker: BrokerProcess, other: AsyncClient) -> None:
    async with udsbus.connect_async(broker.address, heartbeat=OFTEN) as idle, idle.watch("a") as a:
        revision = await other.revision() + CHANGE_LOG_CHANGES
        async with other.pipeline() as p:
            for number in range(CHANGE_LOG_CHANGES):
                p.set("elsewhere", number)
        await until(lambda: (a._core._last or 0) >= revision, "a beat")
        assert idle._link is not None
        idle._link._end("cut by the test")
        await other.set("a", 1)
        assert [change.value for change in await take(a, 1)] == [1]
        assert a.started_over == 0


async def test_a_watch_that_has_let_go_does_not_believe_the_beats(
    broker: BrokerProcess, other: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for the others: it is not told of what they say has been."""
    monkeypatch.setattr(following_module, "ASYNC_WATCH_BACKLOG", 4)
    async with (
        udsbus.connect_async(broker.address, heartbeat=OFTEN) as client,
        client.watch("a") as slow,
        client.watch("b"),
    ):
        for number in range(50):
            await other.set("a", number)
        await until(lambda: slow.let_go, "it to let go")
        assert not client.in_sync
        heard = client._pulse.heard
        await until(lambda: client._pulse.heard > heard + 2 * OFTEN, "beats")
        assert slow.lag > 2 * OFTEN
        assert [change.value for change in await take(slow, 50)] == list(range(50))
        assert slow.started_over == 0
        await until(lambda: client.in_sync, "it to be in step again")


# --- what both clients do, once more for this one -------------------------------------------------


async def test_messages(client: AsyncClient, other: AsyncClient) -> None:
    await other.publish("status/a", 1, retain=True)
    async with (
        client.subscribe("status/*") as subscription,
        client.subscribe("**", echo=False, retained=False) as quiet,
    ):
        assert await rest(subscription) == [Message("status/a", 1, True)]
        assert await other.publish("status/a", 2) == 1
        assert await client.publish("status/b", 3, retain=True) == 1
        assert await client.publish("elsewhere", 4) == 0
        assert await other.publish("end", 5) == 1
        assert await quiet.get(PATIENCE) == Message("status/a", 2)
        assert await quiet.get(PATIENCE) == Message("end", 5)
        assert await rest(subscription) == [Message("status/a", 2), Message("status/b", 3)]
        assert client._link is not None
        client._link._end("cut by the test")
        await other.publish("status/c", 6, retain=True)
        assert await subscription.get(PATIENCE) == Message("status/c", 6, True)
        assert subscription.interruptions == 1
    assert await client.retained("status/*") == {"status/a": 1, "status/b": 3, "status/c": 6}
    assert await client.unretain("status/a") is True


async def test_timeout_of(address: str, anyio_backend: str) -> None:
    """Also for one that is shorter than that of what is on its way already."""

    def never(method: str, params: list[Any]) -> Any:
        time.sleep(0.5)
        return True

    with FakeBroker(address, never):
        async with udsbus.connect_async(address, timeout=PATIENCE) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.exists, "a")
                await anyio.sleep(0.01)  # so that it is the first
                for seconds in (0.2, 0.1):
                    with client.timeout_of(PATIENCE), client.timeout_of(seconds):
                        with pytest.raises(RequestTimeout, match=f"within {seconds:g} s"):
                            await client.get("a")
            client.timeout = 0.1


async def test_a_watch_that_has_let_go_expects_no_beats(
    broker: BrokerProcess, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a connection that was made meanwhile, the broker knows of none."""
    async with (
        udsbus.connect_async(broker.address, timeout=PATIENCE, heartbeat=0.1) as client,
        client.watch("k/*") as watch,
    ):
        for number in range(5):
            await client.set_many({f"k/{each}": number for each in range(1_000)})
        with anyio.fail_after(PATIENCE):
            while not watch.let_go:
                await client.ping()
        assert client._link is not None
        client._link._end("cut by the test")
        await anyio.sleep(1.0)
        assert "nothing was heard" not in caplog.text
        with anyio.fail_after(PATIENCE):
            for _ in range(5_000):
                assert await watch.get() is not None

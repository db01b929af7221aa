"""Messages: publish and subscribe."""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from tests.client.support import PATIENCE
from tests.harness import RawClient
from udsbus import AsyncClient, InvalidRequest, LimitExceeded, Message, UnsupportedValue

from .conftest import Connect
from .support import Task, Told, take, until

pytestmark = pytest.mark.anyio


async def test_whoever_subscribes_gets_it(client: AsyncClient, other: AsyncClient) -> None:
    assert await client.publish("news", 1) == 0
    async with client.subscribe("news") as mine, other.subscribe("*", "news", "a/**") as theirs:
        assert mine.patterns == ("news",)
        assert await other.publish("news", [1, 2]) == 2
        assert await other.publish("other", None) == 1
        assert await take(mine, 1) == [Message("news", [1, 2])]
        assert await take(theirs, 2) == [Message("news", [1, 2]), Message("other", None)]
        for each in (mine, theirs):
            assert await each.get(timeout=0) is None
            assert (each.waiting, each.dropped, each.interruptions) == (0, 0, 0)
            assert not each.closed
    assert mine.closed

    async def nobody_listens() -> bool:
        return await client.publish("news", 1) == 0

    await until(nobody_listens, "the subscriptions to end")


async def test_messages_of_many_come_in_the_order_of_each(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def speak(mine: AsyncClient, topic: str) -> None:
        for number in range(100):
            await mine.publish(topic, message=number)

    async with client.subscribe("a/*") as messages:
        for number, mine in enumerate((client, other)):
            Task(tasks, partial(speak, mine, f"a/{number}"))
        found = await take(messages, 200)
    for number in range(2):
        assert [each.value for each in found if each.topic == f"a/{number}"] == list(range(100))


async def test_messages_are_iterated_over_until_the_end(
    client: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    heard = Told[object]()

    async def listen() -> int:
        number = 0
        async for message in subscription:
            heard(message.value)
            number += 1
        return number

    subscription = await client.subscribe("a")
    task = Task(tasks, listen)
    for number in range(3):
        assert await client.publish("a", number) == 1
        assert await heard.next() == number
    subscription.close()
    subscription.close()
    assert await task.result() == 3
    assert await subscription.get() is None


async def test_a_subscription_ends_with_its_client(
    connect: Connect, tasks: anyio.abc.TaskGroup
) -> None:
    async with connect() as brief:
        subscription = await brief.subscribe("never")
        task = Task(tasks, subscription.get)
    assert subscription.closed
    assert await task.result() is None


async def test_a_message_that_cannot_be_read(client: AsyncClient) -> None:
    async with client.subscribe("a") as messages:
        with RawClient(client.address) as raw:
            raw.call("publish", "a", b"\xc1")
        await client.publish("a", "good")
        with pytest.raises(UnsupportedValue):
            await messages.get(timeout=PATIENCE)
        assert await take(messages, 1) == [Message("a", "good")]


async def test_what_is_wrong(client: AsyncClient) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: client.subscribe(), "at least one pattern"),
        (lambda: client.subscribe("a", "a//b"), "empty segment"),
        (lambda: client.publish("a/*", 1), "only patterns do"),
        (lambda: client.publish("", 1), "empty"),
        (lambda: client.publish("a", object()), "cannot be sent"),
    ]
    for ask, word in wrong:
        with pytest.raises(InvalidRequest, match=word):
            await ask()  # type: ignore[misc]
    with pytest.raises(LimitExceeded):
        await client.publish("t" * 2_000, 1)
    async with client.subscribe("a") as messages:
        with pytest.raises(InvalidRequest, match="timeout must be a number of seconds"):
            await messages.get(timeout="1")  # type: ignore[arg-type]
        assert await client.publish("a", 1) == 1


async def test_the_last_message_is_kept_for_who_comes_later(
    client: AsyncClient, other: AsyncClient
) -> None:
    assert await client.publish("state/a", 1, retain=True) == 0
    await client.publish("state/a", 2, retain=True)
    await client.publish("state/b", "b", retain=True)
    await client.publish("state/c", "not kept")
    assert await other.retained() == {"state/a": 2, "state/b": "b"}
    assert await other.retained(pattern="state/b") == {"state/b": "b"}
    async with other.subscribe("state/*") as messages:
        assert await take(messages, 2) == [
            Message("state/a", 2, True), Message("state/b", "b", True),
        ]  # fmt: skip
        await client.publish("state/a", 3, retain=True)
        assert await take(messages, 1) == [Message("state/a", 3, False)]
    async with other.subscribe("state/*", retained=False) as messages:
        assert await messages.get(timeout=0) is None
    assert await client.unretain(topic="state/a") is True
    assert await client.unretain("state/a") is False
    assert await client.unretain("state/b") is True
    async with client.pipeline() as pipeline:
        pipeline.publish("state/d", "d", retain=True)
    assert await other.retained() == {"state/d": "d"}
    await client.unretain("state/d")


async def test_who_does_not_want_to_hear_himself(client: AsyncClient, other: AsyncClient) -> None:
    async with client.subscribe("t", echo=False) as quiet, client.subscribe("t") as loud:
        assert await client.publish("t", "mine") == 1
        assert await other.publish("t", "theirs") == 1
        assert await take(loud, 2) == [Message("t", "mine"), Message("t", "theirs")]
        assert await take(quiet, 1) == [Message("t", "theirs")]


async def test_who_publishes_may_wait_for_the_slow(client: AsyncClient, other: AsyncClient) -> None:
    async with client.subscribe("t", policy="block") as messages:
        assert messages.policy == "block"
        assert await other.publish("t", 1, wait=PATIENCE) == 1
        assert await take(messages, 1) == [Message("t", 1)]
    with pytest.raises(InvalidRequest, match="policy must be one of"):
        client.subscribe("t", policy="keep all")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="wait must be"):
        await other.publish("t", 1, wait=-1)
    with pytest.raises(InvalidRequest, match="retained at once"):
        await other.publish("t", 1, wait=1, retain=True)


async def test_how_late_one_is(client: AsyncClient, other: AsyncClient) -> None:
    assert client.in_sync, "when nothing is followed"
    async with client.watch("a") as watch:
        assert client.in_sync
        assert watch.conflated == 0
        before = watch.lag
        assert 0 <= before < PATIENCE
        await other.set("a", 1)
        assert (await take(watch, 1))[0].value == 1
        assert 0 <= watch.lag < PATIENCE


async def test_a_time_out_of_some_calls(client: AsyncClient) -> None:
    with client.timeout_of(seconds=PATIENCE):
        assert await client.get("a") is None
    with pytest.raises(InvalidRequest, match="above 0"), client.timeout_of(0):
        pass


async def test_a_heartbeat_is_agreed_on(connect: Connect) -> None:
    async with connect(heartbeat=0.1) as client, client.watch("a"):
        assert client.in_sync
    with pytest.raises(InvalidRequest, match="heartbeat"):
        async with connect(heartbeat=-1):
            pass


async def test_a_function_is_called_with_each(client: AsyncClient, other: AsyncClient) -> None:
    """As with `on_change`; one that fails is called for the next all the same."""
    await other.publish("t/0", "kept", retain=True)
    heard: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def hear(message: Message) -> None:
        heard.put(message)
        if message.value == "bad":
            raise ValueError("of the function")

    async def next_one() -> Message:
        return await anyio.to_thread.run_sync(partial(heard.get, timeout=PATIENCE))

    subscription = client.on_message("t/*", hear, policy="disconnect", retained=True, echo=False)
    assert await next_one() == Message("t/0", "kept", True)
    await client.publish("t/1", "mine")
    await other.publish("t/2", "bad")
    await other.publish("t/1", "good")
    assert [await next_one(), await next_one()] == [Message("t/2", "bad"), Message("t/1", "good")]
    subscription.close()

    @client.on_message("v")
    def again(message: Message) -> None:
        heard.put(message)

    while not await other.publish("v", 1):
        await client.ping()
    assert await next_one() == Message("v", 1)
    assert callable(again)
    with pytest.raises(InvalidRequest, match="calls a function"):
        client.on_message("v", 7)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="pattern"):
        client.on_message(hear)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="pattern"):
        client.on_change(hear)  # type: ignore[call-overload]
    await other.unretain("t/0")

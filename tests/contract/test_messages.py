"""Messages: publish and subscribe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from tests.harness import RawClient
from udsbus import AsyncClient, InvalidRequest, LimitExceeded, Message, UnsupportedValue

from .conftest import Connect
from .support import Task, Told, take

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
    assert await client.publish("news", 1) == 0


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

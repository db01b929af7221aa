"""Transactions and pipelines."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio.abc
import pytest

from tests.harness import RawClient
from udsbus import (
    AsyncClient,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    LockLost,
    Message,
    UnsupportedValue,
)

from .conftest import Connect
from .support import Task, take, told

pytestmark = pytest.mark.anyio


def batch_of(client: AsyncClient, kind: str) -> Any:
    return client.transaction() if kind == "transaction" else client.pipeline()


BOTH = pytest.mark.parametrize("of", ["transaction", "pipeline"])

# --- transactions -------------------------------------------------------------------------------


async def test_a_transaction_is_one_revision(client: AsyncClient) -> None:
    revision = await client.set("a", 1)
    await client.set("gone", 1)
    async with client.watch("**") as watch:
        async with client.transaction() as t:
            t.check("a", revision)
            t.check(key="new", revision=0)
            before = t.get("a")
            absent = t.get("absent", "nothing")
            also_absent = t.get("absent", default="as well")
            written = t.set("new", [1], ttl=1_000)
            after = t.get("new")
            deleted = t.delete("gone")
            number = t.increment("n", by=5)
        changes = await take(watch, 3)
    assert (before.value, absent.value, also_absent.value) == (1, "nothing", "as well")
    assert (after.value, deleted.value, number.value) == ([1], True, 5)
    assert t.revision == written.value == revision + 2
    assert {change.revision for change in changes} == {t.revision}
    assert sorted((change.kind, change.key) for change in changes) == [
        ("created", "n"),
        ("created", "new"),
        ("deleted", "gone"),
    ]
    assert await client.ttl("new") is not None


@pytest.mark.parametrize("way", ["check", "set", "delete"])
async def test_a_failed_transaction_does_nothing(client: AsyncClient, way: str) -> None:
    await client.set("a", 1)
    t = client.transaction()
    with pytest.raises(Conflict, match="'a' is at revision") as caught:
        async with t:
            result = t.set("b", 2)
            if way == "check":
                t.check("a", 0)
            elif way == "set":
                t.set("a", 3, if_revision=0)
            else:
                t.delete("a", if_revision=0)
    assert caught.value.details["key"] == "a"
    assert t.revision is None
    assert await client.items() == [("a", 1)]
    with pytest.raises(Conflict):
        result.value  # noqa: B018


async def test_set_if_changed_in_a_transaction(client: AsyncClient) -> None:
    revision = await client.set("a", 1)
    async with client.transaction() as t:
        same = t.set("a", 1, if_changed=True)
    assert same.value == revision == await client.revision()


async def test_what_is_ephemeral_in_a_batch_goes_with_its_client(
    client: AsyncClient, connect: Connect
) -> None:
    async with client.watch("e/*") as watch:
        async with connect() as brief:
            async with brief.transaction() as t:
                t.set("e/1", 1, ephemeral=True)
            async with brief.pipeline() as p:
                p.set("e/2", 2, ephemeral=True)
        assert [kind for kind, _, _ in await told(watch, 4)] == ["created"] * 2 + ["released"] * 2


async def test_a_fence_is_for_all_of_a_transaction(client: AsyncClient) -> None:
    lock = client.lock("guard")
    await lock.acquire()
    token = lock.token
    async with client.transaction(fence=token) as t:
        t.set("a", 1)
    await lock.release()
    with pytest.raises(LockLost, match=str(token)):
        async with client.transaction(fence=token) as t:
            t.set("a", 2)
    assert await client.get("a") == 1


async def test_transactions_are_isolated(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """Money goes round between two accounts; each look at both sees all of it."""
    await client.set_many({"a": 100, "b": 0})

    async def move(mine: AsyncClient) -> None:
        for _ in range(30):
            async with mine.transaction() as t:
                t.increment("a", -1)
                t.increment("b")

    moving = [Task(tasks, partial(move, mine)) for mine in (client, other)]
    seen = set()
    while not all(each.done for each in moving):
        seen.add(sum((await client.get_many(["a", "b"])).values()))
    assert seen == {100}
    assert await client.get_many(["a", "b"]) == {"a": 40, "b": 60}


# --- pipelines ----------------------------------------------------------------------------------


async def test_a_pipeline_has_the_methods_of_the_client(client: AsyncClient) -> None:
    async with client.subscribe("news") as news:
        async with client.pipeline() as p:
            results = [
                p.get("a"),
                p.get("a", default=0),
                p.exists("a"),
                p.set("a", 1, if_revision=0),
                p.entry("a"),
                p.expire("a", 1_000),
                p.ttl("a"),
                p.persist("a"),
                p.ttl("a"),
                p.increment("a", by=2),
                p.set("a", 3, if_changed=True),
                p.set("a", 4, ttl=1_000),
                p.delete("a"),
                p.delete("a", if_revision=0),
                p.publish("news", "hello"),
            ]
        (message,) = await take(news, 1)
    revision = await client.revision()
    values = [result.value for result in results]
    left = values.pop(6)
    assert 900 < left < 1_000.001  # both at one time, of which floats are not exact
    assert values == [
        None, 0, False, revision - 3, (1, revision - 3, None), True, True, None, 3, revision - 2,
        revision - 1, True, False, 1,
    ]  # fmt: skip
    assert message == Message("news", "hello")


async def test_a_fence_is_for_one_request_of_a_pipeline(client: AsyncClient) -> None:
    lock = client.lock("guard")
    await lock.acquire()
    token = lock.token
    async with client.pipeline() as p:
        p.set("a", 1, fence=token)
        p.set("b", 1)
    await lock.release()
    with pytest.raises(LockLost):
        async with client.pipeline() as p:
            p.set("a", 2, fence=token)
            p.delete("b", fence=token)
            p.set("c", 2)
    assert dict(await client.items()) == {"a": 1, "b": 1, "c": 2}


async def test_a_pipeline_goes_on_after_a_refusal(client: AsyncClient) -> None:
    p = client.pipeline()
    with pytest.raises(Conflict, match="'a' is at revision") as caught:
        async with p:
            first = p.set("a", 1)
            second = p.set("a", 2, if_revision=0)
            third = p.get("a/*")
            fourth = p.increment("b")
    assert caught.value.__notes__ == ["request 2 of 4 in the pipeline"]
    assert (first.value, fourth.value) == (await client.revision() - 1, 1)
    with pytest.raises(Conflict):
        second.value  # noqa: B018
    with pytest.raises(InvalidRequest, match="only patterns do"):
        third.value  # noqa: B018
    assert await client.get("a") == 1


async def test_a_large_pipeline(client: AsyncClient) -> None:
    """More, both ways, than the sockets hold."""
    value = "x" * 2_000
    async with client.pipeline() as p:
        written = [p.set(f"a/{number}", [number, value]) for number in range(2_000)]
        read = [p.get(f"a/{number}") for number in range(2_000)]
    assert [result.value for result in read] == [[number, value] for number in range(2_000)]
    first = written[0].value
    assert [result.value for result in written] == list(range(first, first + 2_000))


async def test_a_pipeline_that_reads_more_than_a_response_holds(client: AsyncClient) -> None:
    """In order all the same: each read sees the writes before it, and none after it."""
    value = "x" * 300_000
    results: list[Any] = []
    async with client.pipeline() as p:
        for number in range(400):
            p.set("n", number)
            if number % 40 == 0:
                p.set("large", [number, value])
            if number % 10 == 0:
                results += [p.get("large"), p.get("n")]
    read = [result.value for result in results]
    assert read[1::2] == list(range(0, 400, 10))
    assert read[::2] == [[number // 40 * 40, value] for number in range(0, 400, 10)]


async def test_pipelines_of_many_tasks(client: AsyncClient, tasks: anyio.abc.TaskGroup) -> None:
    async def work(number: int) -> list[int]:
        async with client.pipeline() as p:
            results = [p.increment(f"n/{number}") for _ in range(600)]
        return [result.value for result in results]

    for each in [Task(tasks, partial(work, number)) for number in range(4)]:
        assert await each.result() == list(range(1, 601))


# --- both ---------------------------------------------------------------------------------------


@BOTH
async def test_an_empty_one(client: AsyncClient, of: str) -> None:
    async with batch_of(client, of):
        pass
    assert await client.keys() == []


@BOTH
async def test_a_block_left_by_an_exception_sends_nothing(client: AsyncClient, of: str) -> None:
    before = await client.revision()
    with pytest.raises(ZeroDivisionError):
        async with batch_of(client, of) as batch:
            result = batch.set("a", 1)
            raise ZeroDivisionError
    with pytest.raises(InvalidRequest, match="nothing was sent"):
        result.value  # noqa: B018
    assert await client.revision() == before


@BOTH
async def test_what_has_ended_takes_no_more(client: AsyncClient, of: str) -> None:
    """It would not be sent, or all would be sent again."""
    unused = batch_of(client, of)
    with pytest.raises(InvalidRequest, match="with block"):
        unused.increment("n")
    async with batch_of(client, of) as batch:
        batch.increment("n")
        with pytest.raises(InvalidRequest, match="begun already"):
            async with batch:
                pass
    with pytest.raises(InvalidRequest, match="begin another"):
        batch.increment("n")
    with pytest.raises(InvalidRequest, match="begin another"):
        async with batch:
            pass
    assert await client.get("n") == 1


@BOTH
async def test_a_result_is_there_when_the_block_has_ended(client: AsyncClient, of: str) -> None:
    async with batch_of(client, of) as batch:
        result = batch.increment("a")
        with pytest.raises(InvalidRequest, match="when the with block has ended"):
            result.value  # noqa: B018
        assert repr(result) == "<Result: not there yet>"
    assert result.value == 1
    assert repr(result) == "<Result: 1>"


@BOTH
async def test_a_value_that_cannot_be_sent_is_refused_at_once(client: AsyncClient, of: str) -> None:
    async with batch_of(client, of) as batch:
        with pytest.raises(UnsupportedValue):
            batch.set("a", object())
        batch.set("a", 1)
    assert await client.items() == [("a", 1)]


@BOTH
async def test_what_is_refused_keeps_the_connection(client: AsyncClient, of: str) -> None:
    with pytest.raises(LimitExceeded):
        async with batch_of(client, of) as batch:
            batch.set("k" * 2_000, 1)
    assert await client.ping() >= 0


@BOTH
async def test_a_value_that_cannot_be_read_does_not_hide_what_was_done(
    client: AsyncClient, of: str
) -> None:
    with RawClient(client.address) as raw:
        raw.call("set", "bad", b"\xc1")
    with pytest.raises(UnsupportedValue):
        async with batch_of(client, of) as batch:
            written = batch.set("a", 1)
            bad = batch.get("bad")
    assert written.value == await client.revision()
    with pytest.raises(UnsupportedValue):
        bad.value  # noqa: B018

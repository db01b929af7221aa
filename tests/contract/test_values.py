"""Values: reading, writing, time to live, and many keys."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio.abc
import pytest

import udsbus
from udsbus import (
    AccessDenied,
    AsyncClient,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    LockLost,
    RequestTimeout,
    UnsupportedValue,
)
from udsbus.limits import FRAME_BYTES, PAGE_KEYS

from .conftest import Connect
from .support import Task, told

pytestmark = pytest.mark.anyio

# --- reading ------------------------------------------------------------------------------------


async def test_get_returns_the_value_or_the_default(client: AsyncClient) -> None:
    assert await client.get("a") is None
    assert await client.get("a", 5) == 5
    await client.set("a", "there")
    assert await client.get("a", default=5) == "there"


async def test_a_stored_none_is_not_absence(client: AsyncClient) -> None:
    await client.set("a", None)
    assert await client.get("a", 5) is None
    assert await client.exists("a") is True
    assert await client.exists("b") is False
    assert await client.get_many(["a", "b"]) == {"a": None}
    assert await client.items() == [("a", None)]
    assert await client.entry("a") is not None


@pytest.mark.parametrize(
    "value",
    [
        None, True, -(2**70), 1.5, "text \N{SNOWMAN}", b"\x00\xff", [1, [2]], (1, (2,)),
        {"a": {1: "b"}}, {1, 2}, frozenset({1}), datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), datetime.timedelta(1, 2, 3),
        "x" * 1_000_000,
    ],
    ids=lambda value: type(value).__name__ + str(value)[:5],
)  # fmt: skip
async def test_what_one_sets_the_other_gets(
    client: AsyncClient, other: AsyncClient, value: object
) -> None:
    await client.set("a", value)
    found = await other.get("a")
    assert found == value
    assert type(found) is type(value)


async def test_entry_knows_revision_and_time_left(client: AsyncClient) -> None:
    assert await client.entry("a") is None
    revision = await client.set("a", [1])
    assert await client.entry("a") == ([1], revision, None)
    await client.set("a", [2], ttl=1_000)
    entry = await client.entry("a")
    assert entry is not None
    assert (entry.value, entry.revision) == ([2], revision + 1)
    assert entry.ttl is not None
    assert 900 < entry.ttl <= 1_000


async def test_get_many_leaves_out_what_is_absent(client: AsyncClient) -> None:
    await client.set_many({"a": 1, "b": 2, "c": 3})
    assert await client.get_many(["c", "x", "a"]) == {"c": 3, "a": 1}
    assert await client.get_many(key for key in "ab") == {"a": 1, "b": 2}
    assert await client.get_many([]) == {}


# --- writing ------------------------------------------------------------------------------------


async def test_set_returns_the_revision(client: AsyncClient) -> None:
    before = await client.revision()
    assert await client.set("a", 1) == before + 1
    assert await client.set("a", 1) == before + 2
    assert await client.revision() == before + 2


async def test_set_with_ttl_expires_and_without_it_stays(client: AsyncClient) -> None:
    async with client.watch("**") as watch:
        await client.set("lasting", 1, ttl=5)
        await client.set("lasting", 2)
        await client.set("brief", 3, ttl=0.05)
        assert await told(watch, 4) == [
            ("created", "lasting", 1),
            ("updated", "lasting", 2),
            ("created", "brief", 3),
            ("expired", "brief", None),
        ]
    assert await client.get("lasting") == 2
    assert await client.ttl("lasting") is None


async def test_set_if_revision(client: AsyncClient) -> None:
    first = await client.set("a", 1, if_revision=0)
    second = await client.set("a", 2, if_revision=first)
    with pytest.raises(Conflict, match=f"'a' is at revision {second}, not at revision {first}"):
        await client.set("a", 3, if_revision=first)
    with pytest.raises(Conflict, match="not absent") as caught:
        await client.set("a", 3, if_revision=0)
    assert caught.value.details == {"key": "a", "expected": 0, "revision": second}
    assert await client.get("a") == 2


async def test_set_if_changed_writes_the_same_but_once(client: AsyncClient) -> None:
    first = await client.set("a", [1, 2], if_changed=True)
    assert await client.set("a", [1, 2], if_changed=True) == first
    assert await client.set("a", (1, 2), if_changed=True) == first + 1
    assert await client.revision() == first + 1


async def test_set_many_is_one_revision(client: AsyncClient) -> None:
    revision = await client.set_many({"a": 1, "b": 2})
    assert [await client.entry(key) for key in "ab"] == [(1, revision, None), (2, revision, None)]
    await client.set_many({"a": 3, "c": 4}, ttl=1_000)
    assert [await client.ttl(key) is None for key in "abc"] == [False, True, False]
    assert await client.set_many({}) == revision + 1


async def test_delete(client: AsyncClient) -> None:
    assert await client.delete("a") is False
    revision = await client.set("a", 1)
    with pytest.raises(Conflict):
        await client.delete("a", if_revision=revision + 1)
    assert await client.delete("a", if_revision=revision) is True
    assert await client.get("a") is None
    with pytest.raises(Conflict, match="'a' is absent"):
        await client.delete("a", if_revision=revision)


async def test_an_ephemeral_key_goes_with_its_client(client: AsyncClient, connect: Connect) -> None:
    async with client.watch("e/*") as watch:
        async with connect() as brief:
            await brief.set("e/1", 1, ephemeral=True)
            await brief.set("e/2", 2)
            assert await client.get("e/1") == 1
        assert await told(watch, 3) == [
            ("created", "e/1", 1),
            ("created", "e/2", 2),
            ("released", "e/1", None),
        ]
    assert await client.items("e/*") == [("e/2", 2)]


async def test_a_fence_keeps_out_who_has_lost_his_lock(client: AsyncClient) -> None:
    lock = client.lock("guard")
    await lock.acquire()
    token = lock.token
    assert await client.set("a", 1, fence=token)
    assert await client.delete("a", fence=token)
    await lock.release()
    with pytest.raises(LockLost, match=str(token)):
        await client.set("a", 2, fence=token)
    with pytest.raises(LockLost, match=str(token)):
        await client.delete("a", fence=token)
    assert not await client.exists("a")


# --- numbers ------------------------------------------------------------------------------------


async def test_increment(client: AsyncClient) -> None:
    assert await client.increment("a") == 1
    assert await client.increment("a", 5) == 6
    assert await client.increment("a", by=-10) == -4
    assert await client.increment("a", 0.5) == -3.5
    assert await client.get("a") == -3.5
    await client.set("a", 2**64 - 1)
    with pytest.raises(LimitExceeded, match="beyond 64 bits"):
        await client.increment("a")
    await client.set("a", "text")
    with pytest.raises(InvalidRequest, match="'a' does not hold a number"):
        await client.increment("a")


async def test_increments_of_many_tasks_are_exact(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def work(mine: AsyncClient) -> list[int]:
        return [await mine.increment("a") for _ in range(50)]

    all_of_them = [Task(tasks, partial(work, mine)) for mine in (client, other) * 3]
    sums = [await each.result() for each in all_of_them]
    assert sorted(number for own in sums for number in own) == list(range(1, 301))
    assert all(own == sorted(own) for own in sums)


# --- time to live -------------------------------------------------------------------------------


async def test_expire_persist_and_ttl(client: AsyncClient) -> None:
    assert await client.expire("a", 5) is False
    assert await client.persist("a") is False
    assert await client.ttl("a") is None
    revision = await client.set("a", 1)
    assert await client.ttl("a") is None
    assert await client.persist("a") is False
    assert await client.expire("a", 1_000) is True
    left = await client.ttl("a")
    assert left is not None
    assert 900 < left <= 1_000
    assert await client.persist("a") is True
    assert await client.ttl("a") is None
    assert await client.entry("a") == (1, revision, None)
    async with client.watch("a") as watch:
        await client.expire("a", ttl=0.02)
        assert await told(watch, 1) == [("expired", "a", None)]


# --- update -------------------------------------------------------------------------------------


async def test_update_replaces_the_value_by_the_function_of_it(client: AsyncClient) -> None:
    assert await client.update("a", lambda value: [*value, 1], default=[]) == [1]
    assert await client.update("a", lambda value: [*value, 2]) == [1, 2]
    assert await client.get("a") == [1, 2]
    assert await client.update("b", lambda value: value) is None


async def test_update_keeps_the_time_to_live_and_whose_it_is(
    client: AsyncClient, connect: Connect
) -> None:
    await client.set("a", 1, ttl=1_000)
    await client.update("a", lambda value: value + 1)
    left = await client.ttl("a")
    assert left is not None
    assert 900 < left <= 1_000
    async with connect() as brief:
        await brief.set("theirs", 1, ephemeral=True)
        await client.update("theirs", lambda value: value + 1)
        assert await client.get("theirs") == 2
    assert not await client.exists("theirs")


async def test_updates_of_many_tasks_lose_nothing(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    async def work(mine: AsyncClient) -> None:
        for _ in range(20):
            await mine.update("a", lambda value: value + 1, 0)

    for each in [Task(tasks, partial(work, mine)) for mine in (client, other) * 2]:
        await each.result()
    assert await client.get("a") == 80


async def test_update_passes_the_exception_of_its_function_on(client: AsyncClient) -> None:
    await client.set("a", 1)
    called = []

    def function(value: Any) -> Any:
        called.append(value)
        raise Conflict("of the function")

    with pytest.raises(Conflict, match="of the function"):
        await client.update("a", function)
    assert called == [1], "not taken for one of the bus, after which it is called again"
    assert await client.get("a") == 1


async def test_update_does_not_try_for_ever(connect: Connect) -> None:
    async with connect(timeout=0.5) as hasty:
        with udsbus.connect(hasty.address) as quick:
            with pytest.raises(RequestTimeout, match="'a' was not updated: others wrote it"):
                await hasty.update("a", lambda _: quick.increment("a") - 1)


# --- many keys ----------------------------------------------------------------------------------


async def test_keys_items_and_count_of_several_pages(client: AsyncClient) -> None:
    total = 2 * PAGE_KEYS + 600
    values = {f"many/{number:05}": number for number in range(total)}
    await client.set_many(values | {"other": 0, "many": -1, "many-more": -2})
    assert await client.keys("many/*") == sorted(values)
    assert await client.items("many/*") == sorted(values.items())
    assert await client.count("many/*") == total
    assert await client.count() == total + 3
    assert (await client.keys())[:2] == ["many", "many-more"]
    assert (await client.keys("many/**"))[:2] == ["many", "many/00000"]
    assert await client.keys("none/*") == []
    assert await client.items("none/*") == []
    assert await client.count("none/*") == 0


# --- what is wrong ------------------------------------------------------------------------------

WRONG: list[tuple[Callable[[AsyncClient], Awaitable[object]], type[Exception], str]] = [
    (lambda client: client.get(""), InvalidRequest, "empty"),
    (lambda client: client.get("a//b"), InvalidRequest, "empty segment"),
    (lambda client: client.get("a/*"), InvalidRequest, "only patterns do"),
    (lambda client: client.get(5), InvalidRequest, "key must be"),  # type: ignore[arg-type]
    (lambda client: client.get("\ud800"), InvalidRequest, "cannot be sent"),
    (lambda client: client.get("k" * 2_000), LimitExceeded, "key"),
    (lambda client: client.get_many("ab"), InvalidRequest, "keys must be a list"),
    (lambda client: client.set("a", object()), UnsupportedValue, "cannot be sent"),
    (lambda client: client.set("a", 1, ttl="5"), InvalidRequest, "ttl must be"),  # type: ignore[arg-type]
    (lambda client: client.set("a", 1, ttl=0), InvalidRequest, "ttl"),
    (lambda client: client.set("a", 1, if_revision=-1), InvalidRequest, "if_revision"),
    (lambda client: client.set("a", 1, if_revision=2**70), InvalidRequest, "cannot be sent"),
    (lambda client: client.set("a", 1, fence=-1), InvalidRequest, "fence"),
    (lambda client: client.set("$sys/a", 1), AccessDenied, "broker"),
    (lambda client: client.set("a", b"x" * (FRAME_BYTES + 1)), LimitExceeded, "request"),
    (lambda client: client.set_many([("a", 1)]), InvalidRequest, "values must be a dict"),  # type: ignore[arg-type]
    (lambda client: client.set_many({"a": 1}, ttl=True), InvalidRequest, "ttl must be"),
    (lambda client: client.delete("a", if_revision=-1), InvalidRequest, "if_revision"),
    (lambda client: client.increment("a", "1"), InvalidRequest, "by must be"),  # type: ignore[call-overload]
    (lambda client: client.expire("a", None), InvalidRequest, "ttl"),  # type: ignore[arg-type]
    (lambda client: client.update("a", 5), InvalidRequest, "a function, not int"),  # type: ignore[arg-type]
    (lambda client: client.keys("a//b"), InvalidRequest, "empty segment"),
    (lambda client: client.items("***"), InvalidRequest, "pattern"),
    (lambda client: client.count("a/b*"), InvalidRequest, "pattern"),
]


@pytest.mark.parametrize(("ask", "error", "word"), WRONG)
async def test_what_is_wrong_is_refused_and_all_goes_on(
    client: AsyncClient,
    ask: Callable[[AsyncClient], Awaitable[object]],
    error: type[Exception],
    word: str,
) -> None:
    with pytest.raises(error, match=word):
        await ask(client)
    assert await client.set("fine", 1)
    assert await client.keys() == ["fine"]

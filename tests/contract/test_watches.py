"""Watches, and functions that are called for changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import pytest

from tests.client.support import PATIENCE
from tests.harness import RawClient
from udsbus import AsyncClient, CaughtUp, Change, InvalidRequest, MissedChanges, UnsupportedValue

from .conftest import Connect
from .support import Task, Told, take, told, until

pytestmark = pytest.mark.anyio

# --- what a watch tells -------------------------------------------------------------------------


async def test_a_watch_tells_of_every_kind_of_change(client: AsyncClient) -> None:
    async with client.watch("a/**") as watch:
        revision = await client.set("a/b", 1)
        await client.set("elsewhere", 1)
        await client.set("a/b", 2)
        await client.delete("a/b")
        await client.set("a", [3], ttl=0.01)
        assert await take(watch, 5) == [
            Change(revision, "created", "a/b", 1),
            Change(revision + 2, "updated", "a/b", 2),
            Change(revision + 3, "deleted", "a/b", None),
            Change(revision + 4, "created", "a", [3]),
            Change(revision + 5, "expired", "a", None),
        ]
        assert watch.pattern == "a/**"
        assert (watch.started_over, watch.skipped, watch.waiting) == (0, 0, 0)
        assert not watch.closed
    assert watch.closed


async def test_a_watch_is_there_when_the_block_begins(
    client: AsyncClient, other: AsyncClient
) -> None:
    for number in range(30):
        async with client.watch(f"a/{number}") as watch:
            await other.set(f"a/{number}", number)
            assert await told(watch, 1) == [("created", f"a/{number}", number)]


async def test_a_watch_without_a_block_is_awaited(client: AsyncClient) -> None:
    watch = await client.watch("a")
    await client.set("a", 1)
    assert await told(watch, 1) == [("created", "a", 1)]
    watch.close()
    watch.close()
    assert watch.closed
    assert await watch.get() is None


async def test_get_returns_none_when_nothing_comes(client: AsyncClient) -> None:
    async with client.watch("a") as watch:
        for timeout in (0, 0.01, -1):
            assert await watch.get(timeout=timeout) is None
        with pytest.raises(InvalidRequest, match="timeout must be a number of seconds"):
            await watch.get(timeout="1")  # type: ignore[arg-type]


async def test_a_watch_is_iterated_over_until_it_is_closed(
    client: AsyncClient, other: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    seen = Told[int]()

    async def follow() -> int:
        number = 0
        async with client.watch("a") as watch:
            watches.append(watch)
            seen(0)
            async for change in watch:
                seen(change.value)
                number += 1
        return number

    watches: list[object] = []
    task = Task(tasks, follow)
    assert await seen.next() == 0
    for number in (1, 2, 3):
        await other.set("a", number)
        assert await seen.next() == number
    watches[0].close()  # type: ignore[attr-defined]
    assert await task.result() == 3


async def test_who_leaves_the_loop_may_go_on(client: AsyncClient) -> None:
    async with client.watch("a") as watch:
        for number in range(4):
            await client.set("a", number)
        async for change in watch:
            if change.value == 1:
                break
        async for change in watch:
            assert change.value == 2
            break
        assert await told(watch, 1) == [("updated", "a", 3)]


async def test_several_watches_of_one_client(client: AsyncClient) -> None:
    """Each tells of its own pattern, though the broker sends every change but once."""
    patterns = ["a/b", "a/*", "**", "a/**", "a/b", "*/c"]
    watches = [await client.watch(pattern) for pattern in patterns]
    keys = ["a/b", "a/c", "a", "d/c", "end"]
    for key in keys:
        await client.set(key, 1)
    found = [[key for _, key, _ in await told(watches[2], 5)]]
    for watch in watches:
        found.append([])
        while (change := await watch.get(timeout=0)) is not None:
            found[-1].append(change.key)
        watch.close()
    assert found == [
        keys, ["a/b"], ["a/b", "a/c"], [], ["a/b", "a/c", "a"], ["a/b"], ["a/c", "d/c"],
    ]  # fmt: skip


async def test_several_who_take_from_one_watch(
    client: AsyncClient, tasks: anyio.abc.TaskGroup
) -> None:
    """Each change goes to one of them."""
    async with client.watch("a") as watch:
        taking = [Task(tasks, partial(watch.get, timeout=PATIENCE)) for _ in range(5)]
        for number in range(5):
            await client.set("a", number)
        found = [await each.result() for each in taking]
    assert sorted(change.value for change in found if change is not None) == [0, 1, 2, 3, 4]


# --- where it begins ----------------------------------------------------------------------------


async def test_from_revision(client: AsyncClient) -> None:
    revision = await client.set("a", 1)
    await client.set("b", 1)
    await client.set("a", 2)
    await client.delete("a")
    async with client.watch("a", from_revision=revision) as watch:
        await client.set("a", 3)
        assert [change.revision - revision for change in await take(watch, 3)] == [2, 3, 4]
    async with client.watch("a", from_revision=revision - 1) as watch:
        assert [value for _, _, value in await told(watch, 4)] == [1, 2, None, 3]
    async with client.watch("a", from_revision=await client.revision() + 100) as watch:
        assert await told(watch, 1) == [("present", "a", 3)]
        assert watch.started_over == 1


async def test_initial_tells_what_is_there_first(client: AsyncClient) -> None:
    values = {f"a/{number:04}": number for number in range(2_500)}
    revision = await client.set_many(values)
    async with client.watch("a/*", initial=True) as watch:
        await client.set("a/0001", "new")
        changes = await take(watch, 2_502)
        assert await watch.get(timeout=0) is None
    assert changes == [
        *[Change(revision, "present", key, value) for key, value in values.items()],
        CaughtUp(revision),
        Change(revision + 1, "updated", "a/0001", "new"),
    ]


async def test_conflate_keeps_the_newest_of_each_key(client: AsyncClient) -> None:
    async with client.watch("a/*", conflate=True) as watch, client.watch("a/*") as other:
        for number in range(100):
            await client.set(f"a/{number % 3}", number)
        await client.delete("a/0")
        await take(other, 101)

        async def told_last() -> bool:
            return watch.skipped == 98

        await until(told_last, "the newest of each key")
        assert watch.waiting == 3
        assert [change[1:] for change in await told(watch, 3)] == [
            ("a/1", 97),
            ("a/2", 98),
            ("a/0", None),
        ]
        await client.set("a/1", "again")
        assert await told(watch, 1) == [("updated", "a/1", "again")]
    assert (other.skipped, watch.skipped) == (0, 98)


# --- more, or less ------------------------------------------------------------------------------


async def test_less_than_everything(client: AsyncClient, other: AsyncClient) -> None:
    async with client.watch("a", kinds=["created", "deleted"], ignore_own=True) as watch:
        await client.set("a", 1)
        await other.delete("a")
        await other.set("a", 2)
        await other.set("a", 3)
        await client.delete("a")
        await other.set("a", 4)
        assert await told(watch, 3) == [
            ("deleted", "a", None),
            ("created", "a", 2),
            ("created", "a", 4),
        ]
        assert await watch.get(timeout=0) is None


async def test_what_was_there_before(client: AsyncClient) -> None:
    async with client.watch("a", previous=True) as watch, client.watch("a") as plain:
        await client.set("a", 1)
        await client.set("a", [2])
        await client.delete("a")
        assert [change.previous for change in await take(watch, 3)] == [None, 1, [2]]
        assert [change.previous for change in await take(plain, 3)] == [None] * 3


async def test_all_changes_of_a_revision_together(client: AsyncClient, other: AsyncClient) -> None:
    await other.set_many({"a/1": 1, "a/2": 2})
    async with client.watch("a/*", initial=True) as watch:
        state = await watch.get_transaction(PATIENCE)
        assert [each[1:4] for each in state] == [("present", "a/1", 1), ("present", "a/2", 2)]
        assert [type(each) for each in await watch.get_transaction()] == [CaughtUp]
        revision = await other.set_many({"a/1": 3, "a/2": 4})
        assert await watch.get_transaction(timeout=PATIENCE) == [
            Change(revision, "updated", "a/1", 3),
            Change(revision, "updated", "a/2", 4),
        ]
        assert await watch.get_transaction(timeout=0) == []
    assert await watch.get_transaction() == []


async def test_strict_says_what_was_missed_before_it_goes_on(client: AsyncClient) -> None:
    since = await client.set("a", 1)
    for _ in range(2):
        async with client.pipeline() as p:
            for number in range(9_000):
                p.set("elsewhere", number)
    async with client.watch("a", from_revision=since - 1, strict=True) as watch:
        with pytest.raises(MissedChanges) as missed:
            await watch.get(timeout=PATIENCE)
        assert missed.value.details["after_revision"] == since - 1
        assert await told(watch, 1) == [("present", "a", 1)]
        assert watch.started_over == 1


async def test_the_state_of_a_watch(connect: Connect) -> None:
    async with connect() as brief:
        watch = await brief.watch("a")
        states: list[str] = [watch.state]
    states.append(watch.state)
    assert states == ["live", "closed"]


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watch", "word"),
    [
        (lambda client: client.watch("a//b"), "empty segment"),
        (lambda client: client.watch("a/b*"), "pattern"),
        (lambda client: client.watch("a", from_revision=-1), "from_revision"),
        (lambda client: client.watch("a", from_revision=True), "from_revision"),
        (lambda client: client.watch("a", from_revision=2**70), "from_revision|cannot be"),
        (lambda client: client.watch("a", from_revision=1, initial=True), "or from a revision"),
        (lambda client: client.watch("a", kinds=["gone"]), "kind"),
        (lambda client: client.watch("a", kinds="created"), "kind"),
    ],
)
async def test_what_cannot_be_watched(
    client: AsyncClient, watch: Callable[[AsyncClient], object], word: str
) -> None:
    with pytest.raises(InvalidRequest, match=word):
        await watch(client)  # type: ignore[misc]
    assert (await client.info())["watches"] == 0
    async with client.watch("a") as good:
        await client.set("a", 1)
        assert await told(good, 1) == [("created", "a", 1)]


async def test_a_value_that_cannot_be_read(client: AsyncClient) -> None:
    async with client.watch("**") as watch:
        with RawClient(client.address) as raw:
            raw.call("set", "bad", b"\xc1")
        await client.set("good", 1)
        with pytest.raises(UnsupportedValue):
            await watch.get(timeout=PATIENCE)
        assert await told(watch, 1) == [("created", "good", 1)]


# --- the end ------------------------------------------------------------------------------------


async def test_the_broker_forgets_what_is_closed(client: AsyncClient) -> None:
    async def none_left() -> bool:
        found: int = (await client.info())["watches"]
        return found == 0

    async with client.watch("a"), client.watch("b"):
        assert (await client.info())["watches"] == 2
    await until(none_left, "the broker to forget them")


async def test_closing_wakes_who_waits(client: AsyncClient, tasks: anyio.abc.TaskGroup) -> None:
    watch = await client.watch("never")
    task = Task(tasks, watch.get)
    await anyio.sleep(0.01)
    assert not task.done
    watch.close()
    assert await task.result() is None


async def test_a_watch_ends_with_its_client(connect: Connect, tasks: anyio.abc.TaskGroup) -> None:
    async with connect() as brief:
        watch = await brief.watch("never")
        task = Task(tasks, watch.get)
    assert watch.closed
    assert await task.result() is None
    assert [change async for change in watch] == []


# --- functions that are called ------------------------------------------------------------------


async def test_on_change_as_a_decorator(client: AsyncClient) -> None:
    calls = Told[Change]()

    @client.on_change("a/*")
    def function(change: Change) -> None:
        calls(change)

    @client.on_change("b", initial=True)
    def another(change: Change) -> None:
        calls(change)

    assert function.__name__ == "function"

    async def begun() -> bool:
        found: int = (await client.info())["watches"]
        return found == 2

    await until(begun, "both to begin")
    revision = await client.set("a/b", 1)
    assert await calls.next() == Change(revision, "created", "a/b", 1)
    await client.delete("a/b")
    assert await calls.next() == Change(revision + 1, "deleted", "a/b", None)
    await client.set("b", 1)
    assert await calls.next() == Change(revision + 2, "created", "b", 1)


async def test_on_change_with_a_function(client: AsyncClient) -> None:
    calls = Told[Change]()
    revision = await client.set("a", 0)
    watch = client.on_change("a", calls, initial=True)
    assert await calls.next() == Change(revision, "present", "a", 0)
    await client.set("a", 1)
    assert await calls.next() == Change(revision + 1, "updated", "a", 1)
    watch.close()
    await client.set("a", 2)
    await client.on_change("b", function=calls)
    await client.set("b", 3)
    assert (await calls.next()).key == "b"


async def test_on_change_goes_on_after_an_exception(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Told[Change]()

    def function(change: Change) -> None:
        calls(change)
        raise ZeroDivisionError(change.value)

    async def both_logged() -> bool:
        return len(caplog.records) == 2

    await client.on_change("a", function)
    for number in (1, 2):
        await client.set("a", number)
        assert (await calls.next()).value == number
    await until(both_logged, "both to be logged")
    assert "on_change('a'): " in caplog.text
    assert "failed; it is called for the next all the same" in caplog.text
    assert "ZeroDivisionError: 2\n" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_on_change_refuses_what_is_wrong(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match="calls a function, not int"):
        client.on_change("a", 5)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="empty segment"):
        client.on_change("a//b", print)

"""What a watch of the async client tells on request: the same as that of the sync one."""

from __future__ import annotations

import pytest

from tests.client.support import PATIENCE, FakeBroker
from tests.harness import BrokerProcess, RawClient
from udsbus import AsyncClient, CaughtUp, Change, MissedChanges, UnsupportedValue, connect_async

pytestmark = pytest.mark.anyio


async def test_the_state_then_caught_up_then_transactions(
    client: AsyncClient, other: AsyncClient
) -> None:
    await other.set_many({"a/1": 1, "a/2": 2})
    async with client.watch("a/*", initial=True, previous=True) as watch:
        assert watch.state == "live"
        state = await watch.get_transaction(PATIENCE)
        assert [each.kind for each in state if isinstance(each, Change)] == ["present"] * 2
        (caught_up,) = await watch.get_transaction(PATIENCE)
        assert isinstance(caught_up, CaughtUp)
        revision = await other.set_many({"a/1": 3, "a/2": 4})
        assert await watch.get_transaction(PATIENCE) == [
            Change(revision, "updated", "a/1", 3, 1), Change(revision, "updated", "a/2", 4, 2),
        ]  # fmt: skip
        assert await watch.get_transaction(timeout=0) == []
    assert await watch.get_transaction() == []


async def test_less_than_everything(client: AsyncClient, other: AsyncClient) -> None:
    async with client.watch("a", kinds=["created", "deleted"], ignore_own=True) as watch:
        await client.set("a", 1)
        await other.delete("a")
        await other.set("a", 2)
        await other.set("a", 3)
        await client.delete("a")
        await other.set("a", 4)
        found = [await watch.get(PATIENCE) for _ in range(3)]
        assert [(each.kind, each.value) for each in found if each is not None] == [
            ("deleted", None), ("created", 2), ("created", 4),
        ]  # fmt: skip
        assert await watch.get(timeout=0) is None


async def test_what_was_missed(client: AsyncClient, other: AsyncClient) -> None:
    since = await other.set("a", 1)
    for _ in range(2):
        async with other.pipeline() as p:
            for number in range(9_000):
                p.set("elsewhere", number)
    async with client.watch("a", from_revision=since - 1, strict=True) as watch:
        with pytest.raises(MissedChanges) as missed:
            await watch.get(PATIENCE)
        assert missed.value.details["after_revision"] == since - 1
        change = await watch.get(PATIENCE)
        assert change is not None
        assert (change.kind, watch.started_over) == ("present", 1)


async def test_an_unreadable_value_takes_no_other_along(
    client: AsyncClient, broker: BrokerProcess
) -> None:
    async with client.watch("a/*") as watch:
        with RawClient(broker.address) as raw:
            raw.call("set_many", {"a/1": b"\x01", "a/2": b"\xc1"})
        with pytest.raises(UnsupportedValue):
            await watch.get_transaction(PATIENCE)
        assert [change.key for change in await watch.get_transaction(PATIENCE)] == ["a/1"]


async def test_functions_get_changes_only(client: AsyncClient, other: AsyncClient) -> None:
    await other.set("a", 1)
    called: list[object] = []
    async with client.watch("a") as watch:
        await client.on_change("a", called.append, initial=True)
        await other.set("a", 2)
        await watch.get(PATIENCE)
        while len(called) < 2:
            await client.ping()
    assert [type(each) for each in called] == [Change, Change]


async def test_its_state(address: str) -> None:
    def answer(method: str, params: list[object]) -> object:
        return [1, 5, []]

    with FakeBroker(address, answer) as broker:
        async with connect_async(address, timeout=PATIENCE) as client:
            watch = client.watch("a")
            states: list[str] = [watch.state]
            async with watch:
                states.append(watch.state)
                broker.accepting.clear()
                broker.hang_up()
                while watch.state == "live":
                    await watch.get(timeout=0.001)
                states.append(watch.state)
                broker.accepting.set()
                while str(watch.state) != "live":
                    await watch.get(timeout=0.001)
            states.append(watch.state)
    assert states == ["starting", "live", "interrupted", "closed"]

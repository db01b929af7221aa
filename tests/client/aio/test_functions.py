"""Functions that an async client calls may be async."""

from __future__ import annotations

import anyio
import pytest

from tests.client.support import PATIENCE
from udsbus import AsyncClient

pytestmark = pytest.mark.anyio


async def test_the_predicate_of_a_condition(client: AsyncClient, other: AsyncClient) -> None:
    """It mostly asks the bus."""
    found = []
    async with anyio.create_task_group() as tasks:

        async def waits() -> None:
            condition = client.condition("c")
            async with condition:
                found.append(await condition.wait_for(lambda: client.get("items"), PATIENCE))

        tasks.start_soon(waits)
        while not await other.keys("conditions/c/*"):
            await anyio.sleep(0)
        async with other.condition("c") as _:
            await other.set("items", 3)
            await other.condition("c").notify()
    assert found == [3]
    async with client.condition("c") as _:
        assert await client.condition("c").wait_for(lambda: 5) == 5


async def test_the_action_of_a_barrier(client: AsyncClient) -> None:
    """It is over before any of them goes on."""
    done: list[str] = []

    async def act() -> None:
        await client.ping()
        done.append("action")

    async with anyio.create_task_group() as tasks:

        async def waits(name: str) -> None:
            await client.barrier("b", 2, act).wait(PATIENCE)
            done.append(name)

        tasks.start_soon(waits, "a")
        tasks.start_soon(waits, "b")
    assert sorted(done[1:]) == ["a", "b"]
    assert done[0] == "action"

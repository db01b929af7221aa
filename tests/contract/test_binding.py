"""`bind`: an object that has the newest good value of a key."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from udsbus import AsyncClient, Conflict, InvalidRequest, SchemaViolation

from .support import Told, until

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Config:
    workers: int
    name: str = "app"


async def until_watched(client: AsyncClient, number: int) -> None:
    async def watched() -> bool:
        found: int = (await client.info())["watches"]
        return found == number

    await until(watched, f"{number} watches")


async def test_it_follows_what_is_good(
    client: AsyncClient, other: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    first = await client.set("config", {"workers": 3})
    bound = await client.bind(key="config", into=Config)
    heard = Told[Config]()

    @bound.on_change
    def changed(value: Config) -> None:
        heard(value)

    assert (bound.value, bound.revision, bound.key) == (Config(3), first, "config")
    await other.set("config", {"workers": 4, "name": "other"})
    value = await heard.next()
    assert value == Config(4, "other")
    assert bound.value is value
    with caplog.at_level(logging.CRITICAL):
        await other.set("config", {"workers": "many"})
        await until(lambda: has_error(bound), "it to be told of")
        assert isinstance(bound.error, SchemaViolation)
        assert bound.value is value
    await other.set("config", {"workers": 5})
    assert await heard.next() == Config(5)
    assert bound.error is None
    with pytest.raises(InvalidRequest, match="calls a function"):
        bound.on_change(function=7)


async def has_error(bound: Any) -> bool:
    return bound.error is not None


async def test_a_key_that_comes_and_goes(client: AsyncClient, other: AsyncClient) -> None:
    with pytest.raises(Conflict, match="no 'limit' now, and it has no default"):
        await client.bind("limit")
    await until_watched(client, 0)
    heard = Told[object]()
    bound = await client.bind("limit", default=1)
    bound.on_change(heard)
    assert (bound.value, bound.revision) == (1, 0)
    await other.set("limit", 2)
    assert await heard.next() == 2
    await other.delete("limit")
    assert await heard.next() == 1, "the default again"


async def test_a_function_that_fails(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await client.set("limit", 1)
    bound = await client.bind("limit")
    heard = Told[object]()
    bound.on_change(lambda value: 1 // 0)
    bound.on_change(heard)
    await client.set("limit", 2)
    assert await heard.next() == 2
    assert "which is called when 'limit' changes" in caplog.text


async def test_what_cannot_be_bound(client: AsyncClient) -> None:
    await client.set("a", {"workers": "many"})
    with pytest.raises(SchemaViolation, match="workers: Input should be"):
        await client.bind("a", into=Config)
    for key in ("a/*", ""):
        with pytest.raises(InvalidRequest):
            await client.bind(key)
    with pytest.raises(InvalidRequest, match="bound into 7"):
        await client.bind("a", into=7)
    with pytest.raises(InvalidRequest, match="into is a type"):
        await client.bind("a", into="Config")
    await until_watched(client, 0)


async def test_its_end(client: AsyncClient) -> None:
    await client.set("limit", 1)
    async with await client.bind("limit") as bound:
        await until_watched(client, 1)
    await until_watched(client, 0)
    await client.set("limit", 2)
    assert bound.value == 1
    bound = await client.bind("limit")
    bound.close()
    bound.close()
    await until_watched(client, 0)
    assert bound.value == 2

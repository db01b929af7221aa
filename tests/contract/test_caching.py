"""What was read is not asked for again while it is still so."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.harness import BrokerProcess
from udsbus import AsyncClient, CacheInfo, InvalidRequest, UnsupportedValue

from .conftest import Connect
from .support import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the version page needs Linux"),
]


class Asked:
    """How many requests the broker has had but for those that count."""

    def __init__(self, bus: BrokerProcess) -> None:
        self._client = bus.connect()
        self._before = self._requests()

    def since(self) -> int:
        """Since this was asked last."""
        before, self._before = self._before, self._requests()
        return self._before - before - 1

    def _requests(self) -> int:
        requests: int = self._client.call("info")["counters"]["requests"]
        return requests

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def asked(client: AsyncClient, bus: BrokerProcess) -> Any:
    asked = Asked(bus)
    yield asked
    asked.close()


def reads(client: AsyncClient, key: str) -> list[Callable[[], Awaitable[Any]]]:
    """All that can be read of a key."""
    return [
        lambda: client.get(key),
        lambda: client.entry(key),
        lambda: client.exists(key),
        lambda: client.get_many([key, key]),
    ]


@pytest.mark.parametrize("value", ["text", 7, b"\x00", None, 1.5, [1, {"a": ()}], (1, [2]), {1}])
async def test_what_was_read_is_not_asked_for_again(
    client: AsyncClient, asked: Asked, value: object
) -> None:
    await client.set("a", value)
    first = [await read() for read in reads(client, "a")]
    asked.since()
    for _ in range(100):
        assert [await read() for read in reads(client, "a")] == first
    assert first[0] == value
    assert asked.since() == 0
    assert await client.get("a", fresh=True) == value
    assert await client.entry("a", fresh=True) == first[1]
    assert await client.exists("a", fresh=True)
    assert await client.get_many(["a"], fresh=True) == {"a": value}
    assert asked.since() == 4


async def test_what_is_absent_is_not_asked_for_again_either(
    client: AsyncClient, other: AsyncClient, asked: Asked
) -> None:
    assert await client.get("a", 1) == 1
    asked.since()
    assert await client.get("a", 2) == 2
    assert [await read() for read in reads(client, "a")] == [None, None, False, {}]
    assert asked.since() == 0
    await other.set("a", None)
    assert await client.get("a", 2) is None
    assert await client.exists("a")
    await other.delete("a")
    assert [await read() for read in reads(client, "a")] == [None, None, False, {}]


async def test_a_change_is_seen_by_the_next_read(client: AsyncClient, other: AsyncClient) -> None:
    for number in range(300):
        revision = await other.set("a", number)
        which = number % 4
        if which == 0:
            assert await client.get("a") == number
        elif which == 1:
            assert await client.entry("a") == (number, revision, None)
        elif which == 2:
            assert await client.get_many(["b", "a"]) == {"a": number}
        else:
            await other.delete("a")
            assert not await client.exists("a")
        assert await client.revision() == await other.revision()


async def test_what_others_write_all_the_time_is_not_asked_for(
    client: AsyncClient, other: AsyncClient
) -> None:
    """Once a client has asked for a key, its next changes are in the page."""
    assert await client.get("a") is None
    for number in range(50):
        for value in (number, [number], "x" * 100, None, (1, "a")):
            revision = await other.set("a", value)
            assert await client.get("a") == value
            assert await client.entry("a") == (value, revision, None)
            assert await client.get_many(["a"]) == {"a": value}
        await other.delete("a")
        assert not await client.exists("a")
        assert await client.get("a", "absent") == "absent"
    assert client.cache_info().misses == 2, "300 changes, and after 256 it has to be asked for"


async def test_what_is_not_in_the_page_is_asked_for(
    client: AsyncClient, other: AsyncClient
) -> None:
    for value in ("x" * 1_000, 1, "x" * 250, 2):
        await client.get("a")
        await other.set("a", value)
        assert await client.get("a") == value
    for key in ("k" * 200, "k" * 300, "\N{SNOWMAN}" * 50):
        await client.get(key)
        await other.set(key, "value of 16 bytes")
        assert await client.get(key) == "value of 16 bytes"
    await other.set("a", 3, ttl=100)
    entry = await client.entry("a")
    assert entry is not None
    assert entry.ttl is not None
    await other.set("a", 4)
    assert (await client.entry("a"))[::2] == (4, None)  # type: ignore[index]
    async with other.pipeline() as pipeline:  # all in one turn of the broker
        pipeline.set("a", 5)
        pipeline.expire("a", 100)
    entry = await client.entry("a")
    assert entry is not None
    assert entry.value == 5
    assert entry.ttl is not None
    async with other.pipeline() as pipeline:
        for number in range(10):
            pipeline.set("a", number)
    assert await client.get("a") == 9


async def test_whatever_changes_it(client: AsyncClient, other: AsyncClient) -> None:
    async def is_now(value: object) -> None:
        assert await client.get("a") == value
        assert await client.get("a") == value, "which was remembered"

    await is_now(None)
    await client.set("a", 1)
    await is_now(1)
    await other.increment("a")
    await is_now(2)
    await other.set_many({"a": 3, "b": 3})
    await is_now(3)
    async with other.transaction() as transaction:
        transaction.set("a", 4)
        transaction.delete("b")
    await is_now(4)
    async with other.pipeline() as pipeline:
        pipeline.set("a", 5)
    await is_now(5)
    await other.update("a", lambda value: value + 1)
    await is_now(6)
    assert await client.update("a", lambda value: value + 1) == 7
    await is_now(7)
    assert await other.rate_limiter("limit", 1).acquire(timeout=0)
    mapping = client.mapping("m")
    assert await mapping.get("k") is None
    await other.set(mapping.bus_key("k"), [1])
    assert await mapping.get("k") == [1]


async def test_what_was_read_can_be_changed(client: AsyncClient) -> None:
    await client.set("a", {"list": [1]})
    for _ in range(3):
        value = await client.get("a")
        assert value == {"list": [1]}
        value["list"].append(2)
        entry = await client.entry("a")
        assert entry is not None
        entry.value.clear()
        (await client.get_many(["a"]))["a"].clear()


async def test_a_time_to_live(client: AsyncClient, other: AsyncClient, asked: Asked) -> None:
    await other.set("a", 1, ttl=100)
    await client.get("a")
    asked.since()
    assert [await client.get("a"), await client.exists("a")] == [1, True]
    entry = await client.entry("a")
    assert entry is not None
    assert entry.ttl is not None
    assert 99 < entry.ttl <= 100
    assert asked.since() == 0
    await other.expire("a", 50)
    entry = await client.entry("a")
    assert entry is not None
    assert entry.ttl is not None
    assert entry.ttl <= 50
    await other.persist("a")
    assert await client.entry("a") == (1, entry.revision, None)
    await other.expire("a", 0.05)
    assert await client.get("a") in (1, None)

    async def gone() -> bool:
        return await client.get("a") is None

    await until(gone, "it to expire")
    assert await client.get("a", fresh=True) is None
    assert not await other.exists("a")


async def test_an_ephemeral_key_goes_with_its_client(client: AsyncClient, connect: Connect) -> None:
    for _ in range(20):
        async with connect() as owner:
            await owner.set("a", 1, ephemeral=True)
            assert await client.get("a") == 1
        assert await client.get("a") is None, "closed, so it is gone"


async def test_several_at_once_are_of_one_revision(
    client: AsyncClient, other: AsyncClient, asked: Asked
) -> None:
    await other.set_many({"a": 1, "b": 1, "c": 1})
    assert await client.get_many(["a", "b", "d"]) == {"a": 1, "b": 1}
    asked.since()
    assert await client.get_many(["a", "c", "d"]) == {"a": 1, "c": 1}, "c alone was asked for"
    assert await client.get_many(iter(["c", "b", "a", "c"])) == {"c": 1, "b": 1, "a": 1}
    assert await client.get_many([]) == {}
    assert asked.since() == 2
    for number in range(200):
        await other.set_many({"a": number, "b": number})
        if number % 3:
            await client.get("a")
        found = await client.get_many(["a", "b"])
        assert found == {"a": number, "b": number}


async def test_a_value_that_nobody_can_read(client: AsyncClient, bus: BrokerProcess) -> None:
    with bus.connect() as raw:
        raw.call("set", "a", b"\xc1")
    for _ in range(2):
        assert await client.exists("a")
        with pytest.raises(UnsupportedValue):
            await client.get("a")
        with pytest.raises(UnsupportedValue):
            await client.get_many(["a"])


async def test_to_know_that_it_is_there_is_not_to_know_its_value(
    client: AsyncClient, asked: Asked
) -> None:
    await client.set("a", "x" * 100_000)
    asked.since()
    assert await client.exists("a")
    assert await client.exists("a")
    assert asked.since() == 1
    assert client.cache_info().bytes < 10_000
    assert await client.get("a") == "x" * 100_000
    assert await client.exists("a")
    assert await client.exists("a", fresh=True)
    assert await client.get("a") == "x" * 100_000, "which is still known"
    assert asked.since() == 2


@pytest.mark.parametrize("key", ["", "a//b", "*", 7, None, b"a", ["a"], {"a": 1}])
async def test_what_is_no_key_is_refused_each_time(client: AsyncClient, key: Any) -> None:
    for _ in range(2):
        for read in (client.get, client.entry, client.exists):
            with pytest.raises(InvalidRequest):
                await read(key)
        with pytest.raises(InvalidRequest):
            await client.get_many([key])


async def test_without(connect: Connect, other: AsyncClient, asked: Asked) -> None:
    async with connect(cache=False) as client:
        await other.set("a", 1)
        asked.since()
        for _ in range(3):
            assert await client.get("a") == 1
            assert await client.exists("a")
            assert await client.get_many(["a", "b"]) == {"a": 1}
            assert await client.revision() == await client.revision(), "is asked for too"
            entry = await client.entry("a")
            assert entry is not None
            assert entry.value == 1
        assert asked.since() == 18
        assert client.cache_info() == CacheInfo(0, 0, 0, 0, False)


async def test_what_it_has_done(client: AsyncClient) -> None:
    assert client.cache_info() == CacheInfo(0, 0, 0, 0, True)
    await client.set("a", "x" * 1_000)
    for _ in range(10):
        await client.get("a")
        await client.exists("b")
    info = client.cache_info()
    assert (info.hits, info.misses, info.entries) == (18, 2, 2)
    assert 1_000 < info.bytes < 5_000
    await client.set("a", [1])
    await client.get("a", fresh=True)
    assert client.cache_info().misses == 3
    assert client.cache_info().bytes < 1_000, "it is no longer so much"


async def test_after_the_end(connect: Connect) -> None:
    async with connect() as client:
        await client.set("a", 1)
        assert await client.get("a") == 1
    for read in (client.get, client.entry, client.exists):
        with pytest.raises(InvalidRequest, match="closed"):
            await read("a")
    with pytest.raises(InvalidRequest, match="closed"):
        await client.revision()

"""What the dict of the sync client and that of the async one have in common."""

from __future__ import annotations

import datetime
from functools import partial
from typing import Any

import anyio.abc
import pytest

import udsbus
from udsbus import (
    AccessDenied,
    AsyncClient,
    AsyncMapping,
    InvalidRequest,
    RequestTimeout,
    UnsupportedValue,
)
from udsbus.limits import PAGE_KEYS

from .conftest import Connect
from .support import Task, told

pytestmark = pytest.mark.anyio

KEYS: list[Any] = [
    "plain", "a/b", "", "*", "$sys", 0, -7, 1.5, True, None, b"\x00", ("t", 1), (),
    datetime.date(2026, 1, 2), "\N{SNOWMAN}", "x" * 100,
]  # fmt: skip


@pytest.fixture
async def mapping(client: AsyncClient) -> AsyncMapping:
    return client.mapping("m")


async def test_one_key(client: AsyncClient, other: AsyncClient, mapping: AsyncMapping) -> None:
    assert (mapping.name, mapping.pattern) == ("m", "m/*/**")
    assert await mapping.get("a") is None
    assert await mapping.get("a", default=5) == 5
    assert await mapping.setdefault("a", default=1) == 1
    assert await mapping.setdefault("a", 2) == 1
    assert await other.mapping("m").get("a") == 1
    assert await client.get("m/a") == 1
    assert await mapping.pop("a") == 1
    assert await mapping.pop("a", default=7) == 7
    with pytest.raises(KeyError, match="'a'"):
        await mapping.pop("a")
    assert await mapping.setdefault("none") is None
    assert await mapping.get("none", 5) is None, "which is a value"


async def test_all_of_them(client: AsyncClient, mapping: AsyncMapping) -> None:
    for empty in (mapping.keys, mapping.values, mapping.items):
        assert list(await empty()) == []
    assert await mapping.copy() == {}
    await mapping.update({"b": 2, "a": 1})
    await mapping.update([("c", 3)], d=4)
    await mapping.update()
    await client.set_many({"m": 0, "more": 0})
    assert list(await mapping.keys()) == list("abcd")
    assert list(await mapping.values()) == [1, 2, 3, 4]
    assert list(await mapping.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert [key async for key in mapping] == list("abcd")
    async for key in mapping:
        assert key == "a"
        break
    assert await mapping.copy() == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert await mapping.popitem() == ("a", 1)
    await mapping.clear()
    with pytest.raises(KeyError, match="empty"):
        await mapping.popitem()
    assert await client.keys() == ["m", "more"]


async def test_update_is_one_revision(client: AsyncClient, mapping: AsyncMapping) -> None:
    before = await client.revision()
    await mapping.update({number: number for number in range(100)})
    assert await client.revision() == before + 1


async def test_several_pages(mapping: AsyncMapping) -> None:
    values = {f"{number:05}": number for number in range(2 * PAGE_KEYS + 10)}
    await mapping.update(values)
    assert await mapping.copy() == values
    assert list(await mapping.keys()) == list(values)
    assert [key async for key in mapping] == list(values)
    await mapping.clear()
    assert list(await mapping.items()) == []


async def test_what_the_keys_may_be(
    client: AsyncClient, stranger: AsyncClient, mapping: AsyncMapping
) -> None:
    for number, key in enumerate(KEYS):
        await mapping.setdefault(key, number)
        assert await client.get(mapping.bus_key(key)) == number
        assert mapping.key_of(mapping.bus_key(key)) == key
    assert await mapping.copy() == {key: number for number, key in enumerate(KEYS)}
    assert await stranger.mapping("m").copy() == await mapping.copy()
    with pytest.raises(KeyError):
        mapping.key_of("elsewhere/a")
    for wrong in ([], {}, object()):
        for ask in (mapping.get, mapping.setdefault, mapping.pop):
            with pytest.raises(TypeError):
                await ask(wrong)
        with pytest.raises(TypeError):
            mapping.bus_key(wrong)


async def test_increment_and_change(
    client: AsyncClient, other: AsyncClient, mapping: AsyncMapping, tasks: anyio.abc.TaskGroup
) -> None:
    assert await mapping.increment("n") == 1
    assert await mapping.increment("n", by=0.5) == 1.5
    assert await mapping.change("list", lambda value: [*value, 1], default=[]) == [1]

    async def work(mine: AsyncClient, number: int) -> None:
        for _ in range(10):
            await mine.mapping("m").change("list", lambda value: [*value, number])

    for task in [Task(tasks, partial(work, mine, n)) for n, mine in enumerate((client, other) * 2)]:
        await task.result()
    found = await mapping.get("list")
    assert sorted(found) == sorted([1, *[0, 1, 2, 3] * 10])
    await mapping.setdefault("text", "text")
    with pytest.raises(InvalidRequest, match="does not hold a number"):
        await mapping.increment("text")
    with pytest.raises(ZeroDivisionError):
        await mapping.change("text", lambda value: 1 / 0)
    assert await mapping.get("text") == "text"


async def test_the_default_of_change_is_a_new_one_each_time(
    client: AsyncClient, mapping: AsyncMapping
) -> None:
    default: list[int] = []

    def appended(value: list[int]) -> list[int]:
        value.append(1)
        return value

    assert await mapping.change("a", appended, default) == [1]
    assert default == []


async def test_a_change_that_others_are_quicker_than(connect: Connect) -> None:
    async with connect(timeout=0.5) as hasty:
        with udsbus.connect(hasty.address) as quick:
            with pytest.raises(RequestTimeout, match="was not updated"):
                await hasty.mapping("m").change("a", lambda _: quick.increment("m/a") - 1)


async def test_watching_it(client: AsyncClient, mapping: AsyncMapping) -> None:
    await mapping.update({"a": 1})
    async with mapping.watch(initial=True) as watch:
        await mapping.pop("a")
        await client.set("m", 1)
        await mapping.setdefault(5, "five")
        assert await told(watch, 3) == [
            ("present", "m/a", 1),
            ("deleted", "m/a", None),
            ("created", mapping.bus_key(5), "five"),
        ]


async def test_what_is_nested_is_read_as_it_is(client: AsyncClient, mapping: AsyncMapping) -> None:
    nested = {"list": [1, {"set": {1, 2}}], "tuple": (1, [2])}
    await mapping.update({"a": nested})
    assert await mapping.get("a") == nested
    assert await mapping.setdefault("a") == nested
    assert list(await mapping.values()) == [nested]
    assert await mapping.pop("a") == nested


async def test_what_is_wrong(client: AsyncClient, mapping: AsyncMapping) -> None:
    for name in ("", "a/*", "a//b"):
        with pytest.raises(InvalidRequest):
            client.mapping(name)
    with pytest.raises(AccessDenied):
        client.mapping("$sys")
    with pytest.raises(UnsupportedValue):
        await mapping.setdefault("a", object())
    with pytest.raises(UnsupportedValue):
        await mapping.update({"good": 1, "bad": object()})
    with pytest.raises(UnsupportedValue):
        await mapping.change("a", lambda _: object())
    assert await mapping.copy() == {}

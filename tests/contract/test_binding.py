"""`bind`: an object that has the newest good value of a key."""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated, Any

import pydantic
import pytest

from tests.harness import BrokerProcess
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


def refuse(value: int) -> int:
    """What a validator, or `__post_init__`, may do wrong."""
    names: dict[str, int] = {}
    match value:
        case 1:
            return names["name"]
        case 2:
            return 1 // 0
        case 3:
            return len(value)  # type: ignore[arg-type]
        case 4:
            raise AssertionError
        case 5:
            raise Unspeakable
    return value


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyError


Refusing = Annotated[int, pydantic.AfterValidator(refuse)]
REASONS = {
    1: "KeyError: 'name'",
    2: "ZeroDivisionError: integer division or modulo by zero",
    3: "TypeError: object of type 'int' has no len()",
    4: "Assertion failed, ",  # as pydantic has it
    5: "Unspeakable",
}


@pytest.mark.parametrize("value", REASONS)
async def test_whatever_is_raised_is_a_refusal(
    client: AsyncClient, other: AsyncClient, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    reason = REASONS[value]
    first = await client.set("a", value)
    for _ in range(2):
        with pytest.raises(SchemaViolation) as raised:
            await client.bind("a", into=Refusing)
        assert raised.value.details == {"key": "a", "reason": reason}
        assert str(raised.value) == f"'a' at revision {first} is not what is bound to it: {reason}"
    bound = await client.bind("a", into=Refusing, default=10)
    assert (bound.value, bound.revision) == (10, 0)
    assert bound.error is not None
    assert bound.error.details["reason"] == reason
    heard = Told[int]()
    bound.on_change(heard)
    good = await other.set("a", 20)
    assert await heard.next() == 20
    assert bound.error is None
    await other.set("a", value)
    await until(lambda: has_error(bound), "it to be told of")
    assert bound.error.details["reason"] == reason
    assert (bound.value, bound.revision) == (20, good)
    assert {record.exc_info for record in caplog.records} == {None}, "no traceback"


async def test_bytes_that_are_no_value(
    client: AsyncClient, bus: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign client may write them."""
    with bus.connect() as raw:
        raw.call("set", "a", b"\xc1\xff")
        at = await client.revision()
        with pytest.raises(SchemaViolation) as raised:
            await client.bind("a")
        reason = raised.value.details["reason"]
        assert reason.startswith("the stored 2 bytes are no value that this version reads: ")
        assert str(raised.value) == f"'a' at revision {at} is not what is bound to it: {reason}"
        for into in (None, Config):
            bound = await client.bind("a", into=into, default="default")
            assert (bound.value, bound.revision) == ("default", 0)
            assert bound.error is not None
            assert bound.error.details["reason"] == reason
            heard = Told[object]()
            bound.on_change(heard)
            good = await client.set("a", {"workers": 1})
            value = await heard.next()
            raw.call("set", "a", b"\xc1\xff")
            await until(lambda bound=bound: has_error(bound), "it to be told of")  # type: ignore[misc]
            assert bound.error.details["reason"] == reason
            assert (bound.value, bound.revision) == (value, good)
    assert {record.exc_info for record in caplog.records} == {None}, "no traceback"

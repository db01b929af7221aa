"""`bind`: an object that has the newest good value of a key."""

from __future__ import annotations

import dataclasses
import logging
import queue
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, NotRequired, TypedDict

import anyio
import pydantic
import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until
from udsbus import Bound, Client, Conflict, InvalidRequest, SchemaViolation

from .support import PATIENCE


@dataclasses.dataclass
class AsDataclass:
    workers: int
    name: str = "app"


class AsModel(pydantic.BaseModel):
    workers: int
    name: str = "app"


class AsTypedDict(TypedDict):
    workers: int
    name: NotRequired[str]


KINDS = [AsDataclass, AsModel, AsTypedDict]


def field(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, dict) else getattr(value, name)


def nothing_is_watched(client: Client) -> None:
    wait_until(lambda: client.info()["watches"] == 0, "the watches to end")


class Heard:
    """Collects what a bound object's functions are called with."""

    def __init__(self, bound: Bound[Any]) -> None:
        self._values: queue.SimpleQueue[Any] = queue.SimpleQueue()
        bound.on_change(self._values.put)

    def next(self) -> Any:
        return self._values.get(timeout=PATIENCE)


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_what_is_good(
    client: Client, kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client.set("config", {"workers": 3})
    bound = client.bind("config", into=kind)
    heard = Heard(bound)
    assert isinstance(bound.value, dict if kind is AsTypedDict else kind)
    assert field(bound.value, "workers") == 3
    assert bound.revision == client.revision()
    client.set("config", {"workers": 4, "name": "other"})
    value = heard.next()
    assert (field(value, "workers"), field(value, "name")) == (4, "other")
    assert bound.value is value
    with caplog.at_level(logging.CRITICAL):
        client.set_many({"config": {"workers": "many"}})
        client.set("config", {"workers": 5})
        assert field(heard.next(), "workers") == 5, "the one between was passed over"
    assert bound.error is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_not_good_is_told_of(
    client: Client, kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    client.set("config", {"workers": 3})
    bound = client.bind("config", into=kind)
    good = bound.revision
    with client.watch("seen") as seen:
        client.on_change("config", lambda change: client.set("seen", True))
        bad = client.set("config", {"workers": "many"})
        assert seen.get(timeout=PATIENCE) is not None
    assert field(bound.value, "workers") == 3
    assert bound.revision == good
    assert isinstance(bound.error, SchemaViolation)
    assert str(bound.error).startswith(f"'config' at revision {bad} is not what is bound to it: ")
    assert "workers: Input should be a valid integer" in str(bound.error)
    assert bound.error.details["key"] == "config"
    assert "what it was before stays" in caplog.text


def test_without_a_form(client: Client) -> None:
    client.set("limit", 7)
    bound = client.bind("limit")
    heard = Heard(bound)
    assert bound.value == 7
    client.set("limit", [1, "x"])
    assert heard.next() == [1, "x"]


def test_a_key_that_is_not_there(client: Client) -> None:
    with pytest.raises(Conflict, match="no 'config' now, and it has no default"):
        client.bind("config", into=AsDataclass)
    nothing_is_watched(client)
    bound = client.bind("config", into=AsDataclass, default=AsDataclass(1))
    heard = Heard(bound)
    assert (bound.value, bound.revision) == (AsDataclass(1), 0)
    client.set("config", {"workers": 2})
    assert heard.next() == AsDataclass(2)
    client.delete("config")
    assert heard.next() == AsDataclass(1), "the default again"


def test_a_key_that_goes(client: Client) -> None:
    """Without a default the last value stays, and that it is not there is told."""
    client.set("limit", 7)
    bound = client.bind("limit")
    heard = Heard(bound)
    client.delete("limit")
    client.set("limit", 8)
    assert heard.next() == 8
    with client.watch("seen") as seen:
        client.on_change("limit", lambda change: client.set("seen", True))
        client.delete("limit")
        assert seen.get(timeout=PATIENCE) is not None
    assert bound.value == 8
    assert isinstance(bound.error, Conflict)


def test_what_is_there_must_be_good(client: Client) -> None:
    client.set("config", {"workers": "many"})
    with pytest.raises(SchemaViolation, match="workers: Input should be"):
        client.bind("config", into=AsModel)
    bound = client.bind("config", into=AsModel, default=AsModel(workers=1))
    assert bound.value == AsModel(workers=1)
    assert isinstance(bound.error, SchemaViolation)


@pytest.mark.parametrize(
    "wrong", [lambda c: c.bind("a/*"), lambda c: c.bind(""), lambda c: c.bind("a", into=7)]
)
def test_what_cannot_be_bound(client: Client, wrong: Callable[[Client], Any]) -> None:
    client.set("a", 1)
    with pytest.raises(InvalidRequest):
        wrong(client)
    nothing_is_watched(client)


def test_a_function_that_fails(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.set("limit", 1)
    bound = client.bind("limit")
    bound.on_change(lambda value: 1 // 0)
    heard = Heard(bound)
    client.set("limit", 2)
    assert heard.next() == 2
    assert "which is called when 'limit' changes" in caplog.text
    with pytest.raises(InvalidRequest, match="calls a function"):
        bound.on_change(7)  # type: ignore[type-var]


def test_closed(client: Client) -> None:
    client.set("limit", 1)
    with client.bind("limit") as bound:
        client.set("other", 1)
    client.set("limit", 2)
    nothing_is_watched(client)
    assert bound.value == 1


def test_without_the_extra(client: Client) -> None:
    script = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import udsbus\n"
        f"client = udsbus.connect({client.address!r})\n"
        "print(client.bind('limit', default=3).value)\n"
        "try: client.bind('limit', into=dict)\n"
        "except udsbus.MissingExtra as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "3", "bind(…, into=…) makes its objects with pydantic: pip install 'udsbus[bind]'",
    ]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async(bus: BrokerProcess, anyio_backend: str) -> None:
    async with udsbus.connect_async(bus.address) as client:
        await client.set("config", {"workers": 3})
        try:
            async with client.bind("config", into=AsDataclass) as bound:
                assert bound.value == AsDataclass(3)
                send, receive = anyio.create_memory_object_stream[AsDataclass](10)

                @bound.on_change
                async def heard(value: AsDataclass) -> None:
                    await send.send(value)

                with send, receive:
                    await client.set("config", {"workers": 4})
                    assert await receive.receive() == AsDataclass(4)
                    await client.set("config", {})
                    await client.set("config", {"workers": 5})
                    assert await receive.receive() == AsDataclass(5)
            await client.set("config", {"workers": 6})
            assert bound.value == AsDataclass(5)
            with pytest.raises(Conflict):
                await client.bind("nothing")
            assert (await client.info())["watches"] == 0, "told before it was asked"
        finally:
            await client.delete("config")


def test_a_bus_that_begins_anew(address: str) -> None:
    """Its revisions are lower, and the key may not be there for a while."""
    first = BrokerProcess(address)
    with udsbus.connect(address, timeout=PATIENCE) as client:
        for number in range(20):
            client.set("a", number)
        bound = client.bind("a", default="none")
        assert bound.value == 19
        first.kill()
        second = BrokerProcess(address)
        try:
            wait_until(lambda: bound.value == "none", "the key to be gone")
            client.set("a", "new")
            wait_until(lambda: bound.value == "new", "the change")
        finally:
            second.stop()


def test_a_change_while_the_first_value_is_checked(client: Client, bus: BrokerProcess) -> None:
    changes = iter([True])

    def check(value: int) -> int:
        if next(changes, False):
            client.set("a", 2)
            time.sleep(0.3)
        return value

    client.set("a", 1)
    bound = client.bind("a", into=Annotated[int, pydantic.AfterValidator(check)])
    wait_until(lambda: bound.value == 2, "the newest value")
    time.sleep(0.2)
    assert bound.value == 2
    bound.close()

"""The past, and rules for values."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BrokerProcess, running_broker
from udsbus import (
    AccessDenied,
    AsyncClient,
    Conflict,
    InvalidRequest,
    PastChange,
    SchemaViolation,
)

from .conftest import Connect
from .support import told

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One that has a history."""
    directory = tmp_path_factory.mktemp("bus")
    with running_broker(
        directory / "bus.sock", durability="process", state=directory / "state"
    ) as broker:
        yield broker


def seen(changes: list[PastChange]) -> list[Any]:
    return [(each.revision, each.kind, each.key, each.before, each.after) for each in changes]


# --- history ------------------------------------------------------------------------------------


async def test_what_has_changed(connect: Connect, name: str) -> None:
    """The bus has a past already: of other tests, by others."""
    async with connect(name="tester") as client:
        start = await client.revision()
        await client.set(f"{name}/a", {"x": datetime.date(2026, 5, 4)})
        await client.set_many({f"{name}/a": 2, f"{name}/b": (1, 2)})
        between = datetime.datetime.now(datetime.UTC)
        await client.delete(f"{name}/a")
        expected = [
            (start + 1, "created", f"{name}/a", None, {"x": datetime.date(2026, 5, 4)}),
            (start + 2, "updated", f"{name}/a", {"x": datetime.date(2026, 5, 4)}, 2),
            (start + 2, "created", f"{name}/b", None, (1, 2)),
            (start + 3, "deleted", f"{name}/a", 2, None),
        ]
        mine = f"{name}/**"
        assert seen(await client.history(mine)) == expected
        assert seen(await client.history(f"{name}/b")) == expected[2:3]
        assert seen(await client.history(pattern=mine, limit=2)) == expected[-2:]
        assert seen(await client.history(mine, limit=None)) == expected
        assert seen(await client.history(mine, after_revision=start + 1)) == expected[1:]
        assert seen(await client.history(mine, since=between)) == expected[3:]
        assert seen(await client.history(mine, since=between.timestamp() + 100)) == []
        assert seen(await client.history(mine, client="tester")) == expected
        assert await client.history(mine, client="nobody") == []
        for change in await client.history(mine):
            assert (change.pid, change.uid, change.client) == (os.getpid(), os.getuid(), "tester")
        with pytest.raises(InvalidRequest):
            await client.history(mine, since="yesterday")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            await client.history("a//b")


async def test_rollback(client: AsyncClient) -> None:
    await client.set_many({"c/a": 1, "c/b": 2, "other": 1})
    then = await client.revision()
    await client.set("c/a", 10)
    await client.delete("c/b")
    await client.set("c/new", 3)
    await client.set("other", 2)
    last = await client.revision()
    assert await client.rollback("c/**", revision=then) == 3
    assert dict(await client.items()) == {"c/a": 1, "c/b": 2, "other": 2}
    assert await client.revision() == last + 1, "at once"
    assert await client.rollback("c/**", revision=then) == 0
    assert await client.revision() == last + 1
    assert await client.rollback("c/**", revision=last) == 3, "and it can be taken back"
    assert dict(await client.items()) == {"c/a": 10, "c/new": 3, "other": 2}


async def test_rollback_to_a_time(client: AsyncClient) -> None:
    await client.set("a", 1)
    between = datetime.datetime.now(datetime.UTC)
    await client.set("a", 2)
    assert await client.rollback("a", time=between) == 1
    assert await client.get("a") == 1
    assert await client.rollback("a", time=between.timestamp() - 1_000) == 1
    assert await client.get("a") is None


async def test_a_rollback_needs_one_aim(client: AsyncClient) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "either"),
        ({"revision": 1, "time": 1.0}, "either"),
        ({"revision": -1}, "revision must be"),
        ({"revision": 2**60}, "has not been yet"),
    ]
    for arguments, word in wrong:
        with pytest.raises(InvalidRequest, match=word):
            await client.rollback("a", **arguments)


async def test_a_snapshot(client: AsyncClient, tmp_path: Path) -> None:
    revision = await client.set("a", 1)
    path = tmp_path / "snapshot.db"
    assert await client.snapshot(path) == revision
    assert path.stat().st_size > 0
    with pytest.raises(Conflict):
        await client.snapshot(path)
    with pytest.raises(AccessDenied):
        await client.snapshot("/proc/nowhere/snapshot.db")


async def test_without_a_history(connect: Connect, address: str) -> None:
    with running_broker(address):
        async with connect(address) as client:
            for ask in (
                client.history("a"),
                client.rollback("a", revision=0),
                client.snapshot(f"{address}.db"),
            ):
                with pytest.raises(Conflict, match="keeps no history"):
                    await ask


# --- rules --------------------------------------------------------------------------------------

PORT = {"type": "object", "properties": {"port": {"type": "integer"}}}


async def test_whoever_writes_and_however(client: AsyncClient, other: AsyncClient) -> None:
    assert await client.schemas() == {}
    async with client.watch("$sys/schemas/**") as watch:
        revision = await client.set_schema("web/*", PORT)
        assert await client.set_schema(pattern="web/*", schema=PORT) == revision
        assert await told(watch, 1) == [("created", "$sys/schemas/web/*", PORT)]
    await client.set("web/a", {"port": 80})
    bad = {"port": "80"}
    with pytest.raises(SchemaViolation, match="at /port") as caught:
        await other.set("web/a", bad)
    assert caught.value.details["path"] == "/port"
    with pytest.raises(SchemaViolation):
        await other.set_many({"other": 1, "web/a": bad})
    with pytest.raises(SchemaViolation):
        await other.update("web/a", lambda _: bad)
    with pytest.raises(SchemaViolation):
        await other.increment("web/count")
    with pytest.raises(SchemaViolation):
        async with other.transaction() as transaction:
            transaction.set("other", 1)
            transaction.set("web/a", bad)
    with pytest.raises(SchemaViolation):
        async with other.pipeline() as pipeline:
            pipeline.set("web/a", bad)
            pipeline.set("third", 1)
    assert dict(await client.items()) == {"web/a": {"port": 80}, "third": 1}
    assert await other.schemas() == {"web/*": PORT}
    await client.set_schema("web/*", None)
    assert await client.schemas() == {}
    await client.set("web/a", "anything")


async def test_what_does_not_match_already(client: AsyncClient) -> None:
    async with client.pipeline() as pipeline:
        for number in range(1_200):
            pipeline.set(f"web/{number:04}", {"port": number if number % 1000 else "no"})
    found = await client.violations("web/*", schema=PORT)
    assert [one.details["key"] for one in found] == ["web/0000", "web/1000"]
    assert found[0].details["path"] == "/port"
    with pytest.raises(Conflict, match="no schema"):
        await client.violations("web/*")
    await client.set_schema("web/*", PORT)
    assert len(await client.violations("web/*")) == 2
    with pytest.raises(InvalidRequest):
        await client.set_schema("web/*", {"type": "nothing"})
    with pytest.raises(InvalidRequest):
        await client.set_schema("web//*", PORT)

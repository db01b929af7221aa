"""`set_schema`: what it keeps out, and that it stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from tests.pairs import Pair
from udsbus import Conflict, MissingExtra, SchemaViolation

from .support import PATIENCE

PORT = {"type": "object", "properties": {"port": {"type": "integer"}}}


@pytest.fixture
def kept(address: str, runtime: Path) -> Iterator[BrokerProcess]:
    with running_broker(address, durability="process", state=runtime / "state") as broker:
        yield broker


def ways_to_write(client: udsbus.Client, value: Any) -> None:
    """Each of them refused."""
    with pytest.raises(SchemaViolation):
        client.set("web/a", value)
    with pytest.raises(SchemaViolation):
        client.set_many({"other": 1, "web/a": value})
    with pytest.raises(SchemaViolation):
        client.update("web/a", lambda _: value)
    with pytest.raises(SchemaViolation):
        with client.transaction() as transaction:
            transaction.set("other", 1)
            transaction.set("web/a", value)
    with pytest.raises(SchemaViolation):
        with client.pipeline() as pipeline:
            pipeline.set("web/a", value)
            pipeline.set("third", 1)
    assert client.get("third") == 1
    assert client.get("other") is None


def test_whoever_writes_and_however(kept: BrokerProcess) -> None:
    with udsbus.connect(kept.address) as client, udsbus.connect(kept.address) as other:
        client.set_schema("web/*", PORT)
        client.set("web/a", {"port": 80})
        ways_to_write(other, {"port": "80"})
        assert other.get("web/a") == {"port": 80}
        with pytest.raises(SchemaViolation, match="at /port") as caught:
            other.set("web/a", {"port": "80"})
        assert caught.value.details["path"] == "/port"
        with pytest.raises(SchemaViolation):
            other.increment("web/count")


def test_looking_at_them(kept: BrokerProcess) -> None:
    with udsbus.connect(kept.address) as client:
        assert client.schemas() == {}
        with client.watch("$sys/schemas/**") as watch:
            revision = client.set_schema("web/*", PORT)
            assert client.set_schema("web/*", PORT) == revision
            client.set_schema("**", True)
            change = watch.get(timeout=PATIENCE)
        assert change is not None
        assert (change.key, change.value) == ("$sys/schemas/web/*", PORT)
        assert client.schemas() == {"web/*": PORT, "**": True}
        assert client.keys() == []
        (past, _) = client.history("$sys/schemas/**")
        assert (past.pid, past.after) == (os.getpid(), PORT)
        client.set_schema("web/*", None)
        assert client.schemas() == {"**": True}
        client.set("web/a", "anything")


def test_what_does_not_match_already(kept: BrokerProcess) -> None:
    with udsbus.connect(kept.address) as client:
        with client.pipeline() as pipeline:
            for number in range(2_500):
                pipeline.set(f"web/{number:04}", {"port": number if number % 1000 else "no"})
        found = client.violations("web/*", PORT)
        assert [one.details["key"] for one in found] == ["web/0000", "web/1000", "web/2000"]
        assert found[0].details["path"] == "/port"
        with pytest.raises(Conflict, match="no schema"):
            client.violations("web/*")
        client.set_schema("web/*", PORT)
        client.set_schema("web/1000", False)
        assert len(client.violations("web/*")) == 3


def test_they_survive_every_end_of_the_broker(address: str, runtime: Path) -> None:
    pair = Pair(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as client:
            client.set_schema("web/*", PORT)
            pid, _ = pair.ready(client)
            os.kill(pid, signal.SIGKILL)
            ways_to_write(client, {"port": "80"})
            assert client.info()["pid"] != pid
            client.snapshot(runtime / "snapshot.db")
    finally:
        pair.close()
    with running_broker(address, durability="process", state=runtime / "state"):
        with udsbus.connect(address) as client:
            ways_to_write(client, {"port": "80"})
    with running_broker(
        address, durability="process", state=runtime / "new", snapshot=runtime / "snapshot.db"
    ):
        with udsbus.connect(address) as client:
            ways_to_write(client, {"port": "80"})


def test_a_broker_without_the_package(address: str, runtime: Path) -> None:
    state = runtime / "state"
    with running_broker(address, durability="process", state=state):
        with udsbus.connect(address) as client:
            client.set("web/a", {"port": 80})
            client.set_schema("web/*", PORT)
    hiding = runtime / "hiding"
    hiding.mkdir()
    (hiding / "jsonschema_rs.py").write_text("raise ImportError")
    environ = os.environ | {"PYTHONPATH": str(hiding)}
    with running_broker(address, durability="process", state=state, env=environ) as broker:
        with udsbus.connect(address) as client:
            assert client.get("web/a") == {"port": 80}
            client.set("other", 1)
            with pytest.raises(MissingExtra, match=r"pip install 'udsbus\[schema\]'") as caught:
                client.set("web/a", {"port": 81})
            assert caught.value.details == {"extra": "schema"}
            with pytest.raises(MissingExtra):
                client.set_schema("more", PORT)
            assert client.schemas() == {"web/*": PORT}
        wait_until(lambda: "what matches 'web/*' cannot be written" in broker.log(), "the reason")

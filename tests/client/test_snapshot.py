"""All that a bus holds at one revision, in one file, and a bus that begins with it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from tests.pairs import Pair
from udsbus import AccessDenied, Client, Conflict
from udsbus.journal.folding import fold
from udsbus.wire.values import decode

from .support import Child


@pytest.fixture
def state(runtime: Path) -> Path:
    return runtime / "state"


@pytest.fixture
def broker(address: str, state: Path) -> Iterator[BrokerProcess]:
    with running_broker(address, durability="process", state=state) as broker:
        yield broker


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    with udsbus.connect(broker.address) as client:
        yield client


def contents(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path) as database:
        found = database.execute("select key, value from entries").fetchall()
    database.close()
    return {key: decode(value) for key, value in found}


def test_it_holds_everything_whether_folded_or_not(
    broker: BrokerProcess, client: Client, address: str, state: Path, runtime: Path
) -> None:
    assert client.snapshot(runtime / "empty.db") == 1  # that the client came
    client.set_many({"a": 1, "b/c": (1, 2), "gone": 3})
    assert client.snapshot(runtime / "tail.db") == 2
    client.delete("gone")
    broker.kill()
    with running_broker(address, durability="process", state=state):
        fold(str(state))
        client.set("d", "after")
        assert client.snapshot(runtime / "both.db") == 4
    assert contents(runtime / "empty.db") == {}
    assert contents(runtime / "tail.db") == {"a": 1, "b/c": (1, 2), "gone": 3}
    assert contents(runtime / "both.db") == {"a": 1, "b/c": (1, 2), "d": "after"}
    assert (runtime / "both.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in runtime.glob("*.db*")) == ["both.db", "empty.db", "tail.db"]


def test_a_bus_that_begins_with_one(
    broker: BrokerProcess, client: Client, state: Path, runtime: Path
) -> None:
    client.set("a", {1, 2})
    client.set("lease", 1, ttl=1000)
    client.set("a", {3})
    snapshot = runtime / "snapshot.db"
    client.snapshot(snapshot)
    client.set("a", "later")
    last, entry = client.revision(), client.entry("a")
    assert entry is not None
    other, its_state = str(runtime / "other.sock"), runtime / "its state"
    begun = Pair(other, its_state, "--from", str(snapshot))
    try:
        with udsbus.connect(other) as restored:
            assert restored.get("a") == {3}
            assert 990 < (restored.ttl("lease") or 0) < 1000
            assert restored.info()["bus"] != client.info()["bus"]
            assert restored.set("b", 1) > last, "no revision comes twice"
            with pytest.raises(Conflict):
                restored.set("a", 1, if_revision=entry.revision)
            assert [change.after for change in restored.history("a")] == [{1, 2}, {3}]
            broker_pid, _ = begun.ready(restored)
            os.kill(broker_pid, 9)
            assert restored.get("b") == 1, "the standby does not begin anew"
    finally:
        begun.close()
    with pytest.raises(RuntimeError, match="holds a state already"):
        BrokerProcess(other, durability="process", state=its_state, snapshot=snapshot)
    for bad in (runtime / "none.db", state / "journal-00000001.log", runtime):
        with pytest.raises(RuntimeError, match=r"snapshot|cannot be read"):
            BrokerProcess(other, durability="process", state=runtime / "new", snapshot=bad)
        assert not list((runtime / "new").glob("*.db*"))


def test_it_is_of_one_moment(client: Client, address: str, runtime: Path) -> None:
    """While others write: each transaction is in it as a whole or not at all."""

    def write() -> None:
        with udsbus.connect(address) as other:
            number = 0
            while not other.exists("stop"):
                number += 1
                with other.transaction() as t:
                    t.set("x", number)
                    t.set("y", number)

    with Child(write) as writer:
        wait_until(lambda: client.get("x"), "a first write")
        for number in range(10):
            acknowledged = client.get("x")
            client.snapshot(runtime / f"{number}.db")
            found = contents(runtime / f"{number}.db")
            assert found["x"] == found["y"]
            assert found["x"] >= acknowledged
        client.set("stop", True)
        writer.result()


def test_what_cannot_be(client: Client, runtime: Path) -> None:
    client.set("a", 1)
    (runtime / "file").write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        client.snapshot(runtime / "file")
    assert (runtime / "file").read_text() == "precious"
    with pytest.raises(AccessDenied, match="no snapshot can be written to"):
        client.snapshot(runtime / "no" / "such" / "place")


def test_without_a_state(runtime: Path) -> None:
    address = str(runtime / "other.sock")
    with running_broker(address), udsbus.connect(address) as client:
        with pytest.raises(Conflict, match="keeps no"):
            client.snapshot(runtime / "snapshot.db")


def test_on_schedule(runtime: Path) -> None:
    address, place = str(runtime / "bus.sock"), runtime / "state" / "snapshots"
    pair = Pair(address, runtime / "state", "--snapshot-every", "1s", "--snapshots", "2")
    try:
        with udsbus.connect(address) as client:
            client.set("a", 1)
            wait_until(lambda: list(place.glob("*.db")), "a snapshot")
            first = min(place.glob("*.db"))
            wait_until(lambda: not first.exists(), "the end of the first, for the sake of others")
            assert len(list(place.glob("*.db"))) <= 3
    finally:
        pair.close()
    assert contents(max(place.glob("*.db"))) == {"a": 1}

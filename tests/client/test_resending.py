"""A write whose connection is lost is sent again, and carried out once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until
from tests.pairs import Pair
from udsbus import BrokerUnavailable, Client

from .support import PATIENCE, Child, FakeBroker, Hangup, Task, in_child

WRITES: dict[str, Callable[[Client], Any]] = {
    "set": lambda c: c.set("a", 1),
    "set_many": lambda c: c.set_many({"a": 1}),
    "delete": lambda c: c.delete("a"),
    "increment": lambda c: c.increment("a"),
    "expire": lambda c: c.expire("a", 1),
    "persist": lambda c: c.persist("a"),
    "publish": lambda c: c.publish("a", 1),
}


@pytest.mark.parametrize("name", WRITES)
def test_it_is_sent_again_as_the_same_request(address: str, name: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        if len(broker.requests) < 3:
            raise Hangup
        return 5

    with FakeBroker(address, answer) as broker, udsbus.connect(address, name="me") as client:
        assert WRITES[name](client) == 5
    hellos = [request for request in broker.sent if request[1] == "hello"]
    writes = [request for request in broker.sent if request[1] not in ("hello", "goodbye")]
    assert len(writes) == len(hellos) == 3
    assert writes[0] == writes[1] == writes[2], "with the msgid that it had"
    assert hellos[0][2] == hellos[1][2] == hellos[2][2], "in the same lane of the same session"
    assert {"name", "session", "lane", "unanswered", "page"} == hellos[0][2][1].keys()
    msgids = [msgid for msgid, _, _ in broker.sent]
    assert msgids[3::2] == sorted(msgids[3::2])
    assert len({msgids[0], msgids[1], msgids[2], msgids[4]}) == 4, "and no msgid for two requests"


def test_a_transaction_is_too(address: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        if len(broker.requests) < 2:
            raise Hangup
        return [7, [7]]

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with client.transaction() as t:
            result = t.set("a", 1)
        assert (t.revision, result.value) == (7, 7)


def test_a_pipeline_goes_on_where_it_was(address: str) -> None:
    """What was answered is not sent again, what was not has its old msgids."""
    lost = 2

    def answer(method: str, params: list[Any]) -> Any:
        nonlocal lost
        if len(broker.requests) > 600 and lost:
            lost -= 1
            raise Hangup
        return params[0]

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with client.pipeline() as p:
            results = [p.increment(f"n/{n}") for n in range(1_000)]
        assert [result.value for result in results] == [f"n/{n}" for n in range(1_000)]
    frames: dict[int, list[Any]] = {}
    for msgid, method, params in broker.sent:
        if method == "batch":
            assert frames.setdefault(msgid, params) == params, "one msgid, one request"
    together = [request for _, params in sorted(frames.items()) for request in params[0]]
    assert len(together) == 1_000


def test_a_message_is_not_sent_to_another_broker(address: str) -> None:
    """It may have reached its subscribers already, and the journal knows nothing of messages."""

    def answer(method: str, params: list[Any]) -> Any:
        broker.epoch += 1
        raise Hangup

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match="nobody knows whether"):
            client.publish("topic", 1)
        assert broker.requests == ["publish"]


def test_what_took_too_long_is_not_sent_again(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have forgotten what it had answered."""
    monkeypatch.setattr("udsbus.client.session.RESUME_SECONDS", 0.0)

    def answer(method: str, params: list[Any]) -> Any:
        raise Hangup

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match=r"nobody knows whether .* until one answered"):
            client.set("a", 1)
        assert broker.requests == ["set"]


def test_threads_and_children_have_lanes_of_their_own(address: str) -> None:
    def lane_of_hello() -> tuple[str, int]:
        options = broker.sent[-2][2][1]
        return options["session"], options["lane"]

    def ask() -> None:
        client.revision()

    with FakeBroker(address, lambda *_: 5) as broker, udsbus.connect(address) as client:
        client.revision()
        lanes = [lane_of_hello()]
        for _ in range(2):
            Task(ask).result()
            lanes.append(lane_of_hello())
        in_child(ask)
        lanes.append(lane_of_hello())
        with udsbus.connect(address) as other:
            other.revision()
            lanes.append(lane_of_hello())
    sessions = [session for session, _ in lanes]
    assert len(set(lanes)) == 5
    assert len(set(sessions[:3])) == 1
    assert len(set(sessions)) == 3


# --- a real broker that is killed --------------------------------------------------------------

KILLS = 8


class Restarted:
    """A broker without a standby, started again each time that it was killed."""

    def __init__(self, address: str, state: Path) -> None:
        self._options: dict[str, Any] = {"durability": "process", "state": state}
        self._address = address
        self._broker = BrokerProcess(address, **self._options)

    def kill(self, client: Client) -> None:
        self._broker.kill()
        self._broker = BrokerProcess(self._address, **self._options)

    def close(self) -> None:
        self._broker.stop()


class TakenOver:
    """A pair, of which now one and now the other is killed."""

    def __init__(self, address: str, state: Path) -> None:
        self._pair = Pair(address, state)
        self._kills = 0

    def kill(self, client: Client) -> None:
        broker, standby = self._pair.ready(client)
        self._kills += 1
        if self._kills % 4:
            os.kill(broker, signal.SIGKILL)
        else:
            os.kill(standby, signal.SIGKILL)
            wait_until(lambda: client.info()["standby"] not in (standby, None), "another standby")

    def close(self) -> None:
        self._pair.close()


def single(address: str) -> int:
    with udsbus.connect(address, timeout=PATIENCE) as client:
        mine = 0
        while client.get("go on"):
            mine += 1
            assert client.increment("mine/" + str(os.getpid())) == mine
            client.increment("all")
        return mine


def pipelined(address: str) -> int:
    with udsbus.connect(address, timeout=PATIENCE) as client:
        mine = 0
        while client.get("go on"):
            with client.pipeline() as p:
                sums = [p.increment("mine/" + str(os.getpid())) for _ in range(600)]
                for _ in range(600):
                    p.increment("all")
            assert [one.value for one in sums] == list(range(mine + 1, mine + 601))
            mine += 600
        return mine


def transacted(address: str) -> int:
    with udsbus.connect(address, timeout=PATIENCE) as client:
        mine = 0
        while client.get("go on"):
            with client.transaction() as t:
                own = t.increment("mine/" + str(os.getpid()))
                t.increment("all")
            mine += 1
            assert own.value == mine
        return mine


def rotating(address: str) -> int:
    """Compare-and-swap: a conflict would mean that its own write was done twice."""
    with udsbus.connect(address, timeout=PATIENCE) as client:
        key, mine = "mine/" + str(os.getpid()), 0
        revision = client.set(key, 0, if_revision=0)
        while client.get("go on"):
            mine += 1
            revision = client.set(key, mine, if_revision=revision)
            client.increment("all")
        assert client.get(key) == mine
        return mine


@pytest.mark.parametrize("kind", [Restarted, TakenOver])
def test_every_increment_counts_once(
    address: str, runtime: Path, kind: type[Restarted | TakenOver]
) -> None:
    """Whatever a writer was told is so, though brokers are killed all the time."""
    bus = kind(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as client, contextlib.ExitStack() as stack:
            client.set("go on", True)
            children = [
                stack.enter_context(Child(lambda work=work: work(address)))  # type: ignore[misc]
                for work in (single, pipelined, transacted, rotating)
            ]
            wait_until(lambda: client.info()["connections"] == 5, "all of them to be there")
            for _ in range(KILLS):
                begun = client.get("all", 0)
                while client.get("all", 0) < begun + 500:
                    pass
                bus.kill(client)
            client.set("go on", False)
            written = [child.result() for child in children]
            assert client.get("all") == sum(written)
    finally:
        bus.close()

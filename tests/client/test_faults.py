"""`LocalBroker(faults=…)`: a program can be tested against what seldom happens."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.harness import RawClient
from udsbus import BrokerUnavailable, Fault, InvalidRequest, LocalBroker, RequestTimeout

from .support import PATIENCE

STEPS: list[Any] = ["execute", "journal", "deliver", "wait"]
RECORDED = ["deliver", "wait"]
DEADLY = [("kill", step) for step in STEPS] + [("cut", step) for step in STEPS[1:]]


@pytest.fixture
def state(runtime: Path) -> str:
    return str(runtime / "state")


def ask_once(address: str) -> list[Any]:
    """The answers to a `set`, by a client that sends nothing again, until its connection ends."""
    with RawClient(address) as raw:
        raw.send([0, 1, "set", ["count", b"\x01"]])
        return [message[3] for message in raw.rest()]


@pytest.mark.parametrize(("action", "step"), DEADLY)
def test_where_it_strikes(action: Any, step: Any, state: str) -> None:
    """As one sees it who asks once: what is there afterwards, and who was told."""
    with LocalBroker(state=state, faults=[Fault(action, before=step, key="count")]) as broker:
        first = broker.pid
        assert len(ask_once(broker.address)) == (step == "wait")
        with broker.connect(timeout=PATIENCE) as client:
            recorded = step in RECORDED or (action == "cut" and step == "journal")
            assert client.get("count") == (1 if recorded else None)
            assert (broker.pid != first) == (action == "kill")


@pytest.mark.parametrize(("action", "step"), DEADLY)
def test_a_client_gets_through_and_counts_once(action: Any, step: Any, state: str) -> None:
    fault = Fault(action, before=step, key="count", nth=3)
    with LocalBroker(state=state, faults=[fault]) as broker:
        first = broker.pid
        with broker.connect(timeout=PATIENCE) as client:
            counted = []
            for number in range(1, 6):
                client.set("other", number)
                counted.append(client.increment("count"))
            assert counted == [1, 2, 3, 4, 5]
        assert (broker.pid != first) == (action == "kill")


@pytest.mark.parametrize("step", STEPS)
def test_a_stall(step: Any) -> None:
    """Longer than a client waits."""
    with LocalBroker(faults=[Fault("stall", before=step, key="a", seconds=1.0)]) as broker:
        with broker.connect(timeout=0.3) as client:
            begun = monotonic()
            if step == "wait":
                client.set("a", 1)
            with pytest.raises(RequestTimeout):
                client.set("a", 1)
            with broker.connect(timeout=PATIENCE) as other:
                assert other.get("a") == 1
            assert monotonic() - begun > 0.9


def test_a_stall_for_ever_is_a_broker_that_hangs(state: str) -> None:
    with LocalBroker(state=state, faults=[Fault("stall", before="deliver")]) as broker:
        first = broker.pid
        with broker.connect(timeout=PATIENCE) as client:
            assert client.increment("a") == 1, "the standby has taken over, and it was done once"
            assert broker.pid != first


def test_reads_before_they_are_carried_out() -> None:
    faults = [Fault("stall", "execute", "a", 2, 0.3), Fault("kill", "deliver", "a")]
    with LocalBroker(faults=faults) as broker, broker.connect(timeout=1.0) as client:
        assert client.get("a") is None
        client.set("b", 1)
        begun = monotonic()
        assert client.get("a", fresh=True) is None
        assert monotonic() - begun > 0.25
        assert client.get_many(["b", "a"]) == {"b": 1}, "reads are not delivered"
        with pytest.raises(BrokerUnavailable):
            client.set("a", 1)


def test_it_is_the_nth_change_that_counts_not_the_nth_turn(state: str) -> None:
    with LocalBroker(state=state, faults=[Fault("kill", key="a", nth=5)]) as broker:
        first = broker.pid
        with broker.connect(timeout=PATIENCE) as client:
            with client.pipeline() as pipeline:
                for _ in range(4):
                    pipeline.increment("a")
            assert broker.pid == first
            with client.pipeline() as pipeline:
                for _ in range(4):
                    pipeline.increment("a")
            assert client.get("a") == 8
            assert broker.pid != first


def test_only_who_asked_is_cut() -> None:
    """Even if others asked in the same turn, which a stall makes sure of."""
    faults = [Fault("stall", "execute", "first", 1, 0.5), Fault("cut", "deliver", "x")]
    with LocalBroker(faults=faults) as broker, contextlib.ExitStack() as stack:
        raw = [stack.enter_context(RawClient(broker.address)) for _ in range(3)]
        for one in raw:
            one.call("ping")
        raw[0].send([0, 1, "set", ["first", 1]])
        raw[1].send([0, 2, "set", ["x", 1]], [0, 3, "set", ["x", 2]])
        raw[2].send([0, 2, "set", ["y", 1]])
        assert raw[1].rest() == []
        for one in (raw[0], raw[2]):
            assert one.receive()[2] is None
            one.call("ping")


def test_schemas_too() -> None:
    with LocalBroker(faults=[Fault("kill", "deliver", "a/*")]) as broker:
        with broker.connect(timeout=0.5) as client, pytest.raises(BrokerUnavailable):
            client.set_schema("a/*", True)


def test_messages_and_those_who_watch() -> None:
    faults = [Fault("cut", before="deliver", key="news/*")]
    with LocalBroker(faults=faults) as broker, broker.connect() as client:
        with client.subscribe("news/**") as subscription:
            assert client.publish("news/a", 1) == 1, "asked again, answered again, published once"
            message = subscription.get(timeout=PATIENCE)
            assert message is not None
            assert message.value == 1
            assert client.publish("news/a", 2) == 1
            message = subscription.get(timeout=PATIENCE)
            assert message is not None
            assert message.value == 2
        assert client.info()["counters"]["closed"]["peer_closed"] == 1, "it was cut"


def test_several_clients_at_once_lose_nothing(state: str) -> None:
    faults = [Fault("cut", step, "n", 20 * number)
              for number, step in enumerate(STEPS[1:] * 3, 1)]  # fmt: skip
    with LocalBroker(state=state, faults=faults) as broker:

        def count() -> None:
            with broker.connect(timeout=PATIENCE) as client:
                for _ in range(200):
                    client.increment("n")

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with broker.connect() as client:
            assert client.get("n") == 800


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("explode",), "action of a fault must be one of kill, stall, cut, not 'explode'"),
        (("kill", "read"), "before of a fault must be one of execute, journal, deliver, wait"),
        (("kill", "wait", "a*"), "pattern 'a\\*'"),
        (("kill", "wait", "a", 0), "nth of a fault must be a whole number from 1, not 0"),
        (("kill", "wait", "a", 1, 1.0), "seconds of a fault are for how long it stalls"),
        (("stall", "wait", "a", 1, -1.0), "seconds of a fault"),
        (("stall", "wait", "a", 1, 1e12), "at most 1e\\+06"),
        (("cut", "execute"), "cannot be cut before `execute`"),
    ],
)
def test_what_is_no_fault(fields: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Fault(*fields)


def test_what_is_no_list_of_faults() -> None:
    with pytest.raises(InvalidRequest, match=r"faults must be udsbus\.Fault, not str"):
        LocalBroker(faults="kill")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"a list of udsbus\.Fault, not 5"):
        LocalBroker(faults=5)  # type: ignore[arg-type]


def test_the_log_says_what_it_was(state: str) -> None:
    with LocalBroker(faults=[Fault("stall", seconds=0.01)]) as broker:
        with broker.connect() as client:
            client.set("a", 1)
        log = Path(os.path.dirname(broker.address), "bus.sock.log").read_text()
        assert "a fault, as was asked for: stall before deliver" in log


PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(block, names)
    names["test_counting"]()
    names["test_a_payment_is_booked_once"](tmp_path)

"""The commands that are about the broker itself: hello, ping, info."""

from __future__ import annotations

import sys

import pytest

from tests.harness import BrokerProcess, RawClient, running_broker
from udsbus import __version__
from udsbus.broker import turn
from udsbus.limits import LIMITS, NAME_BYTES
from udsbus.terms import CloseReason
from udsbus.version import PROTOCOL_VERSION


def test_hello_says_who_answers(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.call("set", "a", b"\x01")
        reply = client.call("hello", PROTOCOL_VERSION, {"name": "tester"})
        assert client.call("hello", PROTOCOL_VERSION) == reply
        assert client.call("info")["bus"] == reply.pop("bus")
    assert reply == {
        "version": PROTOCOL_VERSION,
        "broker": __version__,
        "epoch": 1,
        "pid": any_broker.pid,
        "revision": 1,
        "limits": {name: limit.value for name, limit in LIMITS.items()},
        "heartbeat": None,
    }


def test_hello_refuses_another_version_and_the_connection_lives_on(
    broker: BrokerProcess,
) -> None:
    with broker.connect() as client:
        for version in (0, PROTOCOL_VERSION + 1, 2**64 - 1):
            number, message, details = client.refused("hello", version)
            assert number == 8
            assert str(version) in message
            assert details == {"error": "protocol_error", "version": PROTOCOL_VERSION}
        assert client.call("hello", PROTOCOL_VERSION)["version"] == PROTOCOL_VERSION


def test_hello_wants_a_number(raw: RawClient) -> None:
    for version in (None, "1", 1.0, True, -1):
        assert raw.refused("hello", version)[2]["error"] == "invalid_request"


def test_a_name_has_a_limit_in_bytes(raw: RawClient) -> None:
    assert raw.call("hello", PROTOCOL_VERSION, {"name": "é" * (NAME_BYTES // 2)})
    number, _, details = raw.refused(
        "hello", PROTOCOL_VERSION, {"name": "é" * (NAME_BYTES // 2 + 1)}
    )
    assert number == 7
    assert details == {
        "error": "limit_exceeded", "limit": "name_bytes",
        "maximum": NAME_BYTES, "actual": NAME_BYTES + 2,
    }  # fmt: skip


def test_ping_answers_with_the_revision(broker: BrokerProcess) -> None:
    with broker.connect() as client:
        assert client.call("ping") == 0
        client.call("set_many", {"a": b"\x01", "b": b"\x01"})
        client.call("delete", "a")
        assert client.call("ping") == 2


def test_info_of_a_new_broker(any_broker: BrokerProcess, request: pytest.FixtureRequest) -> None:
    with any_broker.connect() as client:
        info = client.call("info")
        assert client.call("info")["uptime"] > info["uptime"]
    assert 0 < info.pop("uptime") < 60
    assert len(info.pop("bus")) == 16
    assert info == {
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "pid": any_broker.pid,
        "address": any_broker.address,
        "backend": request.node.callspec.params["any_broker"].partition("-")[0],
        "compiled": not turn.__file__.endswith(".py"),
        "durability": "none",
        "state": None,
        "journal": None,
        "standby": None,
        "revision": 0,
        "keys": 0,
        "locks": 0,
        "waiting": 0,
        "watches": 0,
        "subscriptions": 0,
        "retained": 0,
        "change_log": 0,
        "page": sys.platform == "linux",
        "connections": 1,
        "behind": 0,
        "counters": {
            "accepted": 1, "closed": {}, "requests": 0, "refused": 0, "changes": 0, "messages": 0,
            "fell_behind": 0, "left_out": 0, "dropped": 0,
        },
        "limits": {name: limit.value for name, limit in LIMITS.items()},
    }  # fmt: skip


def test_info_counts_what_happens(broker: BrokerProcess) -> None:
    with broker.connect() as client, broker.connect() as other:
        client.call("watch", "none")
        client.call("subscribe", ["t", "u"])
        client.call("set_many", {"a": b"\x01", "b": b"\x01", "c": b"\x01"})
        client.call("delete", "a")
        client.send([2, "set", ["d", b"\x01"]], [2, "nonsense", []])
        client.refused("nonsense")
        other.call("publish", "t", b"\x01")
        other.call("publish", "nobody", b"\x01")
        info = other.call("info")
    assert info["revision"] == 3
    assert info["keys"] == 3
    assert info["watches"] == 1
    assert info["subscriptions"] == 2
    assert info["change_log"] == 5
    assert info["connections"] == 2
    assert info["counters"] == {
        "accepted": 2, "closed": {}, "requests": 9, "refused": 2, "changes": 5, "messages": 1,
        "fell_behind": 0, "left_out": 0, "dropped": 0,
    }  # fmt: skip


def test_responses_from_a_peer_are_not_counted_as_requests(raw: RawClient) -> None:
    raw.send([1, 1, None, None], [1, 2, None, None], [2, "nonsense", []])
    assert raw.call("ping") == 0
    assert raw.call("info")["counters"]["requests"] == 2


def test_every_start_is_another_bus(address: str) -> None:
    buses = set()
    for _ in range(2):
        with running_broker(address) as broker, broker.connect() as client:
            buses.add(client.call("hello", PROTOCOL_VERSION)["bus"])
    assert len(buses) == 2


def test_reasons_are_words_that_never_change() -> None:
    assert {reason.value for reason in CloseReason} == {
        "peer_closed", "peer_reset", "bad_bytes", "too_large", "wrong_user", "too_many",
        "slow_reader", "silent", "kicked", "process_ended", "replaced", "takeover", "shutdown",
    }  # fmt: skip

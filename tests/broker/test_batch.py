"""`batch`: many requests in one message, each as if it had come alone."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest

from tests.harness import BrokerProcess, RawClient
from udsbus.broker import answering
from udsbus.broker import turn as turn_module
from udsbus.limits import MIB, PAGE_BYTES, REQUESTS_PER_BATCH, SHARE_SECONDS
from udsbus.wire.methods import BATCHED

from .stepped import SteppedBroker

ONE = b"\x01"


def errors(refusals: dict[int, Any]) -> dict[int, str]:
    return {index: details["error"] for index, (_, details) in refusals.items()}


def test_each_has_its_result_and_its_revision(raw: RawClient) -> None:
    results, refusals = raw.call(
        "batch",
        [
            ["set", ["a", ONE]],
            ["set", ["b", ONE, {"ttl": 100}]],
            ["increment", ["a", {"by": 4}]],
            ["get", ["a"]],
            ["entry", ["a"]],
            ["exists", ["c"]],
            ["delete", ["a"]],
            ["persist", ["b"]],
        ],
    )
    assert results == [1, 2, 5, b"\x05", [b"\x05", 3, None], False, True, True]
    assert refusals == {}
    assert raw.call("ping") == 4


def test_a_refused_one_keeps_the_others_from_nothing(raw: RawClient) -> None:
    results, refusals = raw.call(
        "batch",
        [
            ["set", ["$sys/a", ONE]],
            ["set", ["a", ONE]],
            ["set", ["a", ONE, {"if_revision": 7}]],
            ["get", []],
            "get",
            ["get"],
            ["get", ["a"], 1],
            [["get"], ["a"]],
            ["nonsense", []],
            ["get", ["a"]],
        ],
    )
    assert results == [None, 1, None, None, None, None, None, None, None, ONE]
    assert errors(refusals) == {
        0: "access_denied", 2: "conflict", 3: "invalid_request", 4: "invalid_request",
        5: "invalid_request", 6: "invalid_request", 7: "unknown_method", 8: "unknown_method",
    }  # fmt: skip
    assert raw.call("info")["counters"]["refused"] == 8


@pytest.mark.parametrize("name", ["batch", "watch", "keys", "transaction", "set_many", "info"])
def test_what_a_batch_may_not_hold(raw: RawClient, name: str) -> None:
    """What takes long, or is more than a request and a result."""
    assert name not in BATCHED
    results, refusals = raw.call("batch", [[name, []]])
    assert results == [None]
    assert errors(refusals) == {0: "unknown_method"}
    assert "a batch may hold" in refusals[0][0][1]


def test_it_counts_as_many_requests_as_it_holds(raw: RawClient) -> None:
    before = raw.call("info")["counters"]["requests"]
    raw.call("batch", [["increment", ["n"]]] * 10)
    raw.call("batch", [])
    assert raw.call("info")["counters"]["requests"] == before + 10 + 1


def test_it_is_told_to_watches_change_by_change(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as watcher, any_broker.connect() as writer:
        watcher.call("watch", "n")
        writer.call("batch", [["increment", ["n"]]] * 3)
        assert [watcher.receive()[2][0] for _ in range(3)] == [1, 2, 3]


def test_a_batch_that_nobody_waits_for(raw: RawClient) -> None:
    raw.send([2, "batch", [[["increment", ["n"]]] * 3]])
    assert raw.call("get", "n") == b"\x03"


def test_it_ends_where_the_values_fill_a_response(raw: RawClient) -> None:
    value = msgpack.packb(b"x" * (PAGE_BYTES // 4))
    raw.call("set", "large", value)
    requests = [["get", ["large"]], ["increment", ["n"]]] * 10
    results, refusals = raw.call("batch", requests)
    assert results == [value, 1, value, 2, value, 3, value]
    assert refusals == {}
    assert raw.call("get", "n") == b"\x03"


def test_one_large_value_is_not_too_much(raw: RawClient) -> None:
    value = msgpack.packb(b"x" * (30 * MIB))
    raw.call("set", "large", value)
    assert raw.call("batch", [["get", ["large"]]] * 2) == [[value], {}]


def test_others_have_their_turn_between_batches(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of a turn is looked at after each batch, not after 4 as with requests."""
    client, connection = stepped.accepted()
    client.send(*[[0, n, "batch", [[["increment", ["n"]]] * REQUESTS_PER_BATCH]] for n in range(3)])
    clock = itertools.count(stepped.now, 2 * SHARE_SECONDS)
    monkeypatch.setattr(turn_module, "monotonic", lambda: next(clock))
    for left in (2, 1, 0):
        stepped.step()
        assert len(connection.requests) == left


def test_slow_reads_end_a_batch_early(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is asked for again, after the others have had their turn."""
    client, _ = stepped.accepted()
    clock = itertools.count(stepped.now, SHARE_SECONDS / 4)
    monkeypatch.setattr(answering, "monotonic", lambda: next(clock))
    client.send([0, 1, "batch", [[["get", ["a"]]] * 100]])
    stepped.step()
    results, refusals = client.receive()[3]
    assert 0 < len(results) < 10
    assert not refusals


def test_writes_do_not_end_a_batch_early(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a client may have sent more of them, which must not overtake the rest."""
    client, _ = stepped.accepted()
    clock = itertools.count(stepped.now, SHARE_SECONDS)
    monkeypatch.setattr(answering, "monotonic", lambda: next(clock))
    writes = [["set", ["a", ONE, {"if_revision": 9}]], ["delete", ["a"]], ["increment", ["n"]]]
    client.send([0, 1, "batch", [writes * 100]])
    stepped.step()
    results, refusals = client.receive()[3]
    assert len(results) == 300
    assert len(refusals) == 100


def test_what_cannot_be_packed_is_refused_alone(raw: RawClient) -> None:
    """A response is a few levels deeper than the value in it. It is read last, for after a read a
    batch may end, when the machine is busy."""
    raw.call("set", "deep", b"\x91" * 1022 + b"\xc0")
    requests = [["set", ["a", ONE]], ["set", ["z", ONE]], ["get", ["deep", {"native": True}]]]
    results, refusals = raw.call("batch", requests)
    assert [result is None for result in results] == [False, False, True]
    assert list(refusals) == [2]


def test_a_native_answer_is_no_larger_than_a_frame(raw: RawClient) -> None:
    """Packed anew, it may be larger than what is stored."""
    value = b"\xdd" + (6 * MIB).to_bytes(4, "big") + b"\xca\x00\x00\x00\x00" * (6 * MIB)
    for key in "abc":
        raw.call("set", key, value)
    raw.send([0, 1, "get_many", [["a", "b"], {"native": True}]])
    answer = raw.receive()
    assert answer[2] is not None
    assert answer[3]["limit"] == "frame_bytes"

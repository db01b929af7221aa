"""Requests that are well framed and yet wrong: the broker answers each, and serves on."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from ..harness import BrokerProcess, RawClient, wait_until


def nested(depth: int) -> bytes:
    """`depth` arrays in one another."""
    return b"\x91" * (depth - 1) + b"\x90"


def request(msgid: bytes = b"\x01", method: bytes = b"\xa4ping", params: bytes = b"\x90") -> bytes:
    return b"\x94\x00" + msgid + method + params


def ask(raw: RawClient, message: list[Any] | bytes) -> Any:
    """The response to a message, or to the bytes of one."""
    raw.socket.sendall(message if isinstance(message, bytes) else msgpack.packb(message))
    return raw.receive()


@pytest.fixture(autouse=True)
def _still_serves(broker: BrokerProcess) -> Any:
    yield
    with broker.connect() as another:
        another.call("ping")


def test_params_that_are_no_array(raw: RawClient) -> None:
    wrong = []
    for method in ("get", "set", "ping", "unwatch"):
        for params in (None, 0, True, 1.5, "", "a", "ab", b"a", {}, {"a": 1}, {0: "a"}):
            response = ask(raw, [0, 1, method, params])
            if response[3] != {"error": "invalid_request"}:
                wrong.append((method, params, response))
    assert not wrong


def test_names_that_are_no_method(raw: RawClient) -> None:
    names: list[Any] = [None, 5, True, b"get", [], {}, ["get"], "", "Get", "x" * 100_000]
    for method in names:
        response = ask(raw, [0, 1, method, ["a"]])
        assert response[3] == {"error": "unknown_method"}
        assert len(response[2][1]) < 200


# The deepest that the decoder lets through is 1,024 arrays, the message itself among them.
@pytest.mark.parametrize("depth", [500, 990, 1_023])
def test_a_method_name_of_arrays_in_arrays(raw: RawClient, depth: int) -> None:
    assert ask(raw, request(method=nested(depth)))[3] == {"error": "unknown_method"}


@pytest.mark.parametrize("depth", [500, 990, 1_023])
def test_a_msgid_of_arrays_in_arrays(raw: RawClient, depth: int) -> None:
    raw.socket.sendall(request(msgid=nested(depth)))
    (closing,) = raw.rest()
    assert closing[:2] == [2, "closing"]
    assert closing[2][0] == "bad_bytes"


def test_a_native_value_of_arrays_in_arrays(raw: RawClient) -> None:
    for depth in (10, 500, 990, 1_020, 1_021, 1_022):
        frame = request(method=b"\xa3set", params=b"\x92\xa1k" + nested(depth))
        response = ask(raw, frame)
        if response[2] is None:
            assert raw.call("get", "k") == nested(depth)
            response = raw.request("get", "k", {"native": True})
        assert response[2] is None or response[3]["error"] != "internal"


def test_a_native_item_that_was_waited_for(raw: RawClient, broker: BrokerProcess) -> None:
    """An item is given in any case: it is out of its queue."""
    raw.call("hello", 1, {"session": "me"})
    for number, (item, given) in enumerate(
        ((b"\xa1a", "a"), (b"\xc1", b"\xc1"), (b"\x93\x01", b"\x93\x01"))
    ):
        raw.send([0, 50 + number, "take", ["q", {"native": True}]])
        with broker.connect() as other:
            wait_until(lambda: other.call("queue", "q")["takers"] == 1, "it to wait")
            other.call("put", "q", item)
        kind, msgid, error, (_, got) = raw.receive()
        assert (kind, msgid, error, got) == (1, 50 + number, None, given)
        raw.call("put", "q", item)
        assert raw.call("take", "q", {"native": True})[1] == given


@pytest.mark.parametrize(("method", "argument"), [
    ("get", "k"), ("entry", "k"), ("get_many", ["k"]), ("items", "k"),
])  # fmt: skip
def test_a_native_read_of_bytes_that_are_no_value(
    raw: RawClient, method: str, argument: Any
) -> None:
    for data in (b"\xc1", b"\x92\x01", b"\x01\x02", b"\x81\x90\x01", nested(5_000)):
        raw.call("set", "k", data)
        assert raw.call("get", "k") == data
        number, _, details = raw.refused(method, argument, {"native": True})
        assert (number, details["error"]) == (4, "unsupported_value")


def test_a_native_read_in_a_transaction_of_bytes_that_are_no_value(raw: RawClient) -> None:
    raw.call("set", "k", b"\xc1")
    reading: list[Any] = [[], [["get", "k"]]]
    assert raw.call("transaction", *reading) == [1, [b"\xc1"]]
    assert raw.refused("transaction", *reading, {"native": True})[0] == 4


def test_increment_of_bytes_that_are_no_value(raw: RawClient) -> None:
    for data in (b"\xc1", b"\x92\x01", b"\x01\x02", b"\x81\x90\x01"):
        revision = raw.call("set", "k", data)
        number, _, details = raw.refused("increment", "k")
        assert (number, details) == (4, {"error": "unsupported_value"})
        assert raw.call("entry", "k") == [data, revision, None]


def test_increment_of_more_than_a_number_takes(raw: RawClient) -> None:
    """Not looked into: it could be anything, of any size."""
    for data in (b"\xc1" * 10, b"\x01" * 10, nested(5_000), msgpack.packb("x" * 9)):
        raw.call("set", "k", data)
        assert raw.refused("increment", "k")[:2] == (2, "'k' does not hold a number")
        assert raw.call("get", "k") == data


def test_every_request_is_answered_under_its_msgid(raw: RawClient) -> None:
    for msgid in (0, 1, 255, 2**31, 2**32 - 1):
        assert ask(raw, [0, msgid, "ping", []]) == [1, msgid, None, 0]


def test_a_msgid_in_a_longer_form_is_the_same_integer(raw: RawClient) -> None:
    for msgid in (b"\xcc\x01", b"\xce\0\0\0\x01", b"\xcf" + bytes(7) + b"\x01", b"\xd0\x01"):
        assert ask(raw, request(msgid=msgid)) == [1, 1, None, 0]


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_no_msgid_ends_the_connection(broker: BrokerProcess, kind: int) -> None:
    """There is nothing to answer it under; no part of it is carried out, nor what follows."""
    wrong: list[Any] = [None, True, False, -1, 2**32, 2**64 - 1, 1.0, "1", b"1", [1], {}]
    for msgid in wrong:
        with broker.connect() as raw:
            raw.send([0, 7, "ping", []], [kind, msgid, "set", ["k", 1]], [0, 8, "set", ["k", 1]])
            answer, closing = raw.rest()
            assert answer == [1, 7, None, 0]
            assert closing[:2] == [2, "closing"]
            assert closing[2][0] == "bad_bytes", msgid
    with broker.connect() as raw:
        assert raw.call("ping") == 0
        assert raw.call("info")["counters"]["closed"] == {"bad_bytes": len(wrong)}


def test_notifications_are_never_answered(raw: RawClient) -> None:
    raw.send(
        [2, "set", ["k", 1]],
        [2, "no such method", []],
        [2, "set", ["k"]],
        [2, "set", None],
        [1, 5, None, "a response that nobody waits for"],
        [0, 1, "get", ["k"]],
    )
    assert raw.receive() == [1, 1, None, b"\x01"]


@pytest.mark.parametrize("together", [False, True])
def test_a_counter_that_outgrows_64_bits(raw: RawClient, together: bool) -> None:
    for start, by in ((2**64 - 1, 1), (-(2**63), -1), (2**64 - 1, 2**64 - 1)):
        revision = raw.call("set", "n", start)
        if together:
            operations = [["set", "other", 1], ["increment", "n", {"by": by}]]
            number, _, details = raw.refused("transaction", [], operations)
        else:
            number, _, details = raw.refused("increment", "n", {"by": by})
        assert number == 7
        assert details.pop("actual") > 9
        assert details == {"error": "limit_exceeded", "limit": "number_bytes", "maximum": 9}
        assert raw.call("get", "n", {"native": True}) == start
        assert raw.call("exists", "other") is False
        assert raw.call("ping") == revision


def test_a_counter_up_to_its_ends(raw: RawClient) -> None:
    for start, by, end in (
        (2**64 - 2, 1, 2**64 - 1),
        (1 - 2**63, -1, -(2**63)),
        (-(2**63), 2**64 - 1, 2**63 - 1),
        (2**64 - 1, 0.5, 2.0**64),
    ):
        raw.call("set", "n", start)
        result = raw.call("increment", "n", {"by": by})
        assert (result, type(result)) == (end, type(end))
        assert raw.call("get", "n") == msgpack.packb(end)
    raw.call("set", "n", 1e308)
    assert "cannot be counted on" in raw.refused("increment", "n", {"by": 1e308})[1]
    assert raw.call("get", "n") == msgpack.packb(1e308)


def test_a_native_get_in_a_transaction(raw: RawClient) -> None:
    raw.call("set", "k", "text")
    assert raw.call("transaction", [], [["get", "k"]], {"native": True}) == [1, ["text"]]
    operations = [["set", "other", 1], ["get", "k", {"native": True}]]
    for options in ({}, {"native": True}):
        number, message, _ = raw.refused("transaction", [], operations, options)
        assert number == 2
        assert "the transaction's own options" in message
    assert raw.call("transaction", [], [["get", "k", {"native": False}]]) == [1, [b"\xa4text"]]
    assert raw.call("exists", "other") is False


def test_a_native_set_in_a_transaction(raw: RawClient) -> None:
    """Its own option is about its value; that of the transaction is about what is read."""
    operations = [
        ["set", "a", b"\x01"],
        ["set", "b", b"\x01", {"native": True}],
        ["get", "a"],
        ["get", "b"],
    ]
    encoded = [b"\x01", b"\xc4\x01\x01"]
    assert raw.call("transaction", [], operations) == [1, [1, 1, *encoded]]
    assert raw.call("transaction", [], operations, {"native": True}) == [2, [2, 2, 1, b"\x01"]]
    assert raw.call("get_many", ["a", "b"]) == encoded


def test_a_native_set_many(raw: RawClient) -> None:
    raw.call("set_many", {"a": b"\x01", "b": "text", "c": None}, {"native": True})
    assert raw.call("get_many", ["a", "b", "c"]) == [b"\xc4\x01\x01", b"\xa4text", b"\xc0"]
    assert raw.call("get_many", ["a", "b", "c"], {"native": True}) == [b"\x01", "text", None]


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_a_long_name_is_not_echoed_whole(raw: RawClient, size: int) -> None:
    for method in ("get", "set", "keys", "watch", "publish", "increment", "expire"):
        for start, end in (("", "/"), ("/", ""), ("", "//x"), ("", "a*"), ("", "/*x")):
            more = [1] if method in ("set", "publish", "expire") else []
            number, message, _ = raw.refused(method, start + "x" * size + end, *more)
            assert number == (7 if size > 1_024 else 2)
            assert len(message) < 300, (method, start, end)
    assert len(raw.refused("set", "$" + "x" * 1_000, 1)[1]) < 300
    assert len(raw.refused("x" * size)[1]) < 300


def test_an_error_response_is_of_the_form_that_is_documented(raw: RawClient) -> None:
    for method, params in (
        ("nothing", []), ("get", []), ("set", ["$sys/x", 1]), ("hello", [999]),
    ):  # fmt: skip
        kind, msgid, error, details = ask(raw, [0, 1, method, params])
        assert (kind, msgid) == (1, 1)
        assert [type(part) for part in error] == [int, str]
        assert type(details["error"]) is str

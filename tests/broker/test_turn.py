"""What a peer sees: replies in order, its writes everywhere, changes after replies, expiry."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import msgpack

from tests.harness import BrokerProcess, RawClient, wait_until
from udsbus.limits import EXPIRIES_PER_TURN

from .stepped import SteppedBroker

# --- replies --------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.send(*[[0, n, "increment", ["n"]] for n in range(3_000)])
        answers = [client.receive() for _ in range(3_000)]
    assert answers == [[1, n, None, n + 1] for n in range(3_000)]


def test_refusals_keep_their_place_among_the_replies(any_broker: BrokerProcess) -> None:
    requests = [
        [0, 1, "set", ["a", b"\x01"]],
        [0, 2, "nonsense", []],
        [0, 3, "get", []],
        [0, 4, "set", ["$sys/a", b"\x01"]],
        [0, 5, "get", ["a"]],
    ]
    with any_broker.connect() as client:
        client.send(*requests)
        answers = [client.receive() for _ in requests]
    assert [answer[1] for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer[2] and answer[3]["error"] for answer in answers] == [
        None, "unknown_method", "invalid_request", "access_denied", None,
    ]  # fmt: skip
    assert answers[4][3] == b"\x01"


def test_a_request_that_arrives_byte_by_byte_is_answered(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        for byte in msgpack.packb([0, 7, "set", ["a/b", b"\x01"]]):
            assert other.call("get", "a/b") is None
            client.socket.sendall(bytes([byte]))
        assert client.receive() == [1, 7, None, 1]


def test_the_msgid_is_echoed(raw: RawClient) -> None:
    for msgid in (0, 1, 127, 128, 2**16, 2**32 - 1):
        raw.send([0, msgid, "ping", []], [0, msgid, "nonsense", []], [0, msgid, "get", []])
        assert [raw.receive()[:2] for _ in range(3)] == [[1, msgid]] * 3


def test_a_request_with_an_odd_msgid_is_answered_or_called_bad(broker: BrokerProcess) -> None:
    """Whoever asks must not wait for ever."""
    for msgid in (None, -1, 2**64 - 1, 1.5, True, "text", b"bytes", [1, [2]], {"a": None}):
        with broker.connect() as client:
            client.send([0, msgid, "ping", []], [0, 1, "ping", []])
            answer = client.receive()
            assert answer[1] == "closing" or answer[1:] == [msgid, None, 0]


def test_a_msgid_nested_deeply_does_not_hurt(broker: BrokerProcess) -> None:
    """What `msgpack` unpacks it may refuse to pack again (before 1.2 from a depth of 511)."""
    for depth in (400, 600, *range(1_015, 1_024)):
        msgid = b"\x91" * depth + b"\xc0"
        with broker.connect() as client, broker.connect() as other:
            asked = [b"\x94\x00" + msgid + name + b"\x90" for name in (b"\xa4ping", b"\xa1x")]
            client.socket.sendall(b"".join(asked))  # at once: it may be closed after the first
            answers = [client.receive()]
            if answers[0][0] == 1:
                answers.append(client.receive())
            assert other.call("ping") == 0
        assert answers[0][1] == "closing" or [answer[0] for answer in answers] == [1, 1]


def test_params_that_are_no_array_are_the_fault_of_the_caller(
    broker: BrokerProcess, raw: RawClient
) -> None:
    wrong = []
    for method in ("get", "ping"):
        for params in (5, None, "a", b"a", {}, {"a": 1}, {0: "a"}, True, 1.5):
            raw.send([0, 1, method, params])
            answer = raw.receive()
            if answer[2] is None or answer[3]["error"] != "invalid_request":
                wrong.append((method, params, *answer[2:]))
    assert not wrong
    assert "Traceback" not in broker.log()


def test_a_native_read_of_bytes_that_are_no_value_is_not_an_internal_error(
    broker: BrokerProcess, raw: RawClient
) -> None:
    raw.call("set", "a", b"\xc1")
    _, _, details = raw.refused("get", "a", {"native": True})
    assert details["error"] == "unsupported_value"
    assert "Traceback" not in broker.log()


# --- notifications and responses from the peer ----------------------------------------------


def test_a_notification_is_carried_out_without_a_reply(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.send([2, "set", ["a", b"\x01"]], [0, 1, "get", ["a"]])
        assert client.receive() == [1, 1, None, b"\x01"]
        client.send([2, "watch", ["a"]], [2, "set", ["a", b"\x02"]])
        assert client.receive() == [2, "change", [2, "updated", "a", b"\x02"]]


def test_what_cannot_be_carried_out_and_wants_no_reply_is_ignored(raw: RawClient) -> None:
    messages: list[Any] = [
        [2, "nonsense", []],
        [2, None, []],
        [2, [], []],
        [2, {}, None],
        [2, "get", []],
        [2, "get", None],
        [2, "set", ["$sys/x", b"\x01"]],
        [1, 1, None, None],
        [1, 0, [1, "x"], {}],
        [1, 2, "x", 2],
    ]
    for message in messages:
        raw.send(message)
        raw.send(message, [0, 1, "ping", []])
        assert raw.receive() == [1, 1, None, 0]


# --- writes are seen ------------------------------------------------------------------------


def test_a_write_is_seen_everywhere_once_its_reply_is_there(any_broker: BrokerProcess) -> None:
    with any_broker.crowd(8) as clients:
        for turn in range(200):
            writer = clients[turn % len(clients)]
            value = msgpack.packb(turn)
            writer.call("set", "a", value)
            for reader in clients:
                reader.send([0, turn, "get", ["a"]])
            assert [reader.receive() for reader in clients] == [[1, turn, None, value]] * 8


def test_concurrent_increments_are_all_counted(any_broker: BrokerProcess) -> None:
    def count() -> list[int]:
        with any_broker.connect() as client:
            return [client.call("increment", "n") for _ in range(250)]

    with ThreadPoolExecutor(4) as pool:
        seen = [pool.submit(count) for _ in range(4)]
        numbers = [future.result(timeout=60) for future in seen]
    assert all(part == sorted(part) for part in numbers)
    assert sorted(chain.from_iterable(numbers)) == list(range(1, 1_001))


def test_a_refused_request_has_changed_nothing(broker: BrokerProcess) -> None:
    """2^64 has no place in a MessagePack integer: refuse it before, not after the write."""
    with broker.connect() as client:
        client.call("set", "n", msgpack.packb(2**64 - 1))
        response = client.request("increment", "n")
        if response[2] is not None:
            assert client.call("get", "n") == msgpack.packb(2**64 - 1)
            assert client.call("ping") == 1
            assert response[3]["error"] != "internal"


# --- changes --------------------------------------------------------------------------------


def test_a_change_comes_after_the_reply_on_the_same_connection(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.call("watch", "**")
        client.send([0, 1, "set", ["a", b"\x01"]])
        assert client.receive() == [1, 1, None, 1]
        assert client.receive() == [2, "change", [1, "created", "a", b"\x01"]]

        client.send(*[[0, n, "set", ["a", msgpack.packb(n)]] for n in range(2, 2_000)])
        answered = 1
        for message in (client.receive() for _ in range(2 * 1_998)):
            if message[0] == 1:
                assert message == [1, answered + 1, None, answered + 1]
                answered += 1
            else:
                assert message[2][0] <= answered


def test_changes_come_in_order_each_once_and_as_often_as_they_happen(
    any_broker: BrokerProcess,
) -> None:
    with any_broker.connect() as watcher, any_broker.connect() as writer:
        for pattern in ("a", "*", "**", "a"):
            watcher.call("watch", pattern)
        writer.send(*[[2, "increment", ["a"]] for _ in range(2_000)], [0, 1, "delete", ["a"]])
        assert writer.receive() == [1, 1, None, True]
        changes = [watcher.receive()[2] for _ in range(2_001)]
        watcher.send([0, 99, "ping", []])
        assert watcher.receive() == [1, 99, None, 2_001]
    assert [change[0] for change in changes] == list(range(1, 2_002))
    assert [change[1] for change in changes] == ["created", *["updated"] * 1_999, "deleted"]
    assert changes[-1] == [2_001, "deleted", "a", None]


def test_a_watch_is_told_of_later_changes_only(stepped: SteppedBroker) -> None:
    """Even of those of the same turn: its reply has said which revision it begins after."""
    writer, _ = stepped.accepted()
    watcher, _ = stepped.accepted()
    writer.send([0, 1, "set", ["a", b"\x01"]])
    watcher.send([0, 1, "watch", ["a"]], [0, 2, "watch", ["a", {"from_revision": 0}]])
    stepped.step()
    writer.send([0, 2, "set", ["a", b"\x02"]])
    stepped.step()
    assert writer.receive() == [1, 1, None, 1]
    assert watcher.receive() == [1, 1, None, [1, 1, []]]
    assert watcher.receive() == [1, 2, None, [2, 1, [[1, "created", "a", b"\x01"]]]]
    assert watcher.receive() == [2, "change", [2, "updated", "a", b"\x02"]]


def test_a_pipelined_watch_is_told_of_later_changes_only(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.send(
            [0, 1, "set", ["a", b"\x01"]], [0, 2, "watch", ["a"]], [0, 3, "set", ["a", b"\x02"]]
        )
        assert [client.receive()[1] for _ in range(3)] == [1, 2, 3]
        assert client.receive() == [2, "change", [2, "updated", "a", b"\x02"]]


def test_after_unwatch_and_unsubscribe_nothing_comes(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        watch, _, _ = client.call("watch", "a")
        subscription = client.call("subscribe", ["t"])
        assert client.call("unwatch", watch) is True
        assert client.call("unsubscribe", subscription) is True
        other.call("set", "a", b"\x01")
        assert other.call("publish", "t", b"\x01") == 0
        assert client.call("ping") == 1


def test_a_message_comes_after_the_reply_and_to_each_subscriber_once(
    any_broker: BrokerProcess,
) -> None:
    with any_broker.connect() as one, any_broker.connect() as two, any_broker.connect() as deaf:
        one.call("subscribe", ["t/*", "t/**", "t/1"])
        two.call("subscribe", ["**"])
        one.send([0, 9, "publish", ["t/1", b"\x01"]])
        assert one.receive() == [1, 9, None, 2]
        assert one.receive() == two.receive() == [2, "message", ["t/1", b"\x01"]]
        for client in (one, two, deaf):
            assert client.call("ping") == 0


def test_the_changes_of_a_transaction_come_in_one_piece_and_complete(
    any_broker: BrokerProcess,
) -> None:
    width, rounds = 20, 60

    def transactions(name: str) -> None:
        with any_broker.connect() as client:
            for n in range(rounds):
                value = msgpack.packb(n)
                client.call(
                    "transaction", [], [["set", f"{name}/{i}", value] for i in range(width)]
                )
                client.call("set_many", {f"{name}/{i}": value for i in range(width)})

    def singles() -> None:
        with any_broker.connect() as client:
            for _ in range(rounds):
                client.call("increment", "single")

    with any_broker.connect() as watcher:
        watcher.call("watch", "**")
        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(transactions, name) for name in ("one", "two")]
            writers.append(pool.submit(singles))
            told = [watcher.receive() for _ in range(5 * rounds)]
            for writer in writers:
                writer.result(timeout=60)

    assert [notification[2][0] for notification in told] == list(range(1, 5 * rounds + 1))
    for _, name, params in told:
        if name == "change":
            assert params[2] == "single"
        else:
            _, changes = params
            of = changes[0][1].split("/")[0]
            assert [key for _, key, _ in changes] == [f"{of}/{i}" for i in range(width)]
            assert len({value for _, _, value in changes}) == 1


# --- expiry ---------------------------------------------------------------------------------


def test_expiry_wakes_a_sleeping_broker(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as watcher:
        watcher.call("watch", "a")
        watcher.call("set", "long", b"\x01", {"ttl": 3600})
        before = time.monotonic()
        watcher.call("set", "a", b"\x01", {"ttl": 0.3})
        assert watcher.receive()[2] == [2, "created", "a", b"\x01"]
        assert watcher.receive()[2] == [3, "expired", "a", None]
        assert 0.3 <= time.monotonic() - before < 10
        assert watcher.call("get", "a") is None
        assert watcher.call("ttl", "long") > 3000


def test_a_sooner_deadline_shortens_the_sleep(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as watcher:
        watcher.call("watch", "*")
        client.call("set", "a", b"\x01", {"ttl": 3600})
        client.call("expire", "a", 0.2)
        client.call("set", "b", b"\x01", {"ttl": 0.1})
        told = [watcher.receive()[2][1:3] for _ in range(4)]
    assert told == [["created", "a"], ["created", "b"], ["expired", "b"], ["expired", "a"]]


def test_expiry_goes_by_the_last_deadline_that_was_set(stepped: SteppedBroker) -> None:
    client, _ = stepped.accepted()
    for key in ("later", "sooner", "persisted", "rewritten", "deleted"):
        client.send([2, "set", [key, b"\x01", {"ttl": 10 if key == "sooner" else 1}]])
    client.send(
        [2, "expire", ["later", 3]],
        [2, "expire", ["sooner", 2]],
        [2, "persist", ["persisted"]],
        [2, "set", ["rewritten", b"\x02"]],
        [2, "delete", ["deleted"]],
        [0, 1, "watch", ["**"]],
    )
    stepped.step()
    left = {"later", "sooner", "persisted", "rewritten"}
    for gone in ("", "sooner", "later", ""):
        stepped.now += 1
        stepped.step()
        left -= {gone}
        assert stepped.engine.keyspace.entries.keys() == left


def test_a_deadline_beyond_all_time_does_no_harm(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.call("watch", "soon")
        for key, ttl in (("a", 1.7e308), ("b", 2**64 - 1), ("c", 1e-300)):
            client.call("set", key, b"\x01", {"ttl": ttl})
        client.send([0, 1, "set", ["soon", b"\x01", {"ttl": 0.05}]])
        assert [client.receive()[1] for _ in range(3)] == [1, "change", "change"]
        assert client.call("get_many", ["a", "b", "c"]) == [b"\x01", b"\x01", None]
        assert client.call("ttl", "a") > 1e308


def test_thousands_that_expire_at_once_are_all_told_while_others_are_answered(
    any_broker: BrokerProcess,
) -> None:
    keys = {f"k/{n}": b"\x01" for n in range(5_000)}

    def watch() -> list[Any]:
        return [watcher.receive() for _ in range(1 + len(keys))]

    with any_broker.connect() as watcher, any_broker.connect() as other:
        watcher.call("watch", "**")
        with ThreadPoolExecutor(1) as pool:
            events = pool.submit(watch)
            other.call("set_many", keys, {"ttl": 0.3})
            wait_until(
                lambda: other.call("get", "k/4999") is None and events.done(), "the last expiry"
            )
            (_, name, (revision, written)), *told = events.result()
        expired = [params for _, _, params in told]
        assert other.call("count", "**") == [0, None]
    assert (name, revision) == ("changes", 1)
    assert written == [["created", key, b"\x01"] for key in keys]
    assert {event[1] for event in expired} == {"expired"}
    assert [event[0] for event in expired] == list(range(2, 5_002))
    assert {event[2] for event in expired} == keys.keys()


def test_expiry_takes_a_share_of_a_turn_and_the_others_theirs(stepped: SteppedBroker) -> None:
    client, _ = stepped.accepted()
    keys = {f"k/{n}": b"\x01" for n in range(3 * EXPIRIES_PER_TURN)}
    client.send([0, 1, "set_many", [keys, {"ttl": 1}]])
    stepped.step_until(lambda: stepped.engine.revision)
    assert client.receive() == [1, 1, None, 1]
    stepped.now += 2
    for share in (1, 2, 3):
        client.send([0, share, "ping", []], [0, share, "get", ["k/2999"]])
        stepped.step()
        assert client.receive() == [1, share, None, 1 + share * EXPIRIES_PER_TURN]
        assert client.receive() == [1, share, None, None]  # gone for all, told in a later turn

"""A request that is sent again in its lane is answered again, not carried out again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus.broker.lanes import Lanes
from udsbus.limits import LANES_KEPT, RESUME_SECONDS, SESSION_BYTES, UNANSWERED_MOST
from udsbus.version import PROTOCOL_VERSION
from udsbus.wire.framing import MSGID_MOST

from .stepped import SteppedBroker

LANE = {"session": "s", "lane": 1, "unanswered": 3}


def greet(client: RawClient, **options: Any) -> dict[str, Any]:
    client.send([0, 4_000_000_000, "hello", [PROTOCOL_VERSION, LANE | options]])
    reply = client.receive()
    assert reply[2] is None, reply
    return dict(reply[3])


def ask(client: RawClient, msgid: int, method: str, *params: Any) -> Any:
    """The response, without the msgid."""
    client.send([0, msgid, method, list(params)])
    response = client.receive()
    assert response[:2] == [1, msgid], response
    return response[2:]


REQUESTS: dict[str, list[Any]] = {
    "set": ["a", b"\x05"],
    "set_many": [{"a": b"\x05", "b": b"\x06"}],
    "delete": ["there"],
    "increment": ["number"],
    "expire": ["there", 100.0],
    "persist": ["lease"],
    "transaction": [[["there", 3]], [["increment", "number"], ["get", "there"]]],
    "batch": [[["increment", ["number"]], ["set", ["$", b"\x01"]], ["get", ["there"]]]],
    "publish": ["topic", b"\x05"],
}


def prepare(broker: BrokerProcess) -> RawClient:
    client = broker.connect()
    greet(client)
    assert ask(client, 10, "set", "lease", b"\x01", {"ttl": 1000.0}) == [None, 2]
    assert ask(client, 11, "set", "there", b"\x01") == [None, 3]
    return client


@pytest.mark.parametrize("method", REQUESTS)
def test_the_same_broker(broker: BrokerProcess, method: str) -> None:
    with prepare(broker) as client, broker.connect() as other:
        other.call("subscribe", ["topic"])
        first = ask(client, 12, method, *REQUESTS[method])
        message = other.receive() if method == "publish" else None
        with broker.connect() as again:
            greet(again)
            before = other.call("info")["counters"]
            assert ask(again, 12, method, *REQUESTS[method]) == first
            after = other.call("info")["counters"]
            assert after["changes"] == before["changes"]
            assert after["messages"] == before["messages"]
            assert ask(again, 13, "increment", "number") is not None
            assert message is None or message[1] == "message"


@pytest.mark.parametrize("method", sorted(set(REQUESTS) - {"publish"}))
@pytest.mark.parametrize("durability", ["process", "disk"])
def test_the_next_broker(address: str, runtime: Path, method: str, durability: str) -> None:
    options: dict[str, Any] = {"durability": durability, "state": runtime / "state"}
    with running_broker(address, **options) as broker:
        with prepare(broker) as client:
            first = ask(client, 12, method, *REQUESTS[method])
            revision = client.call("ping")
            broker.kill()
    with running_broker(address, **options) as broker, broker.connect() as again:
        greet(again)
        assert ask(again, 12, method, *REQUESTS[method]) == first
        assert again.call("ping") == revision
        assert ask(again, 13, "increment", "another") == [None, 1]


def test_what_was_refused_is_refused_again(broker: BrokerProcess) -> None:
    """Though it would succeed now: it must not happen after what was asked later. Reads are new."""
    with prepare(broker) as client:
        refused = ask(client, 12, "set", "a", b"\x01", {"if_revision": 7})
        assert refused[0][0] == 5
        assert ask(client, 13, "get", "there") == [None, b"\x01"]
        with broker.connect() as other:
            for number in range(5):
                other.call("set", "a", bytes([number]))
            assert other.call("set", "there", b"\x07") == 9
        with broker.connect() as again:
            greet(again)
            assert ask(again, 12, "set", "a", b"\x01", {"if_revision": 7}) == refused
            assert ask(again, 13, "get", "there") == [None, b"\x07"]


@pytest.mark.parametrize("end", ["lost connection", "kill"])
def test_what_changed_nothing_does_not_happen_later(address: str, runtime: Path, end: str) -> None:
    """Asked again with what came after it, in order: it has its old answer, as that has."""
    options: dict[str, Any] = {"durability": "process", "state": runtime / "state"}
    asked: list[tuple[str, list[Any]]] = [
        ("delete", ["a"]), ("set", ["b", b"\x01", {"if_revision": 99}]), ("set", ["a", b"\x01"]),
    ]  # fmt: skip
    with running_broker(address, **options) as broker:
        with broker.connect() as client:
            greet(client)
            first = [
                ask(client, msgid, method, *params)
                for msgid, (method, params) in enumerate(asked, 20)
            ]
            if end == "kill":
                broker.kill()
            else:
                client.close()
        if end == "lost connection":
            _again(broker, asked, first)
    if end == "kill":
        with running_broker(address, **options) as broker:
            _again(broker, asked, first)


def _again(broker: BrokerProcess, asked: list[tuple[str, list[Any]]], first: list[Any]) -> None:
    with broker.connect() as again:
        greet(again)
        answers = [
            ask(again, msgid, method, *params) for msgid, (method, params) in enumerate(asked, 20)
        ]
        assert answers == first
        assert again.call("get", "a") == b"\x01"
        assert ask(again, 23, "increment", "n") == [None, 1]


def test_what_changed_nothing_beside_a_message(address: str, runtime: Path) -> None:
    """A turn in which there is a message only has no record, and so keeps no answer either."""
    options: dict[str, Any] = {"durability": "process", "state": runtime / "state"}
    with running_broker(address, **options) as broker:
        with broker.connect() as other, broker.connect() as client:
            other.call("subscribe", ["topic"])
            greet(client)
            client.send([0, 20, "delete", ["a"]], [0, 21, "publish", ["topic", b"\x01"]])
            assert [client.receive()[3] for _ in range(2)] == [False, 1]
            assert ask(client, 22, "set", "a", b"\x01") == [None, 2]
            broker.kill()
    with running_broker(address, **options) as broker, broker.connect() as again:
        greet(again)
        assert ask(again, 20, "delete", "a") == [None, False]
        assert again.call("get", "a") == b"\x01"


def test_answers_of_who_only_moves_deadlines(address: str, runtime: Path) -> None:
    """They are introduced to the journal with their answers, not only with changes."""
    options: dict[str, Any] = {"durability": "process", "state": runtime / "state"}
    with running_broker(address, **options) as broker:
        with broker.connect() as other, broker.connect() as client:
            other.call("set", "lease", b"\x01", {"ttl": 1000})
            greet(client)
            assert ask(client, 12, "persist", "lease") == [None, True]
            broker.kill()
    with running_broker(address, **options) as broker, broker.connect() as again:
        greet(again)
        assert ask(again, 12, "persist", "lease") == [None, True]


def test_both_connections_of_a_lane_in_one_turn(stepped: SteppedBroker) -> None:
    """What the old one was just answered, the new one is answered too."""
    old, connection = stepped.accepted()
    new, another = stepped.accepted()
    turn = stepped.turn
    turn.take_lane(connection.number, ("s", 1), 2, 0.0)
    old.send([0, 2, "increment", ["n"]])
    new.send([0, 2, "increment", ["n"]])
    for one in (connection, another):
        if one is another:
            turn.take_lane(another.number, ("s", 1), 2, 0.0)
        turn._read(one, 1, 1_000.0)
    turn._finish(1_000.0)
    assert stepped.receive(new) == [1, 2, None, 1]


def test_a_connection_keeps_its_lane(broker: BrokerProcess) -> None:
    with prepare(broker) as client:
        options = LANE | {"lane": 7}
        assert client.refused("hello", PROTOCOL_VERSION, options)[2]["error"] == "invalid_request"


def test_only_so_many_answers_are_kept(broker: BrokerProcess) -> None:
    with prepare(broker) as client:
        for msgid in range(12, 17):
            assert ask(client, msgid, "increment", "n") == [None, msgid - 11]
        with broker.connect() as again:
            greet(again)
            assert [ask(again, msgid, "increment", "n")[1] for msgid in (14, 15, 16)] == [3, 4, 5]
            assert ask(again, 17, "increment", "n") == [None, 6]


def test_another_lane_or_session_is_another_sequence(broker: BrokerProcess) -> None:
    with prepare(broker) as client:
        assert ask(client, 12, "increment", "n") == [None, 1]
        others: list[dict[str, Any]] = [{"lane": 2}, {"session": "t"}]
        for number, options in enumerate(others, 2):
            with broker.connect() as other:
                greet(other, **options)
                assert ask(other, 12, "increment", "n") == [None, number]
        with broker.connect() as plain:
            assert ask(plain, 12, "increment", "n") == [None, 4]
            assert ask(plain, 12, "increment", "n") == [None, 5]


def test_a_lane_goes_over_one_connection_at_a_time(broker: BrokerProcess) -> None:
    """What the old one has not had carried out yet never will be."""
    with prepare(broker) as client, broker.connect() as again:
        greet(again)
        (closing,) = client.rest()
        assert closing[1:] == ["closing", ["replaced", "another connection goes on with its lane"]]
        assert ask(again, 12, "increment", "n") == [None, 1]
        greet(again)
        assert ask(again, 13, "increment", "n") == [None, 2]


def test_a_pipelined_hello_counts_at_once(broker: BrokerProcess) -> None:
    for _ in range(2):
        with broker.connect() as client:
            client.send([0, 1, "hello", [PROTOCOL_VERSION, LANE]], [0, 2, "increment", ["n"]])
            client.receive()
            assert client.receive() == [1, 2, None, 1]


def test_msgids_go_round(broker: BrokerProcess) -> None:
    with broker.connect() as client:
        greet(client)
        for number, msgid in enumerate([MSGID_MOST - 1, MSGID_MOST, 1], 1):
            assert ask(client, msgid, "increment", "n") == [None, number]
    with broker.connect() as again:
        greet(again)
        assert ask(again, MSGID_MOST, "increment", "n") == [None, 2]
        assert ask(again, 1, "increment", "n") == [None, 3]
        assert ask(again, 2, "increment", "n") == [None, 4]


def test_who_resumes_is_told_which_state_and_which_broker(address: str, runtime: Path) -> None:
    told = []
    for durability in ("process", "process", "none", "none"):
        state = runtime / "state" if durability == "process" else ""
        with running_broker(address, durability=durability, state=state) as broker:
            with broker.connect() as client:
                hello = greet(client)
                told.append((hello["bus"], hello["epoch"]))
                assert client.call("info")["bus"] == hello["bus"]
    assert told[0][0] == told[1][0]
    assert told[0][1] < told[1][1]
    assert len({bus for bus, _ in told}) == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"session": "x" * (SESSION_BYTES + 1)}, "limit_exceeded"),
        ({"unanswered": UNANSWERED_MOST + 1}, "limit_exceeded"),
        ({"unanswered": 0}, "invalid_request"),
        ({"lane": -1}, "invalid_request"),
        ({"session": 5}, "invalid_request"),
    ],
)
def test_wrong_options(broker: BrokerProcess, options: dict[str, Any], error: str) -> None:
    with broker.connect() as client:
        assert client.refused("hello", PROTOCOL_VERSION, LANE | options)[2]["error"] == error
        assert client.call("ping") == 0


def test_what_a_failing_journal_takes_back_is_not_answered(address: str, runtime: Path) -> None:
    """The answer that was never given must not be given later."""
    from .test_durability import full_disk

    state = runtime / "state"
    with running_broker(address, durability="process", state=state) as broker:
        with prepare(broker) as client:
            with full_disk(broker, state):
                assert ask(client, 12, "increment", "n")[0][0] == 12
                with broker.connect() as again:
                    greet(again)
                    assert ask(again, 12, "increment", "n")[0][0] == 12
            with broker.connect() as once_more:
                greet(once_more)
                wait_until(lambda: ask(once_more, 12, "increment", "n") == [None, 1], "room again")


# --- what is kept, and for how long -----------------------------------------------------------


def test_a_lane_is_forgotten_after_a_while(stepped: SteppedBroker) -> None:
    lanes = stepped.turn._lanes
    key = ("s", 1)
    lane, _ = lanes.take(key, 2, 1, 0.0)
    lane.answers.append((5, b"five"))
    lanes.leave(lane, 1, 10.0)
    assert lanes.take(key, 2, 2, 10.0 + RESUME_SECONDS - 1)[0] is lane
    lanes.leave(lane, 1, 20.0)  # the old connection's end comes after the new one's beginning
    lanes.take(("other", 1), 2, 3, 1e6)
    assert lanes.take(key, 2, 2, 1e6)[0] is lane
    lanes.leave(lane, 2, 1e6)
    assert lanes.take(key, 2, 4, 1e6 + RESUME_SECONDS + 1)[0] is not lane


def test_so_many_lanes_are_kept_and_no_more() -> None:
    lanes = Lanes()
    for number in range(LANES_KEPT + 50):
        lane, _ = lanes.take(("s", number), 1, number + 1, 0.0)
        lanes.leave(lane, number + 1, 0.0)
    assert len(lanes) == LANES_KEPT
    for number in range(50):
        lanes.restore(("t", number), 1, b"", 0.0)
    assert len(lanes) == LANES_KEPT


@pytest.mark.parametrize("put_first", [True, False])
def test_who_waits_and_comes_back_in_the_turn_that_serves_him(
    broker: BrokerProcess, put_first: bool
) -> None:
    """Over another connection, in the same turn as the item: it goes to him, and to him only."""
    with broker.connect() as lost, broker.connect() as back, broker.connect() as putter:
        hello = {"session": "taker", "lane": 1, "unanswered": 2}
        lost.call("hello", 1, hello)
        lost.send([0, 70, "take", ["q"]])
        wait_until(lambda: putter.call("queue", "q")["takers"] == 1, "it to wait")
        back.call("ping")
        os.kill(broker.pid, signal.SIGSTOP)
        if put_first:
            putter.send([0, 71, "put", ["q", b"\x07"]])
        back.send([0, 69, "hello", [1, hello]], [0, 70, "take", ["q"]])
        if not put_first:
            putter.send([0, 71, "put", ["q", b"\x07"]])
        os.kill(broker.pid, signal.SIGCONT)
        assert putter.receive()[:3] == [1, 71, None]
        assert back.receive()[:3] == [1, 69, None]
        answer = back.receive()
        assert answer[:3] == [1, 70, None]
        assert answer[3][1] == b"\x07"
        about = putter.call("queue", "q")
        assert (about["items"], about["takers"]) == (0, 0)


def test_answers_that_have_come_are_forgotten(broker: BrokerProcess) -> None:
    """But for those that the client misses; and what it asks again of the others is new."""
    with broker.connect() as client:
        greet(client, unanswered=100)
        for msgid in range(10, 20):
            assert ask(client, msgid, "increment", "number") == [None, msgid - 9]
        assert ask(client, 20, "received", 18, [12]) == [None, True]
    with broker.connect() as again:
        greet(again, unanswered=100)
        assert ask(again, 12, "increment", "number") == [None, 3]
        assert ask(again, 13, "increment", "number") == [None, 11]
        assert ask(again, 19, "increment", "number") == [None, 10]


def test_without_a_lane_nothing_is_kept(raw: RawClient) -> None:
    assert raw.call("received", 7, []) is False


def test_what_is_not_known_to_have_come_is_kept(broker: BrokerProcess) -> None:
    """However much it is, up to what the client has said."""
    with broker.connect() as client:
        greet(client, unanswered=1_000)
        for msgid in range(1, 1_001):
            ask(client, msgid, "increment", "number")
    with broker.connect() as again:
        greet(again, unanswered=1_000)
        assert [ask(again, msgid, "increment", "number") for msgid in range(1, 1_001)] == [
            [None, number] for number in range(1, 1_001)
        ]


@pytest.mark.parametrize(
    ("method", "params"),
    [("take", ["q"]), ("acquire", ["l", 7, 0]), ("put", ["full", b"\x01", {"maxsize": 1}])],
)
def test_who_waits_may_stop(broker: BrokerProcess, method: str, params: list[Any]) -> None:
    with broker.connect() as client, broker.connect() as other:
        greet(client)
        other.call("hello", 1, {"session": "other", "lane": 1})
        other.call("acquire", "l", 1, 0)
        other.call("put", "full", b"\x01")
        client.send([0, 12, method, params])
        wait_until(lambda: other.call("info")["waiting"] == 1, "it to wait")
        client.send([0, 13, "cancel", [12]])
        answers = sorted(client.receive()[1:] for _ in range(2))
        assert answers == [[12, None, None], [13, None, True]]
        assert ask(client, 14, "cancel", 12) == [None, False]
        assert other.call("info")["waiting"] == 0
        other.call("put", "q", b"\x02")
        assert other.call("queue", "q")["items"] == 1, "nobody has taken it"


def test_nobody_stops_another(broker: BrokerProcess) -> None:
    with broker.connect() as client, broker.connect() as other:
        greet(client)
        client.send([0, 12, "take", ["q"]])
        wait_until(lambda: other.call("info")["waiting"] == 1, "it to wait")
        assert other.call("cancel", 12) is False
        assert other.call("info")["waiting"] == 1

"""Nobody's flood keeps the others waiting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack

from tests.harness import BrokerProcess, RawClient
from udsbus.limits import ACCEPTS_PER_TURN, OUTPUT_PAUSE_BYTES, REQUESTS_PER_TURN
from udsbus.messages import Set

from .stepped import SteppedBroker

FLOOD = 200_000


def test_a_flood_does_not_starve_another_connection(any_broker: BrokerProcess) -> None:
    """The other one does its round trips while a flood comes in that only ends after them."""
    batch = msgpack.packb([2, "increment", ["flood"]]) * 1_000
    enough = threading.Event()

    def flood() -> None:
        while not enough.is_set():
            flooding.socket.sendall(batch)

    with any_broker.connect() as flooding, any_broker.connect() as other:
        other.call("set", "flood", b"\x00")
        counts: list[int] = []
        with ThreadPoolExecutor(1) as pool:
            flooded = pool.submit(flood)
            try:
                while len(counts) < 200 or counts[-1] < FLOOD:
                    counts.append(msgpack.unpackb(other.call("get", "flood")))
                    assert len(counts) < FLOOD
            finally:
                enough.set()
            flooded.result(timeout=60)
        assert counts == sorted(counts)
        assert flooding.call("ping") >= FLOOD


def test_requests_that_are_short_to_send_and_long_to_carry_out(broker: BrokerProcess) -> None:
    """The share of a turn is of time too: 512 scans of many keys would be seconds."""
    with broker.connect() as flooding, broker.connect() as other:
        for n in range(2):
            flooding.call("set_many", {f"k/{n}/{i}": b"\x01" for i in range(1_000)})
        flooding.send(*[[0, n, "count", ["**/none"]] for n in range(REQUESTS_PER_TURN)])
        assert flooding.receive()[:3] == [1, 0, None]
        for _ in range(3):
            other.call("ping")
        answered = 1 + answers_in_the_socket(flooding)
        assert answered < REQUESTS_PER_TURN, "all were carried out before anyone else's request"


def answers_in_the_socket(client: RawClient) -> int:
    """How many answers have arrived by now."""
    client.socket.settimeout(0)
    answers = 0
    try:
        while True:
            client.receive()
            answers += 1
    except BlockingIOError:
        return answers
    finally:
        client.socket.settimeout(20)


# --- turn by turn ---------------------------------------------------------------------------


def test_a_connection_has_its_share_of_a_turn(stepped: SteppedBroker) -> None:
    floods = [stepped.accepted()[0] for _ in range(2)]
    other, _ = stepped.accepted()
    for name, flooding in zip("ab", floods, strict=True):
        requests = [[2, "increment", [name]] for _ in range(3 * REQUESTS_PER_TURN)]
        flooding.send(*requests, [0, 1, "ping", []])
    for turn in (1, 2, 3):
        other.send([0, turn, "get_many", [["a", "b"]]])
        stepped.step()
        done = msgpack.packb(turn * REQUESTS_PER_TURN)
        assert other.receive() == [1, turn, None, [done, done]]
    stepped.step()
    assert [flooding.receive()[:2] for flooding in floods] == [[1, 1], [1, 1]]


def test_left_over_requests_go_on_without_anything_else_happening(stepped: SteppedBroker) -> None:
    client, connection = stepped.accepted()
    number = 2 * REQUESTS_PER_TURN + 1
    client.send(*[[0, n, "increment", ["n"]] for n in range(number)])
    for _ in range(3):
        stepped.step()
    assert not connection.requests
    assert [client.receive() for _ in range(number)] == [[1, n, None, n + 1] for n in range(number)]


def test_big_replies_end_a_share_early(stepped: SteppedBroker) -> None:
    client, connection = stepped.accepted()
    value = b"x" * (OUTPUT_PAUSE_BYTES // 8)
    stepped.engine.execute(0, Set("a", value), stepped.now)
    client.send(*[[0, n, "get", ["a"]] for n in range(100)])
    stepped.step()
    assert 0 < connection.waiting_bytes < 2 * OUTPUT_PAUSE_BYTES
    assert len(connection.requests) > 90


def test_an_accept_storm_has_its_share_of_a_turn(stepped: SteppedBroker) -> None:
    client, _ = stepped.accepted()
    crowd = [stepped.connect() for _ in range(ACCEPTS_PER_TURN + 10)]
    client.send([0, 1, "ping", []])
    stepped.step()
    assert client.receive() == [1, 1, None, 0]
    assert len(stepped.turn.connections) == 1 + ACCEPTS_PER_TURN
    stepped.step()
    assert len(stepped.turn.connections) == 1 + len(crowd)

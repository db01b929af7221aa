"""The broker tells those who follow that it lives, and ends those of whom it hears nothing."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from tests.harness import BrokerProcess, RawClient, wait_until
from udsbus import messages as m
from udsbus.broker.connection import Connection
from udsbus.limits import (
    BEAT_SLACK,
    BEATS_MISSED,
    BEATS_PER_TURN,
    HEARTBEAT_LEAST,
    HEARTBEAT_MOST,
    MIB,
)
from udsbus.terms import CloseReason

from .stepped import SteppedBroker

INTERVAL = 5.0
SET_MUCH = m.Set("a/much", bytes(4 * MIB))


def follower(stepped: SteppedBroker, *methods: str) -> tuple[RawClient, Connection]:
    """A client with a heartbeat that watches or subscribes to `a/**`."""
    client, connection = stepped.accepted()
    assert stepped.turn.beats.agree(connection, INTERVAL, stepped.now) == INTERVAL
    for method in methods or ("watch",):
        client.send([0, 0, method, ["a/**" if method == "watch" else ["a/**"]]])
        stepped.receive(client)
    return client, connection


def beat(stepped: SteppedBroker, seconds: float = INTERVAL) -> None:
    stepped.now += seconds
    stepped.step()


def received(client: RawClient) -> list[Any]:
    """What has come and is whole."""
    client.socket.settimeout(0)
    messages: list[Any] = []
    try:
        while True:
            messages.append(client.receive())
    except (BlockingIOError, EOFError, ConnectionResetError):
        client.socket.settimeout(20)
        return messages


# --- what the broker says -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["watch", "subscribe"])
def test_it_beats_for_those_who_follow(stepped: SteppedBroker, method: str) -> None:
    client, _ = follower(stepped, method)
    assert stepped.turn._next_due() == stepped.now + INTERVAL
    beat(stepped, INTERVAL - 2 * BEAT_SLACK)
    assert received(client) == []
    beat(stepped, 2 * BEAT_SLACK)
    assert received(client) == [[2, "ping", [0]]]
    client.send([2, "pong", [0]])
    beat(stepped)
    assert received(client) == [[2, "ping", [0]]]
    assert stepped.statistics.refused == 0


@pytest.mark.parametrize("how", ["unwatch", "before", "no heartbeat", "gone"])
def test_it_does_not_wake_up_for_others(stepped: SteppedBroker, how: str) -> None:
    if how == "unwatch":
        client, _ = follower(stepped)
        client.send([0, 0, "unwatch", [1]])
        stepped.receive(client)
        beat(stepped)  # it looks once more
    elif how == "before":
        client, connection = stepped.accepted()
        stepped.turn.beats.agree(connection, INTERVAL, stepped.now)
    elif how == "no heartbeat":
        client, connection = stepped.accepted()
        assert stepped.turn.beats.agree(connection, None, stepped.now) is None
        client.send([0, 0, "watch", ["a"]])
        stepped.receive(client)
    else:
        client, _ = follower(stepped)
        client.close()
        beat(stepped)
        stepped.turn.sessions.due = inf
    assert stepped.turn._next_due() == inf
    if how == "gone":
        return
    for _ in range(BEATS_MISSED + 1):
        beat(stepped)
    assert received(client) == []
    assert stepped.closed(CloseReason.SILENT) == 0


def test_it_beats_again_for_one_who_follows_again(stepped: SteppedBroker) -> None:
    client, _ = follower(stepped)
    for number in range(1, 3):
        client.send([0, 0, "unwatch", [number]])
        stepped.receive(client)
        for _ in range(BEATS_MISSED + 1):
            beat(stepped)
        client.send([0, 0, "watch", ["a"]])
        stepped.receive(client)
        beat(stepped)
        assert received(client) == [[2, "ping", [0]]]


def test_one_who_agrees_after_he_watches(stepped: SteppedBroker) -> None:
    client, connection = stepped.accepted()
    client.send([0, 0, "watch", ["a"]])
    stepped.receive(client)
    stepped.turn.beats.agree(connection, INTERVAL, stepped.now)
    beat(stepped)
    assert received(client) == [[2, "ping", [0]]]


def test_all_up_to_its_revision_has_been_told(stepped: SteppedBroker) -> None:
    """Also what is changed in the very turn that beats."""
    client, _ = follower(stepped)
    other, _ = stepped.accepted()
    stepped.now += INTERVAL
    other.send([0, 1, "set", ["a/b", b"\x01"]], [0, 2, "set", ["elsewhere", b"\x01"]])
    stepped.step()
    assert received(client) == [
        [2, "change", [1, "created", "a/b", b"\x01"]],
        [2, "ping", [2]],
    ]


def test_the_interval_is_kept_within_limits(stepped: SteppedBroker) -> None:
    for wished, agreed in ((1e-9, HEARTBEAT_LEAST), (7.5, 7.5), (1e9, HEARTBEAT_MOST)):
        _, connection = stepped.accepted()
        assert stepped.turn.beats.agree(connection, wished, stepped.now) == agreed
        assert stepped.turn.beats.agree(connection, 5.0, stepped.now) == agreed
        assert stepped.turn.beats.agree(connection, None, stepped.now) == agreed


def test_many_make_no_long_turn(stepped: SteppedBroker) -> None:
    clients = [follower(stepped)[0] for _ in range(BEATS_PER_TURN + 40)]
    stepped.now += INTERVAL
    told = []
    for _ in range(3):
        stepped.step()
        told.append(sum(len(received(client)) for client in clients))
    assert told == [BEATS_PER_TURN, 40, 0]


def test_they_do_not_beat_all_at_once(stepped: SteppedBroker) -> None:
    """But in the order in which they came, with as much between them."""
    first, _ = follower(stepped)
    stepped.now += INTERVAL / 2
    second, _ = follower(stepped)
    for _ in range(BEATS_MISSED + 2):
        for client in (first, second):
            beat(stepped, INTERVAL / 2)
            assert received(client) == [[2, "ping", [0]]]
            client.send([2, "pong", [0]])
            stepped.step()


# --- who is taken to hang -------------------------------------------------------------------------


def test_one_who_says_nothing_is_ended_and_told_why(stepped: SteppedBroker) -> None:
    client, _ = follower(stepped)
    beat(stepped)  # it has watched since the last one
    for _ in range(BEATS_MISSED - 1):
        beat(stepped)
    assert stepped.closed(CloseReason.SILENT) == 0
    beat(stepped)
    *pings, closing = client.rest()
    assert pings == [[2, "ping", [0]]] * BEATS_MISSED
    assert closing == [2, "closing", ["silent", "nothing was heard of you for 15 s"]]
    assert stepped.closed(CloseReason.SILENT) == 1
    assert stepped.turn._next_due() == inf


@pytest.mark.parametrize("sign", ["pong", "request", "half a message", "nonsense"])
def test_whatever_comes_is_a_sign_of_life(stepped: SteppedBroker, sign: str) -> None:
    client, _ = follower(stepped)
    for number in range(3 * BEATS_MISSED):
        if number % BEATS_MISSED == BEATS_MISSED - 1:
            if sign == "pong":
                client.send([2, "pong", [0]])
            elif sign == "request":
                client.send([0, 1, "get", ["a"]])
            elif sign == "half a message" and number < BEATS_MISSED:
                client.socket.sendall(b"\x94\x00\x01")
            elif sign == "half a message":
                client.socket.sendall(b"\xa4" if number < 2 * BEATS_MISSED else b"pi")
            else:
                client.send([2, "nobody knows this", [0]])
        beat(stepped)
    assert stepped.closed(CloseReason.SILENT) == 0
    assert [message[:2] for message in received(client)].count([2, "ping"]) == 3 * BEATS_MISSED


def test_a_broker_that_was_stopped_blames_nobody(stepped: SteppedBroker) -> None:
    """For it, one beat was late."""
    client, _ = follower(stepped)
    beat(stepped)
    beat(stepped, 1_000 * INTERVAL)
    stepped.step()
    assert received(client) == [[2, "ping", [0]]] * 2
    assert stepped.closed(CloseReason.SILENT) == 0
    for _ in range(BEATS_MISSED - 1):
        beat(stepped)
    assert stepped.closed(CloseReason.SILENT) == 1


def test_what_is_there_and_not_read_yet_counts(stepped: SteppedBroker) -> None:
    client, _ = follower(stepped)
    for _ in range(BEATS_MISSED):
        beat(stepped)
    client.send([2, "pong", [0]])
    stepped.now += INTERVAL
    stepped.turn.turn([])  # in which nothing is read
    assert stepped.closed(CloseReason.SILENT) == 0
    stepped.step()
    beat(stepped)
    assert stepped.closed(CloseReason.SILENT) == 0


def test_one_who_takes_nothing_gets_no_more_beats_and_is_silent(stepped: SteppedBroker) -> None:
    client, connection = follower(stepped)
    stepped.engine.execute(0, SET_MUCH, stepped.now)
    stepped.step()
    waiting = connection.waiting_bytes
    assert connection.paused
    client.send(*[[2, "pong", [0]]] * 3)  # which is not read
    for _ in range(BEATS_MISSED):
        beat(stepped)
    assert connection.waiting_bytes == waiting
    assert stepped.closed(CloseReason.SILENT) == 0
    beat(stepped)
    assert connection.ended is CloseReason.SILENT


def test_one_who_takes_what_was_waiting_is_not_silent(stepped: SteppedBroker) -> None:
    client, connection = follower(stepped)
    stepped.engine.execute(0, SET_MUCH, stepped.now)
    stepped.step()
    for _ in range(3 * BEATS_MISSED):
        waiting = connection.waiting_bytes
        while connection.waiting_bytes == waiting:
            client.socket.recv(1 << 16)
            stepped.step()
        beat(stepped)
    assert connection.ended is None


def test_one_who_has_ended_his_half_may_listen(stepped: SteppedBroker) -> None:
    if not stepped.hub.tells_hangup:
        pytest.skip("he is not heard of here")
    client, _ = follower(stepped)
    client.socket.shutdown(1)
    for _ in range(3 * BEATS_MISSED):
        beat(stepped)
    assert received(client) == [[2, "ping", [0]]] * 3 * BEATS_MISSED


# --- a real broker --------------------------------------------------------------------------------


def test_hello_agrees_on_an_interval(broker: BrokerProcess, raw: RawClient) -> None:
    assert raw.call("hello", 1)["heartbeat"] is None
    assert raw.call("hello", 1, {"heartbeat": 1e-3})["heartbeat"] == HEARTBEAT_LEAST
    number, message, _ = raw.refused("hello", 1, {"heartbeat": 0})
    assert (number, "heartbeat must be a number of seconds above 0" in message) == (2, True)


def test_a_silent_client_is_counted(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as lively:
        for each in (client, lively):
            each.call("hello", 1, {"heartbeat": HEARTBEAT_LEAST})
            each.call("subscribe", ["a"])
        for _ in range(3 * BEATS_MISSED):
            assert lively.receive() == [2, "ping", [0]]
            lively.send([2, "pong", [0]])
        *pings, closing = client.rest()
        assert pings == [[2, "ping", [0]]] * len(pings)
        assert closing[:2] == [2, "closing"]
        assert closing[2][0] == "silent"

        def counted() -> Any:
            with any_broker.connect() as other:
                return other.call("info")["counters"]["closed"].get("silent")

        wait_until(lambda: counted() == 1, "the end of one of them")

"""Output that a peer does not take: bounded, in order, and nobody else's trouble."""

from __future__ import annotations

import contextlib
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest

from tests.harness import BrokerProcess, RawClient
from udsbus.broker import answering
from udsbus.limits import (
    DRAIN_SECONDS,
    FRAME_BYTES,
    KEPT_BYTES,
    MIB,
    OUTPUT_HARD_BYTES,
    VALUE_BYTES,
)
from udsbus.messages import Set
from udsbus.terms import CloseReason
from udsbus.wire import encoding

from .stepped import SteppedBroker


def closed(client: RawClient) -> dict[str, int]:
    """The broker's count of closed connections by reason."""
    counts: dict[str, int] = client.call("info")["counters"]["closed"]
    return counts


# --- replies --------------------------------------------------------------------------------


def test_a_peer_that_does_not_take_its_replies_is_paused(any_broker: BrokerProcess) -> None:
    number, size = 300, MIB
    with any_broker.connect() as peer, any_broker.connect() as other:
        other.call("set", "big", bytes(size))
        before = any_broker.rss_bytes()
        peer.send(*[[0, n, "get", ["big"]] for n in range(number)])
        for _ in range(number):  # each needs a turn of its own, in which the peer has its share
            other.call("ping")
        assert any_broker.rss_bytes() - before < 32 * MIB
        for n in range(number):
            response = peer.receive()
            assert response[:3] == [1, n, None]
            assert len(response[3]) == size
        assert peer.call("ping") == 1


def test_a_paused_peer_cannot_go_on_asking(any_broker: BrokerProcess) -> None:
    """What it sends stays in the socket, until that is full."""
    with any_broker.connect() as peer, any_broker.connect() as other:
        other.call("set", "big", bytes(4 * MIB))
        questions = memoryview(
            msgpack.packb([0, 0, "get", ["big"]]) + msgpack.packb([2, "increment", ["n"]]) * 40_000
        )
        peer.socket.settimeout(0)
        for _ in range(200):  # not at once: the broker may not have come to the first one yet
            with contextlib.suppress(BlockingIOError):
                questions = questions[peer.socket.send(questions) :]
            other.call("ping")
        assert len(questions) > 100_000
        assert other.call("get", "n") is None
        peer.socket.settimeout(20)
        assert len(peer.receive()[3]) == 4 * MIB
        peer.socket.sendall(questions)
        assert peer.call("get", "n") == msgpack.packb(40_000)


def test_values_of_every_size_come_back_as_they_went(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as watcher:
        watcher.call("watch", "a")
        for size in (1, 255, 65_535, 65_536, 212_992, MIB + 1, 16 * MIB, VALUE_BYTES):
            value = bytes([size % 251]) * size
            revision = client.call("set", "a", value)
            assert client.call("get", "a") == value
            change = watcher.receive()
            assert change[2][0] == revision
            assert change[2][3] == value


def test_a_value_above_the_limit_is_refused_and_the_connection_lives_on(
    any_broker: BrokerProcess,
) -> None:
    with any_broker.connect() as client:
        number, message, details = client.refused("set", "a", bytes(33 * MIB))
        assert number == 7
        assert str(VALUE_BYTES) in message
        assert details == {
            "error": "limit_exceeded", "limit": "value_bytes",
            "maximum": VALUE_BYTES, "actual": 33 * MIB,
        }  # fmt: skip
        assert client.call("get", "a") is None
        assert client.call("set", "a", b"\x01") == 1


def test_a_frame_above_the_limit_ends_the_connection_with_an_explanation(
    any_broker: BrokerProcess,
) -> None:
    def send() -> None:
        try:
            client.send([0, 1, "set", ["a", b"\x01"]])
            client.send([0, 2, "set", ["a", bytes(FRAME_BYTES + MIB)]])
        except (BrokenPipeError, ConnectionResetError):
            pass

    with any_broker.connect() as client, any_broker.connect() as other:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            messages = client.rest()
            sending.result(timeout=60)
        assert messages[0] == [1, 1, None, 1]
        kind, name, (reason, message) = messages[1]
        assert (kind, name, reason) == (2, "closing", "too_large")
        assert str(FRAME_BYTES) in message
        assert len(messages) == 2
        assert closed(other)["too_large"] == 1
        assert other.call("get", "a") == b"\x01"


def test_replies_wait_in_order_behind_what_the_socket_did_not_take(
    stepped: SteppedBroker,
) -> None:
    client, connection = stepped.accepted()
    stepped.engine.execute(0, Set("big", bytes(MIB // 2)), stepped.now)
    for n in range(0, 40, 2):
        client.send([0, n, "get", ["big"]], [0, n + 1, "ping", []])
        stepped.step()
    assert connection.paused
    answers = [stepped.receive(client) for _ in range(40)]
    assert [answer[1] for answer in answers] == list(range(40))
    stepped.step()
    assert not connection.paused
    assert connection.waiting_bytes == 0


# --- events ---------------------------------------------------------------------------------


def test_a_subscriber_that_never_reads_takes_no_more_and_no_one_else_notices(
    any_broker: BrokerProcess,
) -> None:
    size, number = 4 * MIB, 60
    with (
        any_broker.connect() as slow,
        any_broker.connect() as good,
        any_broker.connect() as writer,
    ):
        slow.call("watch", "a")
        good.call("watch", "a")
        for n in range(1, number + 1):
            revision = writer.call("set", "a", bytes([n]) * size)
            assert good.receive()[2][0] == revision
        info = writer.call("info")
        assert (info["connections"], info["behind"], info["counters"]["closed"]) == (3, 1, {})
        assert any_broker.rss_bytes() < 4 * OUTPUT_HARD_BYTES


def test_a_slow_subscriber_that_is_not_behind_misses_nothing(broker: BrokerProcess) -> None:
    size, number = MIB // 4, 100
    with broker.connect() as slow, broker.connect() as writer:
        slow.call("watch", "a")
        for _ in range(number):
            writer.call("set", "a", bytes(size))
        assert [slow.receive()[2][0] for _ in range(number)] == list(range(1, number + 1))
        assert slow.call("ping") == number
        assert not closed(writer)


def test_many_small_events_that_wait_take_no_more_memory_than_they_may(
    broker: BrokerProcess,
) -> None:
    """OUTPUT_HARD_BYTES bounds memory only if what is counted is near what is held."""
    with broker.crowd(50) as slow, broker.connect() as writer:
        for client in slow:
            client.call("watch", "a")
        writer.call("set", "a", bytes(MIB))  # fills their sockets
        writer.call("ping")  # the writer has its reply before the others their event
        before = broker.rss_bytes()
        events, frame = 4_000, len(msgpack.packb([2, "change", [9_999, "updated", "a", b"\x01"]]))
        for _ in range(events):
            writer.call("set", "a", b"\x01")
        counted = events * frame * len(slow)
        assert broker.rss_bytes() - before < 3 * counted + 8 * MIB


# --- the time that a peer has ---------------------------------------------------------------


def test_a_peer_that_is_ended_and_takes_nothing_has_a_while(stepped: SteppedBroker) -> None:
    client, connection = stepped.accepted()
    stepped.engine.execute(0, Set("big", bytes(MIB // 2)), stepped.now)
    client.send([0, 1, "get", ["big"]])
    client.socket.sendall(b"\xc1")
    stepped.step()
    assert connection.ended is CloseReason.BAD_BYTES
    stepped.now += DRAIN_SECONDS - 0.1
    stepped.step()
    assert not stepped.closed(CloseReason.BAD_BYTES)
    stepped.now += 0.2
    stepped.step()
    assert stepped.closed(CloseReason.BAD_BYTES) == 1
    assert not stepped.turn.connections


def test_a_sleeping_broker_wakes_up_to_close_it(broker: BrokerProcess) -> None:
    with broker.connect() as client:
        client.call("set", "big", bytes(MIB // 2))
        client.send([0, 1, "get", ["big"]])
        client.socket.sendall(b"\xc1")
        poll = select.poll()
        poll.register(client.socket, 0)
        assert poll.poll(20_000) == [(client.socket.fileno(), select.POLLHUP)]


def test_a_half_closed_peer_that_takes_its_replies_slowly_gets_them_all(
    stepped: SteppedBroker,
) -> None:
    """It asked, said that it has finished asking, and is reading: nothing entitles us to stop."""
    client, _ = stepped.accepted()
    stepped.engine.execute(0, Set("big", bytes(8 * MIB)), 0)
    client.send([0, 1, "get", ["big"]])
    client.socket.shutdown(socket.SHUT_WR)
    received = 0
    for _ in range(10_000):
        stepped.now += 0.5
        stepped.step()
        data = client.socket.recv(64 * 1024)
        received += len(data)
        if not data:
            break
    assert received > 8 * MIB


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ([0, 1, "get", ["small"]], True),
        ([0, 1, "get", ["large"]], False),
        ([0, 1, "get_many", [["small"] * 9, {"native": True}]], True),
        ([0, 1, "get_many", [["large"] * 2, {"native": True}]], False),  # refused, but packed
        ([2, "get", ["large"]], True),
    ],
)
def test_the_packer_of_a_large_reply_is_not_kept(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch, message: list[Any], kept: bool
) -> None:
    """Its buffer is as large as the largest reply or event, and never shrinks. What needs no reply
    has none packed."""
    monkeypatch.setattr(answering, "FRAME_BYTES", 2 * KEPT_BYTES)
    client, _ = stepped.accepted()
    stepped.engine.execute(0, Set("large", msgpack.packb(b"x" * KEPT_BYTES)), stepped.now)
    stepped.engine.execute(0, Set("small", msgpack.packb(b"x")), stepped.now)
    before = encoding._pack
    client.send(message)
    stepped.step()
    assert (encoding._pack is before) == kept

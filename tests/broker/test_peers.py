"""Peers come in crowds, close one half or both, vanish, and are too many."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time

import msgpack
import pytest

from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus.limits import MIB


def connections(client: RawClient) -> int:
    number: int = client.call("info")["connections"]
    return number


# --- half-closed ----------------------------------------------------------------------------


def test_a_half_closed_peer_gets_its_replies_and_then_the_end(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        other.call("set", "big", bytes(3 * MIB))
        requests = [[0, n, "get", ["big"]] for n in range(10)]
        client.send(*requests, *[[0, n, "increment", ["n"]] for n in range(10, 2_000)])
        client.socket.shutdown(socket.SHUT_WR)
        messages = client.rest()
        assert [message[:3] for message in messages] == [[1, n, None] for n in range(2_000)]
        assert other.call("get", "n") == msgpack.packb(1_990)
        assert connections(other) == 1


def test_a_half_closed_peer_without_a_question_is_closed(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == []
        assert connections(other) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_half_closed_subscriber_gets_events_until_it_closes(address: str, backend: str) -> None:
    """`printf … | socat` is one. Only epoll says when it closes, so elsewhere it gets none."""
    with running_broker(address, backend=backend) as broker, broker.connect() as other:
        with broker.connect() as client:
            client.send([0, 1, "watch", ["a"]], [0, 2, "subscribe", [["t"]]])
            client.socket.shutdown(socket.SHUT_WR)
            assert [client.receive()[1] for _ in range(2)] == [1, 2]
            for n in range(1, 100):
                other.call("set", "a", bytes([n]) * 10_000)
                other.call("publish", "t", bytes([n]))
                change, message = client.receive(), client.receive()
                assert change[2][0] == n
                assert message[2] == ["t", bytes([n])]
            assert connections(other) == 2
        wait_until(lambda: connections(other) == 1, "the end of the subscriber")
        assert other.call("info")["watches"] == 0
        assert other.call("info")["subscriptions"] == 0
        assert other.call("info")["counters"]["closed"] == {"peer_closed": 1}


def test_a_half_closed_subscriber_is_closed_where_nothing_would_tell_of_its_end(
    address: str,
) -> None:
    with running_broker(address, hub="selector") as broker, broker.connect() as client:
        client.send([0, 1, "watch", ["a"]])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == [[1, 1, None, [1, 0, []]]]


# --- gone -----------------------------------------------------------------------------------


def test_a_peer_that_vanishes_in_the_middle_of_a_frame(any_broker: BrokerProcess) -> None:
    frame = msgpack.packb([0, 1, "set", ["a", bytes(200_000)]])
    with any_broker.connect() as other:
        for length in (1, 5, len(frame) // 2, len(frame) - 1):
            with any_broker.connect() as client:
                client.socket.sendall(frame[:length])
        wait_until(lambda: connections(other) == 1, "the end of the others")
        assert other.call("get", "a") is None
        assert other.call("info")["counters"]["closed"] == {"peer_closed": 4}


def test_a_peer_that_closes_with_replies_unread(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as other:
        other.call("set", "big", bytes(MIB))
        for _ in range(20):
            with any_broker.connect() as client:
                client.call("watch", "**")
                client.send(*[[0, n, "get", ["big"]] for n in range(20)])
                client.socket.recv(1)
        wait_until(lambda: connections(other) == 1, "the end of the others")
        assert other.call("info")["watches"] == 0
        assert other.call("set", "a", b"\x01") == 2


def test_a_connection_that_the_kernel_breaks_is_counted_as_such(any_broker: BrokerProcess) -> None:
    """To close with something unread resets a Unix socket."""
    with any_broker.connect() as other:
        with any_broker.connect() as client:
            client.send([0, 1, "ping", []])
            client.socket.recv(1)
        wait_until(lambda: connections(other) == 1, "the end of the other")
        assert other.call("info")["counters"]["closed"] == {"peer_reset": 1}


def test_notifications_of_a_peer_that_closes_at_once_are_carried_out(
    any_broker: BrokerProcess,
) -> None:
    with any_broker.connect() as other:
        with any_broker.connect() as client:
            client.send(*[[2, "increment", ["n"]] for _ in range(5_000)])
        wait_until(lambda: connections(other) == 1, "the end of the other")
        assert other.call("get", "n") == msgpack.packb(5_000)


def test_what_a_peer_watched_is_forgotten_with_it(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as other:
        with any_broker.connect() as client:
            for n in range(100):
                client.call("watch", f"a/{n}/**")
                client.call("subscribe", [f"t/{n}", "**"])
        wait_until(lambda: connections(other) == 1, "the end of the other")
        info = other.call("info")
        assert (info["watches"], info["subscriptions"]) == (0, 0)
        assert other.call("publish", "t/1", b"\x01") == 0


# --- many -----------------------------------------------------------------------------------


def test_a_thousand_connections_at_once_are_all_answered(any_broker: BrokerProcess) -> None:
    number = 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * number:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * number), hard))
    try:
        with any_broker.crowd(number) as clients:
            for n, client in enumerate(clients):
                client.send([0, n, "increment", ["n"]])
            answers = [client.receive() for client in clients]
            assert [answer[:3] for answer in answers] == [[1, n, None] for n in range(number)]
            assert sorted(answer[3] for answer in answers) == list(range(1, number + 1))
            info = clients[0].call("info")
            assert info["connections"] == info["counters"]["accepted"] == number
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with any_broker.connect() as client:
        wait_until(lambda: connections(client) == 1, "the end of them all")


def test_descriptors_come_and_go_with_connections(broker: BrokerProcess) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{broker.pid}/fd"))

    before = descriptors()
    with broker.connect() as client:
        for _ in range(20):
            with broker.crowd(20) as clients:
                assert [one.call("ping") for one in clients] == [0] * 20
            wait_until(lambda: connections(client) == 1, "the end of the others")
        assert descriptors() == before + 1


@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "trio"}, {"hub": "selector"}],
    ids=["asyncio", "trio", "asyncio-selector"],
)
def test_running_out_of_descriptors(address: str, options: dict[str, str]) -> None:
    """Those beyond are told; the others go on; the broker neither spins nor dies."""

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with (
        running_broker(address, preexec_fn=few_descriptors, **options) as broker,
        contextlib.ExitStack() as stack,
    ):
        clients: list[RawClient] = []
        turned_away = 0
        for _ in range(100):
            client = stack.enter_context(broker.connect())
            with contextlib.suppress(BrokenPipeError):
                client.send([0, 1, "ping", []])
            answer = client.receive()
            if answer == [1, 1, None, 0]:
                assert not turned_away
                clients.append(client)
            else:
                kind, name, (reason, message) = answer
                assert (kind, name, reason) == (2, "closing", "too_many")
                assert "descriptor" in message
                assert client.rest() == []
                turned_away += 1
        assert 10 < len(clients) < 40
        assert turned_away == 100 - len(clients)
        for client in clients:
            assert client.call("ping") == 0
        assert clients[0].call("info")["counters"]["closed"] == {"too_many": turned_away}

        before = broker.cpu_seconds()
        time.sleep(0.5)
        assert broker.cpu_seconds() - before < 0.25

        for client in clients[:5]:
            client.close()
        wait_until(lambda: connections(clients[-1]) == len(clients) - 5, "the end of five")
        for _ in range(5):
            newcomer = stack.enter_context(broker.connect())
            assert newcomer.call("ping") == 0
        assert broker.process.poll() is None

"""The end of a broker: in order, announced, and in bounded time whatever peers do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from tests.harness import BrokerProcess, wait_until
from udsbus.limits import MIB

both_signals = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"]
)


def assert_clean_end(broker: BrokerProcess) -> None:
    wait_until(lambda: broker.process.poll() is not None, "the end of the broker")
    assert broker.process.returncode == 0, broker.log()
    assert "Traceback" not in broker.log()
    assert not os.path.exists(broker.address)


@both_signals
def test_a_signal_ends_it_and_everyone_is_told(any_broker: BrokerProcess, number: int) -> None:
    with any_broker.crowd(20) as clients:
        for client in clients:
            client.call("watch", "**")
        any_broker.process.send_signal(number)
        for client in clients:
            assert client.rest() == [[2, "closing", ["shutdown", "the broker is stopping"]]]
    assert_clean_end(any_broker)


@both_signals
def test_replies_that_wait_are_sent_before_the_end(any_broker: BrokerProcess, number: int) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        other.call("set", "big", bytes(2 * MIB))
        client.send([0, 1, "get", ["big"]])
        for _ in range(3):
            other.call("ping")
        any_broker.process.send_signal(number)
        response, closing = client.rest()
        assert response[:3] == [1, 1, None]
        assert len(response[3]) == 2 * MIB
        assert closing[2][0] == "shutdown"
    assert_clean_end(any_broker)


def test_a_paused_peer_gets_whole_replies_in_order_and_then_the_reason(
    any_broker: BrokerProcess,
) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        other.call("set", "big", bytes(2 * MIB))
        client.send(*[[0, n, "get", ["big"]] for n in range(50)])
        for _ in range(3):
            other.call("ping")
        any_broker.process.send_signal(signal.SIGTERM)
        *responses, closing = client.rest()
        assert [response[1] for response in responses] == list(range(len(responses)))
        assert {len(response[3]) for response in responses} == {2 * MIB}
        assert closing[2][0] == "shutdown"
    assert_clean_end(any_broker)


def test_a_peer_that_never_reads_does_not_keep_it(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        other.call("set", "big", bytes(16 * MIB))
        client.send([0, 1, "get", ["big"]])
        for _ in range(3):
            other.call("ping")
        any_broker.process.send_signal(signal.SIGTERM)
        assert other.rest()[0][2][0] == "shutdown"
        assert_clean_end(any_broker)


def test_a_peer_in_the_middle_of_a_frame_does_not_keep_it(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.call("ping")
        client.socket.sendall(b"\x94\x00\x01")
        any_broker.process.send_signal(signal.SIGTERM)
        assert client.rest()[0][2][0] == "shutdown"
    assert_clean_end(any_broker)


def test_it_ends_with_whoever_started_it(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        client.call("ping")
        any_broker.cut_lifeline()
        assert client.rest()[0][2][0] == "shutdown"
    assert_clean_end(any_broker)
    assert "the program that started this broker is gone" in any_broker.log()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "lifeline"])
def test_it_ends_under_full_load(any_broker: BrokerProcess, how: str) -> None:
    batch = msgpack.packb([2, "increment", ["n"]]) * 1_000
    flooding = threading.Barrier(4)
    enough = threading.Event()

    def flood() -> None:
        with any_broker.connect() as client, contextlib.suppress(OSError):
            client.socket.sendall(batch)
            flooding.wait(timeout=20)
            while not enough.is_set():
                client.socket.sendall(batch)

    with ThreadPoolExecutor(3) as pool:
        floods = [pool.submit(flood) for _ in range(3)]
        flooding.wait(timeout=20)
        if how == "lifeline":
            any_broker.cut_lifeline()
        else:
            any_broker.process.send_signal(getattr(signal, how))
        try:
            assert_clean_end(any_broker)
        finally:
            enough.set()
        for one in floods:
            one.result(timeout=60)


def test_while_it_says_goodbye_nobody_new_comes_in(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client, any_broker.connect() as other:
        other.call("set", "big", bytes(MIB))
        client.send([0, 1, "get", ["big"]])
        other.call("ping")
        any_broker.process.send_signal(signal.SIGTERM)
        assert other.rest()[0][2][0] == "shutdown"
        assert any_broker.process.poll() is None  # `client` has its time to read
        with pytest.raises(OSError, match=r"No such file|refused"):
            any_broker.connect()
        assert len(client.rest()) == 2
    assert_clean_end(any_broker)

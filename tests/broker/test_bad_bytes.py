"""Bytes that are no MessagePack-RPC end their connection, and nothing else."""

from __future__ import annotations

import contextlib
import random
import socket

import msgpack

from tests.harness import BrokerProcess, wait_until
from udsbus.limits import REQUESTS_PER_TURN
from udsbus.wire.framing import Decoder

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
BAD = {
    "HTTP": HTTP,
    "an unused byte": b"\xc1",
    "text that is not UTF-8": b"\x93\x02\xa2\xff\xff\x90",
    "an unhashable key of a map": b"\x93\x02\xa1x\x81\x90\x90",
    "nesting without end": b"\x91" * 3_000,
    "an extension type out of range": b"\xd4\x85\x00",
    "not an array": msgpack.packb({"method": "ping"}),
    "nil": msgpack.packb(None),
    "an empty array": msgpack.packb([]),
    "an unknown type of message": msgpack.packb([3, 1, "ping", []]),
    "a type of message that is no number": msgpack.packb(["0", 1, "ping", []]),
    "a request without params": msgpack.packb([0, 1, "ping"]),
    "a response without result": msgpack.packb([1, 1, None]),
    "a notification with a msgid": msgpack.packb([2, 1, "ping", []]),
    "a negative type of message": msgpack.packb([-1, 1, "ping", []]),
}


def test_bad_bytes_end_the_connection_with_an_explanation(any_broker: BrokerProcess) -> None:
    """After the replies to what was good before; and what comes after is not carried out."""
    good = msgpack.packb([0, 1, "ping", []])
    late = msgpack.packb([2, "set", ["late", b"\x01"]])
    for what, bad in BAD.items():
        for before in (b"", good, good * 3):
            with any_broker.connect() as client:
                client.socket.sendall(before + bad + late)
                messages = client.rest()
            assert messages[:-1] == [[1, 1, None, 0]] * (len(before) // len(good)), what
            kind, name, (reason, message) = messages[-1]
            assert (kind, name, reason) == (2, "closing", "bad_bytes"), what
            assert message.startswith("not MessagePack"), what
    with any_broker.connect() as client:
        info = client.call("info")
        assert info["counters"]["closed"] == {"bad_bytes": 3 * len(BAD)}
        assert info["connections"] == 1
        assert client.call("get", "late") is None


def test_everything_good_before_the_bad_bytes_is_answered(any_broker: BrokerProcess) -> None:
    """However much it was: more than one turn's share too."""
    number = 3 * REQUESTS_PER_TURN
    with any_broker.connect() as client:
        requests = b"".join(msgpack.packb([0, n, "ping", []]) for n in range(number))
        client.socket.sendall(requests + b"\xc1")
        messages = client.rest()
    assert [message[1] for message in messages] == [*range(number), "closing"]


def test_bad_bytes_in_pieces(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        for byte in HTTP:
            with contextlib.suppress(BrokenPipeError):  # the first byte is enough
                client.socket.sendall(bytes([byte]))
        assert client.receive()[2][0] == "bad_bytes"


def test_random_bytes_leave_the_broker_healthy(any_broker: BrokerProcess) -> None:
    chance = random.Random(1)
    expected = 0
    with any_broker.connect() as watcher:
        watcher.call("watch", "healthy")
        for _ in range(200):
            data = chance.randbytes(chance.randrange(1, 2_000))
            decoder = Decoder()
            decoder.feed(data)
            with any_broker.connect() as client:
                client.socket.sendall(data)
                # Rubbish can look like the beginning of something long.
                with contextlib.suppress(OSError):
                    client.socket.shutdown(socket.SHUT_WR)
                messages = client.rest()
            if decoder.cause is not None:
                expected += 1
                assert messages[-1][1] == "closing"
                assert messages[-1][2][0] == "bad_bytes"
        with any_broker.connect() as client:
            assert client.call("set", "healthy", b"\x01") == 1
            assert watcher.receive()[2] == [1, "created", "healthy", b"\x01"]
            closed = client.call("info")["counters"]["closed"]
    assert expected > 100
    assert closed == {"bad_bytes": expected, "peer_closed": 200 - expected}


def test_bad_bytes_of_peers_that_do_not_wait_count_as_such(any_broker: BrokerProcess) -> None:
    chance = random.Random(0)
    for _ in range(100):
        with any_broker.connect() as client, contextlib.suppress(BrokenPipeError):
            client.socket.sendall(b"\xc1" + chance.randbytes(100_000))
    with any_broker.connect() as client:
        wait_until(lambda: client.call("info")["connections"] == 1, "the end of the others")
        assert client.call("info")["counters"]["closed"] == {"bad_bytes": 100}

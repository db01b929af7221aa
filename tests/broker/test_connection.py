from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from udsbus.broker.connection import Connection
from udsbus.hub import READ, WRITE
from udsbus.limits import MIB, OUTPUT_PAUSE_BYTES, RECEIVE_BYTES
from udsbus.peers import Peer, peer_credentials
from udsbus.terms import CloseReason

NOBODY = Peer(0, 0, 0)


class NotedHub:
    """Remembers the interest in each descriptor, and does nothing."""

    tells_hangup = True

    def __init__(self) -> None:
        self.interests: dict[int, int] = {}
        self.changes = 0

    def add(self, fd: int, interest: int) -> None:
        self.interests[fd] = interest

    def change(self, fd: int, interest: int) -> None:
        assert self.interests[fd] != interest, "a system call for nothing"
        self.interests[fd] = interest
        self.changes += 1

    def remove(self, fd: int) -> None:
        del self.interests[fd]

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return []

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


class Ends:
    """A connection and the peer's socket."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.hub = NotedHub()
        self.connection = Connection(1, ours, NOBODY, self.hub)

    @property
    def interest(self) -> int:
        return self.hub.interests[self.connection.fd]

    def take(self, most: int = 1 << 30) -> bytes:
        """What the peer can read now, at most `most` bytes."""
        self.peer.setblocking(False)
        data = b""
        try:
            while len(data) < most and (more := self.peer.recv(min(MIB, most - len(data)))):
                data += more
        except BlockingIOError:
            pass
        return data

    def close(self) -> None:
        self.peer.close()
        if self.connection.fd in self.hub.interests:
            self.connection.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


# --- reading --------------------------------------------------------------------------------


def test_receive_tells_nothing_from_the_end(ends: Ends) -> None:
    assert ends.interest == READ
    assert ends.connection.receive() is None
    ends.peer.send(b"abc")
    assert ends.connection.receive() == b"abc"
    assert ends.connection.receive() is None
    ends.peer.shutdown(socket.SHUT_WR)
    assert ends.connection.receive() == b""
    assert ends.connection.ended is None


def test_receive_takes_a_bounded_part(ends: Ends) -> None:
    ends.peer.send(bytes(RECEIVE_BYTES + 1))
    assert len(ends.connection.receive() or b"") == RECEIVE_BYTES
    assert ends.connection.receive() == b"\0"


def test_a_socket_error_is_the_end_and_remembered(ends: Ends) -> None:
    ends.connection.output.append(b"unread")
    assert ends.connection.flush()
    ends.peer.close()
    assert ends.connection.receive() == b""
    assert ends.connection.ended is CloseReason.PEER_RESET
    assert ends.interest == 0


# --- flush ----------------------------------------------------------------------------------


def test_flush_sends_the_frames_of_the_turn_in_one_go(ends: Ends) -> None:
    assert ends.connection.flush()
    ends.connection.output += [b"one", b"two", b"three"]
    assert ends.connection.flush()
    assert ends.connection.output == []
    assert ends.peer.recv(100) == b"onetwothree"
    assert ends.connection.flush()
    assert ends.connection.waiting_bytes == 0
    assert ends.hub.changes == 0


def test_what_the_socket_does_not_take_waits(ends: Ends) -> None:
    ends.connection.output.append(bytes(MIB))
    assert ends.connection.flush()
    waiting = ends.connection.waiting_bytes
    assert 0 < waiting < MIB
    assert ends.interest == READ | WRITE
    assert len(ends.take()) == MIB - waiting


def test_a_socket_that_takes_nothing_keeps_everything(ends: Ends) -> None:
    ends.connection.output.append(bytes(MIB))
    ends.connection.flush()
    before = ends.connection.waiting_bytes
    ends.connection.output += [b"a", b"b"]
    assert ends.connection.flush()
    assert ends.connection.waiting_bytes == before + 2
    assert ends.connection.send_waiting()
    assert ends.connection.waiting_bytes == before + 2


def test_everything_arrives_in_order(ends: Ends) -> None:
    expected = b"".join(bytes([n]) * 100_000 for n in range(60))
    received = bytearray()
    for n in range(60):
        ends.connection.output += [bytes([n]) * 50_000, bytes([n]) * 50_000]
        assert ends.connection.flush()
        if n % 3 == 0:
            received += ends.take(130_000)
            assert ends.connection.send_waiting()
    while ends.connection.waiting_bytes:
        received += ends.take(130_000)
        assert ends.connection.send_waiting()
    received += ends.take()
    assert received == expected
    assert ends.interest == READ


def test_above_the_limit_it_is_paused_until_it_has_caught_up(ends: Ends) -> None:
    sent = 0
    while not ends.connection.paused:
        assert sent < 2 * OUTPUT_PAUSE_BYTES
        assert ends.interest & READ
        ends.connection.output.append(bytes(100_000))
        ends.connection.flush()
        sent += 100_000
    assert ends.connection.waiting_bytes > OUTPUT_PAUSE_BYTES
    assert ends.interest == WRITE
    while ends.connection.paused:
        assert ends.take()
        assert ends.connection.send_waiting()
    assert ends.interest == READ | WRITE
    while ends.connection.waiting_bytes:
        assert ends.take()
        assert ends.connection.send_waiting()
    assert ends.interest == READ


def test_a_peer_that_is_gone_is_told_by_either(ends: Ends) -> None:
    ends.connection.output.append(bytes(MIB))
    assert ends.connection.flush()
    ends.peer.close()
    assert not ends.connection.send_waiting()

    other = Ends()
    other.peer.close()
    other.connection.output.append(b"x")
    assert not other.connection.flush()
    other.close()


def test_going_on_to_send_takes_a_bounded_part_of_a_turn() -> None:
    """A peer that reads as fast as we send must not have the turn to itself."""

    class GreedySocket(socket.socket):
        greedy = False
        sends = 0

        def send(self, data: object, flags: int = 0, /) -> int:
            self.sends += 1
            if self.greedy:
                assert isinstance(data, bytes | memoryview)
                return len(data)
            raise BlockingIOError

    ours, theirs = socket.socketpair()
    sock = GreedySocket(fileno=ours.detach())
    connection = Connection(1, sock, NOBODY, NotedHub())
    for _ in range(100_000):
        connection.output.append(b"an event")
        assert connection.flush()
    sock.greedy, sock.sends = True, 0
    assert connection.send_waiting()
    sends = sock.sends
    connection.close()
    theirs.close()
    assert sends < 10_000


# --- the end --------------------------------------------------------------------------------


def test_once_ended_it_asks_no_more_and_keeps_its_first_reason(ends: Ends) -> None:
    ends.connection.requests = [[0, 1, "ping", []]]
    ends.connection.output.append(bytes(MIB))
    ends.connection.flush()
    ends.connection.end(CloseReason.BAD_BYTES)
    ends.connection.end(CloseReason.SHUTDOWN)
    assert ends.connection.ended is CloseReason.BAD_BYTES
    assert ends.connection.requests == []
    assert ends.interest == WRITE
    while ends.connection.waiting_bytes:
        ends.take()
        assert ends.connection.send_waiting()
    assert ends.interest == 0


def test_close_leaves_nothing_behind(ends: Ends) -> None:
    ends.connection.close()
    assert not ends.hub.interests
    assert ends.peer.recv(1) == b""


# --- who it is ------------------------------------------------------------------------------


def test_the_kernel_says_who_the_peer_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_credentials(ours) == Peer(os.getpid(), os.getuid(), os.getgid())

from __future__ import annotations

import select
import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from udsbus.hub import HANGUP, READ, WRITE, EpollHub, Hub, SelectorHub, best_hub


@pytest.fixture(params=[EpollHub, SelectorHub])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    make: Callable[[], Hub] = request.param
    hub = make()
    yield hub
    hub.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_the_bits_are_those_of_epoll() -> None:
    assert (READ, WRITE, HANGUP) == (
        select.EPOLLIN,
        select.EPOLLOUT,
        select.EPOLLERR | select.EPOLLHUP,
    )


def test_the_best_hub_here_is_epoll() -> None:
    hub = best_hub()
    assert isinstance(hub, EpollHub)
    hub.close()


def test_without_epoll_it_is_the_best_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    hub = best_hub()
    assert isinstance(hub, SelectorHub)
    hub.close()


def test_a_selector_without_a_descriptor_will_not_do() -> None:
    with selectors.SelectSelector() as selector, pytest.raises(OSError, match="neither"):
        SelectorHub(selector)


def test_nothing_is_ready_at_first(hub: Hub, pair: Pair) -> None:
    hub.add(pair[0].fileno(), READ)
    assert hub.poll(0) == []
    assert hub.poll(0.001) == []


def test_what_is_readable_is_told_until_it_is_read(hub: Hub, pair: Pair) -> None:
    ours, theirs = pair
    hub.add(ours.fileno(), READ)
    theirs.send(b"x")
    assert hub.poll(1) == [(ours.fileno(), READ)]
    assert hub.poll(0) == [(ours.fileno(), READ)]
    ours.recv(10)
    assert hub.poll(0) == []


def test_only_what_is_of_interest_is_told(hub: Hub, pair: Pair) -> None:
    ours, theirs = pair
    fd = ours.fileno()
    theirs.send(b"x")
    hub.add(fd, READ)
    for interest in (WRITE, READ | WRITE, 0, READ, 0, READ | WRITE, WRITE, 0):
        hub.change(fd, interest)
        assert hub.poll(0) == ([(fd, interest)] if interest else [])


@pytest.mark.parametrize("interest", [READ, WRITE, READ | WRITE, 0])
def test_what_was_removed_can_be_added_again(hub: Hub, pair: Pair, interest: int) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    for _ in range(3):
        hub.add(ours.fileno(), READ)
        if interest != READ:
            hub.change(ours.fileno(), interest)
        hub.remove(ours.fileno())
        assert hub.poll(0) == []


def test_its_own_descriptor_is_readable_while_something_is_ready(hub: Hub, pair: Pair) -> None:
    ours, theirs = pair
    hub.add(ours.fileno(), READ)
    poll = select.poll()
    poll.register(hub.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    theirs.send(b"x")
    assert poll.poll(1_000) == [(hub.fileno(), select.POLLIN)]
    ours.recv(10)
    assert poll.poll(0) == []


def test_a_hangup_is_told_without_interest_where_it_says_so(hub: Hub, pair: Pair) -> None:
    ours, theirs = pair
    hub.add(ours.fileno(), READ)
    hub.change(ours.fileno(), 0)
    theirs.shutdown(socket.SHUT_WR)
    assert hub.poll(0) == []  # it may still be reading
    theirs.close()
    told = bool(hub.poll(0))
    assert told == hub.tells_hangup
    assert all(mask & HANGUP for _, mask in hub.poll(0))


def test_the_end_of_the_peer_is_readable(hub: Hub, pair: Pair) -> None:
    ours, theirs = pair
    hub.add(ours.fileno(), READ)
    theirs.shutdown(socket.SHUT_WR)
    assert hub.poll(1) == [(ours.fileno(), READ)]


def test_many_are_told_at_once(hub: Hub) -> None:
    pairs = [socket.socketpair() for _ in range(50)]
    for ours, theirs in pairs:
        hub.add(ours.fileno(), READ)
        theirs.send(b"x")
    assert sorted(hub.poll(0)) == sorted((ours.fileno(), READ) for ours, _ in pairs)
    for ours, theirs in pairs:
        hub.remove(ours.fileno())
        ours.close()
        theirs.close()

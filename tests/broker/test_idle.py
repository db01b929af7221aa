"""A broker that has nothing to do does nothing."""

from __future__ import annotations

import itertools
import socket
import time

import pytest

from tests.harness import BrokerProcess, RawClient, running_broker
from udsbus import spinning
from udsbus.broker import turn
from udsbus.broker.turn import CROWD
from udsbus.limits import MIB, SPIN_SECONDS

from .stepped import SteppedBroker

IDLE_SECONDS = 1.8
CPU_SECONDS = 0.02


def used_while_idle(broker: BrokerProcess, burst: list[RawClient]) -> float:
    """CPU seconds that it uses in IDLE_SECONDS after a burst of traffic."""
    for client in burst:
        client.send(*[[0, n, "increment", ["n"]] for n in range(500)])
    for client in burst:
        for _ in range(500):
            client.receive()
    time.sleep(0.1)  # a burst ends in some polling, which may pay
    before = broker.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return broker.cpu_seconds() - before


def test_a_hundred_idle_connections_cost_nothing(any_broker: BrokerProcess) -> None:
    with any_broker.crowd(100) as clients:
        for client in clients:
            client.call("watch", "**/none")
        clients[0].call("set", "a", b"\x01", {"ttl": 3600})
        assert used_while_idle(any_broker, clients[:10]) < CPU_SECONDS


@pytest.mark.parametrize("hub", ["best", "selector"])
def test_peers_that_wait_for_something_cost_nothing(address: str, hub: str) -> None:
    """Half-closed, paused, in the middle of a frame, or with a message that nobody reads."""
    with running_broker(address, hub=hub) as broker, broker.crowd(6) as clients:
        listening, paused, partial, deaf, blocked, busy = clients
        busy.call("set", "big", bytes(2 * MIB))
        listening.call("watch", "none")
        listening.socket.shutdown(socket.SHUT_WR)
        paused.send(*[[0, n, "get", ["big"]] for n in range(100)])
        partial.socket.sendall(b"\x94\x00\x01")
        deaf.send(*[[0, n, "ping", []] for n in range(1_000)])
        blocked.call("watch", "big")
        busy.call("set", "big", bytes(MIB // 2))
        assert used_while_idle(broker, [busy]) < CPU_SECONDS
        assert len(paused.receive()[3]) == 2 * MIB


@pytest.mark.parametrize(("active", "polls"), [(CROWD, True), (CROWD + 1, False)])
def test_it_polls_before_it_sleeps_but_not_in_a_crowd(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch, active: int, polls: bool
) -> None:
    """With more active connections than that, their processes need the core."""
    clients = [stepped.accepted()[0] for _ in range(active)]
    timeouts: list[float] = []
    poll = stepped.hub.poll

    def noted(timeout: float) -> list[tuple[int, int]]:
        timeouts.append(timeout)
        return poll(timeout)

    monkeypatch.setattr(stepped.hub, "poll", noted)
    clock = itertools.count(0, SPIN_SECONDS / 50)
    monkeypatch.setattr(spinning, "monotonic", lambda: next(clock))  # on which nothing is late
    monkeypatch.setattr(turn, "CHECKPOINT_SECONDS", 0.0)  # who is active is counted each time
    for client in clients:
        client.send([0, 1, "ping", []])
    assert stepped.turn.work(stepped.now + 1)
    waiting = timeouts[:-1]
    assert timeouts[-1] > 0
    assert (waiting.count(0) > 10) == polls

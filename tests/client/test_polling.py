"""Whether clients poll for their answers: the broker sees what pays, and they do as it says."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

import udsbus
from udsbus.limits import REPLY_SPIN_SECONDS

from ..harness import BrokerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the version page needs Linux")

ADVICE = 1
CROWD = 2 * (os.cpu_count() or 1) + 2
SECONDS = 20.0


def asks_until(ask: Callable[[], object], done: Callable[[], bool]) -> bool:
    until = monotonic() + SECONDS
    while monotonic() < until:
        ask()
        if done():
            return True
    return False


def test_a_crowd_is_told_not_to_poll_and_a_single_client_to_poll(broker: BrokerProcess) -> None:
    with udsbus.connect(broker.address) as client, contextlib.ExitStack() as stack:
        words = client._cache.words
        assert words[ADVICE] == REPLY_SPIN_SECONDS * 1e9
        crowd = [stack.enter_context(broker.connect()) for _ in range(CROWD)]

        def all_ask() -> None:
            for one in crowd:
                one.send([0, 1, "ping", []])
            for one in crowd:
                one.receive()

        assert asks_until(all_ask, lambda: words[ADVICE] == 0)
        assert asks_until(client.ping, lambda: words[ADVICE] != 0)


@pytest.mark.parametrize("cache", [True, False])
def test_a_client_polls_while_it_is_told_to(broker: BrokerProcess, cache: bool) -> None:
    with udsbus.connect(broker.address, cache=cache) as client:
        client.ping()
        connection: Any = client._own.connection
        assert connection._words[ADVICE] != 0, "that of the broker, or of nobody"
        assert len(connection._words) > 2, "that of the broker"
        polled: list[int] = []
        spin = connection._spinning.spin
        connection._spinning = _Noted(spin, polled)
        client.ping()
        assert len(polled) == 1
        connection.heed((0, 0))
        client.ping()
        assert len(polled) == 1
        assert client.cache_info().active is cache


class _Noted:
    def __init__(self, spin: Callable[[Any], list[Any]], polled: list[int]) -> None:
        self._spin, self._polled = spin, polled

    def spin(self, poll: Any) -> list[Any]:
        self._polled.append(1)
        return self._spin(poll)

"""A broker in this process that runs one turn at a time, by hand and with a clock of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from tests.harness import RawClient
from udsbus import messages as m
from udsbus.broker import telling
from udsbus.broker import turn as turn_module
from udsbus.broker.connection import Connection
from udsbus.broker.lanes import Lanes
from udsbus.broker.listener import Listener
from udsbus.broker.statistics import Statistics
from udsbus.broker.turn import Turn
from udsbus.broker.versionpage import VersionedReads, version_page
from udsbus.engine import Engine
from udsbus.hub import Hub
from udsbus.journal import Journal, MemoryJournal
from udsbus.terms import CloseReason
from udsbus.wire import values

START = 1_000.0


class SteppedBroker:
    """What happens within one turn, and from turn to turn, without any luck with timing."""

    def __init__(self, address: str, hub: Hub, journal: Journal | None = None) -> None:
        self.now = START
        self.engine = Engine(values)
        self.hub = hub
        self.statistics = Statistics()
        self.page = version_page(0)
        self.turn = Turn(
            self.engine,
            journal or MemoryJournal(),
            Listener(address),
            hub,
            dict.fromkeys((m.Hello, m.Goodbye, m.Kick, m.Ping, m.Info), self._revision)
            | VersionedReads(self.engine.keyspace.entries, self.page).handlers,
            Lanes(),
            self.statistics,
            self.page,
        )
        self._address = address
        self._clients: list[RawClient] = []

    def _revision(self, *_: object) -> int:
        return self.engine.revision

    def connect(self) -> RawClient:
        """A client whose connection the broker has not accepted yet."""
        client = RawClient(self._address)
        self._clients.append(client)
        return client

    def accepted(self) -> tuple[RawClient, Connection]:
        """A client and the broker's end of it."""
        client = self.connect()
        self.step()
        return client, self.turn.connections[max(self.turn.connections)]

    def step(self) -> None:
        """One turn for whatever is ready."""
        self.turn.turn(self.hub.poll(0))

    def receive(self, client: RawClient) -> Any:
        """The next message for `client`; as many turns as it takes to send the whole of it."""
        client.socket.settimeout(0)
        try:
            for _ in range(1_000):
                with contextlib.suppress(BlockingIOError):
                    return client.receive()
                self.step()
        finally:
            client.socket.settimeout(20)
        pytest.fail("nothing comes")

    def step_until(self, condition: Callable[[], Any], most: int = 1_000) -> None:
        for _ in range(most):
            if condition():
                return
            self.step()
        pytest.fail(f"not within {most} turns")

    def closed(self, reason: CloseReason) -> int:
        return self.statistics.closed[reason]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        anyio.run(self.turn.shut_down)


def stepped_broker(
    address: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, journal: Journal | None = None
) -> Iterator[SteppedBroker]:
    broker = SteppedBroker(address, hub, journal)
    with monkeypatch.context() as patch:
        for module in (turn_module, telling):
            patch.setattr(module, "monotonic", lambda: broker.now)
        yield broker
    broker.close()

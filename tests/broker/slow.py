"""A reader that takes what it is told when the test says so, at a broker whose limits are so tight
that a few kilobytes are too much."""

from __future__ import annotations

import contextlib
import socket
from types import ModuleType
from typing import Any

import msgpack
import pytest

from tests.harness import RawClient
from udsbus import messages as m
from udsbus.broker import behind, connection, slow
from udsbus.broker.connection import Connection
from udsbus.errors import StorageFailed
from udsbus.journal import MemoryJournal

from .stepped import SteppedBroker

MODULES: tuple[ModuleType, ...] = (behind, connection, slow)
SOFT, HARD, LOW, PIECE = 4_096, 8_192, 1_024, 2_048
VALUE = bytes(200)


def tighten(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Let limits of `udsbus.limits` be others for the broker in this process."""
    usual = {
        "OUTPUT_SOFT_BYTES": SOFT, "OUTPUT_HARD_BYTES": HARD, "OUTPUT_LOW_BYTES": LOW,
        "CATCH_UP_BYTES": PIECE,
    }  # fmt: skip
    for name, value in (usual | limits).items():
        found = [module for module in MODULES if hasattr(module, name)]
        assert found, f"nobody knows {name}"
        for module in found:
            monkeypatch.setattr(module, name, value)


class FailingJournal(MemoryJournal):
    """The system refuses to write while `full`."""

    durable = True

    def __init__(self) -> None:
        self.full = False

    def append(self, effects: list[Any], answers: list[Any], now: float) -> bool:
        if self.full and any(not isinstance(effect, m.Message) for effect in effects):
            raise StorageFailed("the disk is full", reason="no room")
        return False


class Reader:
    """Reads frame by frame, or not."""

    def __init__(self, broker: SteppedBroker, *, watch: str = "", **subscribe: Any) -> None:
        self.broker = broker
        self.client: RawClient
        self.connection: Connection
        self.client, self.connection = broker.accepted()
        # As little as the kernel lets wait on its way.
        self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        if watch:
            self.ask("watch", watch)
        if subscribe:
            self.ask("subscribe", subscribe.pop("patterns"), subscribe)

    def ask(self, method: str, *params: Any) -> Any:
        """The answer; nothing else may be on its way."""
        self.client.send([0, 1, method, list(params)])
        answer = self.broker.receive(self.client)
        assert answer[:3] == [1, 1, None], answer
        return answer[3]

    def everything(self) -> list[list[Any]]:
        """The notifications, until there are no more: [name, *params] each."""
        found = []
        self.client.socket.settimeout(0)
        idle = 0
        for _ in range(10_000):
            if idle == 3:
                break
            self.broker.step()
            idle = 0 if self.connection.waiting_bytes else idle + 1
            with contextlib.suppress(BlockingIOError, EOFError, ConnectionResetError):
                while True:
                    found.append(self.client.receive())
                    idle = 0
        self.client.socket.settimeout(20)
        return [[name, *params] for _, name, params in found]

    @property
    def is_behind(self) -> bool:
        return self.connection.behind is not None


def write(broker: SteppedBroker, *keys: str, value: bytes = VALUE) -> None:
    """Each in a turn of its own."""
    for key in keys:
        broker.engine.execute(0, m.Set(key, value), broker.now)
        broker.step()


def fall_behind(broker: SteppedBroker, reader: Reader, key: str = "fill") -> int:
    """Write until the reader, who watches that, is behind. Returns the last revision that is on its
    way to it: of the next two one is noted, and the other is that of the key that says so."""
    for _ in range(200):
        write(broker, key)
        if reader.is_behind:
            broker.step()
            return broker.engine.revision - 2
    pytest.fail("it does not fall behind")


def frame_bytes(value: bytes) -> int:
    return len(msgpack.packb([2, "change", [100, "updated", "fill", value]]))

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.client.conftest import bus, client
from tests.client.support import PATIENCE
from tests.harness import BrokerProcess
from tests.pairs import Pair

__all__ = ["bus", "client"]

Guarded = tuple[Pair, udsbus.Client, udsbus.Client]


@pytest.fixture
def other(bus: BrokerProcess) -> Iterator[udsbus.Client]:
    """Another client of the same bus."""
    with udsbus.connect(bus.address, timeout=PATIENCE) as other:
        yield other


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """A broker with its standby, and two clients."""
    address = str(tmp_path / "bus.sock")
    pair = Pair(address, tmp_path / "state")
    try:
        with (
            udsbus.connect(address, timeout=PATIENCE) as client,
            udsbus.connect(address, timeout=PATIENCE) as other,
        ):
            yield pair, client, other
    finally:
        pair.close()


class Asked:
    """What a client asks for, and what others do right before; it remembers what it has read."""

    def __init__(self, client: udsbus.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.methods: list[str] = []
        self.before: dict[str, Any] = {}
        """By method: called once, before the first request of it is sent."""
        call = client._call

        def told(request: Any) -> Any:
            self.before.pop(request.method, lambda: None)()
            self.methods.append(request.method)
            return call(request)

        monkeypatch.setattr(client, "_call", told)
        self._client = client

    def forget(self) -> None:
        """What it remembers, and what it has asked."""
        self.methods.clear()
        self._client._cache = self._client._cache.emptied()


@pytest.fixture
def asked(client: udsbus.Client, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(client, monkeypatch)

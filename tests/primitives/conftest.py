from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.client.conftest import bus, client
from tests.client.support import PATIENCE
from tests.pairs import Pair

__all__ = ["bus", "client"]

Guarded = tuple[Pair, udsbus.Client, udsbus.Client]


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

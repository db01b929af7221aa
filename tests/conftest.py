from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import BrokerProcess, RawClient, running_broker


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short private directory for sockets: pytest's own is too long for a socket path."""
    directory = Path(tempfile.mkdtemp(prefix="udsbus-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def address(runtime: Path) -> str:
    return str(runtime / "bus.sock")


@pytest.fixture(params=["asyncio", "trio", "asyncio-selector"])
def any_broker(request: pytest.FixtureRequest, address: str) -> Iterator[BrokerProcess]:
    """A broker on each event loop, and on the hub of platforms without epoll."""
    backend, _, hub = request.param.partition("-")
    with running_broker(address, backend=backend, hub=hub or "best") as broker:
        yield broker


@pytest.fixture
def broker(address: str) -> Iterator[BrokerProcess]:
    with running_broker(address) as broker:
        yield broker


@pytest.fixture
def raw(broker: BrokerProcess) -> Iterator[RawClient]:
    with broker.connect() as client:
        yield client

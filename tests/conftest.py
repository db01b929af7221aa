from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import BrokerProcess, RawClient, running_broker


@pytest.fixture(autouse=True, scope="session")
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Brokers that keep their state in the default place keep it out of the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


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

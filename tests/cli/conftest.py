from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus

from ..harness import BrokerProcess, running_broker
from .support import Command


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_broker() -> Iterator[BrokerProcess]:
    """One for all tests that leave it alive: starting it takes longer than most of them."""
    directory = Path(tempfile.mkdtemp(prefix="udsbus-"))
    with running_broker(directory / "bus.sock") as broker:
        yield broker
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def client(shared_broker: BrokerProcess) -> Iterator[udsbus.Client]:
    """A client of an empty bus."""
    with udsbus.connect(shared_broker.address) as client:
        keys = client.keys()
        with client.pipeline() as pipeline:
            for key in keys:
                pipeline.delete(key)
        yield client


@pytest.fixture
def command(client: udsbus.Client) -> Command:
    """The command for the same bus."""
    return Command(client.address)


@pytest.fixture
def lonely(address: str) -> Command:
    """The command for an address where nobody serves yet."""
    return Command(address)

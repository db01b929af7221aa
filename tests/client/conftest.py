from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until

from .support import PATIENCE


@pytest.fixture(scope="session")
def bus() -> Iterator[BrokerProcess]:
    """One broker for all tests that neither stop nor kill it; `client` leaves it empty."""
    directory = Path(tempfile.mkdtemp(prefix="udsbus-"))
    with running_broker(directory / "bus.sock") as broker:
        yield broker
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def client(bus: BrokerProcess) -> Iterator[udsbus.Client]:
    """A client of `bus`, which holds no key yet and has no other client."""
    with udsbus.connect(bus.address, timeout=PATIENCE) as client:
        alone(client)  # tests without this fixture may leave clients behind, too
        yield client
    with udsbus.connect(bus.address, timeout=PATIENCE) as cleaner:
        with cleaner.pipeline() as pipeline:
            for key in cleaner.keys():
                pipeline.delete(key)
        for topic in cleaner.retained():
            cleaner.unretain(topic)
        if cleaner.info()["connections"] > 1:
            gc.collect()  # a client that the test dropped, in a cycle with its traceback
            wait_until(
                lambda: cleaner.info()["connections"] == 1,
                "the connections to end that the test has left behind",
            )
        alone(cleaner)


def alone(client: udsbus.Client) -> None:
    """End all other sessions, which would be waited for, in case that they come back."""
    for left in client.clients():
        if left.session != client.session:
            client.kick(left.session)
    wait_until(lambda: len(client.clients()) == 1, "the sessions to end that are left")

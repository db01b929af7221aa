from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import udsbus
from tests.client.support import PATIENCE
from tests.harness import BrokerProcess


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(broker: BrokerProcess, anyio_backend: str) -> AsyncIterator[udsbus.AsyncClient]:
    """A client of a broker of its own."""
    async with udsbus.connect_async(broker.address, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def other(broker: BrokerProcess, anyio_backend: str) -> AsyncIterator[udsbus.AsyncClient]:
    async with udsbus.connect_async(broker.address, timeout=PATIENCE) as client:
        yield client

"""How an async client comes back."""

from __future__ import annotations

import os

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE, FakeBroker
from udsbus import BrokerUnavailable
from udsbus.client.aio import connected

pytestmark = pytest.mark.anyio


async def test_who_asks_right_after_an_attempt_is_not_kept_waiting(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody would try again for long."""
    monkeypatch.setattr(connected, "jittered", lambda seconds: 10 * PATIENCE)
    monkeypatch.setattr(connected, "RECONNECT_FIRST", 0.3)
    with FakeBroker(address, lambda method, params: 5):
        async with udsbus.connect_async(address, timeout=PATIENCE) as client:
            os.rename(address, f"{address}.away")
            link = client._link
            assert link is not None
            link._end("cut by the test")
            with client.timeout_of(0.05), pytest.raises(BrokerUnavailable):
                await client.get("a")
            os.rename(f"{address}.away", address)
            with anyio.fail_after(PATIENCE / 2):
                assert await client.set("a", 1) == 5

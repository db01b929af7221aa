from __future__ import annotations

from collections.abc import Iterator

import pytest

from udsbus.hub import SelectorHub, best_hub

from .stepped import SteppedBroker, stepped_broker


@pytest.fixture(params=["best", "selector"])
def stepped(
    request: pytest.FixtureRequest, address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SteppedBroker]:
    """A broker that takes one turn when told to, on each kind of hub."""
    hub = best_hub() if request.param == "best" else SelectorHub()
    yield from stepped_broker(address, hub, monkeypatch)

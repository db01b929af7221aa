from __future__ import annotations

import pytest

from udsbus import bursts
from udsbus.bursts import BURST_SECONDS, PAUSE_SECONDS, Bursts


def test_it_sleeps_after_each_burst_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(now)
        now += 0.25  # it may take long until it has a core again
        assert seconds == PAUSE_SECONDS

    monkeypatch.setattr(bursts, "monotonic", lambda: now)
    monkeypatch.setattr(bursts, "sleep", sleep)
    working = Bursts()
    for _ in range(25):
        working.pause()
        now += BURST_SECONDS / 10
    assert slept == pytest.approx([100.0 + BURST_SECONDS, 100.25 + 2 * BURST_SECONDS])

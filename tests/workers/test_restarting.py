from __future__ import annotations

from udsbus.workers.restarting import (
    FIRST_SECONDS,
    FLAPPING,
    MOST_SECONDS,
    STEADY_SECONDS,
    Restarting,
)


def test_one_that_was_well_is_started_at_once() -> None:
    restarting = Restarting()
    for _ in range(100):
        assert restarting.ended(STEADY_SECONDS) == 0.0
    assert not restarting.flapping
    assert restarting.restarts == 100


def test_one_that_ends_soon_again_and_again_waits_longer_and_flaps() -> None:
    restarting = Restarting()
    waits = [restarting.ended(0.1) for _ in range(FLAPPING - 1)]
    assert waits[:3] == [0.0, FIRST_SECONDS, 2 * FIRST_SECONDS]
    assert not restarting.flapping
    restarting.ended(0.1)
    assert restarting.flapping
    assert max(restarting.ended(0.1) for _ in range(20)) == MOST_SECONDS
    restarting.steady()
    assert not restarting.flapping
    assert restarting.ended(0.1) == 0.0

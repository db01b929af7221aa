"""Which bytes of a pipe are lost. Pure, but for what the pipe holds."""

from __future__ import annotations

from udsbus.services.free import BUSY_SECONDS, IDLE_SECONDS, SELDOM_SECONDS, Missing


def looks(missing: Missing, count: int, begun: int, start: float, end: float) -> int:
    """Look often from `start` to `end`; how many were found to be lost."""
    found, now = 0, start
    while now < end:
        found += missing.look(count, begun, now)
        now += IDLE_SECONDS / 4
    return found


def test_one_that_stays_away_while_nobody_calls_is_lost() -> None:
    missing = Missing()
    assert looks(missing, 2, 0, 0.0, 0.9 * IDLE_SECONDS) == 0
    assert missing.suspects
    assert looks(missing, 2, 0, 0.9 * IDLE_SECONDS, 1.3 * IDLE_SECONDS) == 2


def test_one_that_comes_back_is_not() -> None:
    missing = Missing()
    for now in range(10):
        assert looks(missing, 1, 0, now, now + IDLE_SECONDS / 2) == 0
        assert missing.look(0, 0, now + IDLE_SECONDS / 2) == 0
        assert not missing.suspects


def test_while_others_call_it_takes_longer() -> None:
    missing = Missing()
    begun, now, found = 0, 0.0, 0
    while not found:
        begun += 1
        found = missing.look(3 if begun % 2 else 1, begun, now)
        now += IDLE_SECONDS / 4
    assert found == 1, "so many were missing each time"
    assert now >= BUSY_SECONDS


def test_nothing_is_lost_because_nobody_looked() -> None:
    """A worker that carries out a call of a second in its loop looks before and after it."""
    missing = Missing()
    assert missing.look(1, 0, 0.0) == 0
    assert missing.look(1, 1, BUSY_SECONDS + SELDOM_SECONDS) == 0
    assert missing.look(1, 2, 2 * (BUSY_SECONDS + SELDOM_SECONDS)) == 0

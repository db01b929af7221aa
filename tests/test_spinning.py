"""When either side polls before it sleeps, by a clock that the test moves."""

from __future__ import annotations

import pytest

from udsbus import spinning
from udsbus.limits import SPIN_SECONDS
from udsbus.spinning import (
    LATE_SECONDS,
    OFTEN,
    PATIENCE,
    PROBE_EVERY,
    REST_FIRST,
    REST_MOST,
    STILL,
    TRIES,
    Spinning,
)

READY = [(1, 1)]
TICK = SPIN_SECONDS / 10


class Wait:
    """What one wait for a descriptor is like: ready after `polls` polls, or never; and `held_up`:
    another process has the core for so long after each poll."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.polls = 0
        self.ready_at: int | None = 1
        self.held_up = 0.0

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        assert timeout == 0
        self.polls += 1
        self.now += TICK + self.held_up
        return READY if self.polls == self.ready_at else []


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    wait = Wait()
    monkeypatch.setattr(spinning, "monotonic", lambda: wait.now)
    return wait


def polls(spin: Spinning, wait: Wait, *, ready_at: int | None = 1, held_up: float = 0.0) -> int:
    """How many polls one wait takes."""
    wait.polls, wait.ready_at, wait.held_up = 0, ready_at, held_up
    assert spin.spin(wait.poll) == (READY if ready_at and wait.polls else [])
    return wait.polls


def rest(spin: Spinning, wait: Wait) -> int:
    """How many waits go by without a poll."""
    waits = 0
    while not polls(spin, wait):
        waits += 1
        assert waits <= REST_MOST
    return waits


def late(spin: Spinning, wait: Wait) -> None:
    assert polls(spin, wait, ready_at=None, held_up=SPIN_SECONDS + 2 * LATE_SECONDS) == 1


def test_it_polls_until_something_is_ready(wait: Wait) -> None:
    spin = Spinning(SPIN_SECONDS)
    for _ in range(1_000):
        assert polls(spin, wait, ready_at=5) == 5


def test_it_polls_for_so_long_and_no_longer(wait: Wait) -> None:
    begin = wait.now
    assert polls(Spinning(SPIN_SECONDS), wait, ready_at=None) > 1
    assert SPIN_SECONDS <= wait.now - begin < SPIN_SECONDS + 2 * TICK


def test_it_stops_when_it_polls_in_vain_and_tries_again_now_and_then(wait: Wait) -> None:
    spin = Spinning(SPIN_SECONDS)
    for _ in range(TRIES):
        assert polls(spin, wait, ready_at=None)
    for _ in range(3):
        for _ in range(PROBE_EVERY - 1):
            assert not polls(spin, wait, ready_at=None)
        assert polls(spin, wait, ready_at=None)


def test_a_success_counts_against_a_poll_in_vain(wait: Wait) -> None:
    spin = Spinning(SPIN_SECONDS)
    for _ in range(100):
        assert polls(spin, wait, ready_at=None)
        assert polls(spin, wait)


def test_it_rests_when_another_process_has_the_core_again_and_again(wait: Wait) -> None:
    spin = Spinning(SPIN_SECONDS)
    for _ in range(PATIENCE):
        late(spin, wait)
    assert rest(spin, wait) == REST_FIRST


def test_it_rests_longer_each_time_that_it_is_still_so(wait: Wait) -> None:
    spin = Spinning(SPIN_SECONDS)
    for _ in range(PATIENCE - STILL):
        late(spin, wait)
    rests = []
    for _ in range(6):
        for _ in range(STILL):
            late(spin, wait)
        rests.append(rest(spin, wait))
    assert rests[:3] == [REST_FIRST, 2 * REST_FIRST, 4 * REST_FIRST]
    assert rests[-1] == REST_MOST


def test_slices_of_a_shared_core_are_a_crowd(wait: Wait) -> None:
    """Late each few hundred polls, for long."""
    spin = Spinning(SPIN_SECONDS)
    lates = 0
    while polls(spin, wait):
        for _ in range(300):
            assert polls(spin, wait)
        late(spin, wait)
        lates += 1
    assert PATIENCE <= lates < 2 * PATIENCE


def test_late_now_and_then_is_no_crowd(wait: Wait) -> None:
    """A few in a row, if it is good for long before the next; the rest is short again then."""
    spin = Spinning(SPIN_SECONDS)
    for _ in range(PATIENCE):
        late(spin, wait)
    assert rest(spin, wait) == REST_FIRST
    for _ in range(5):
        for _ in range(PATIENCE * OFTEN):
            assert polls(spin, wait)
        for _ in range(PATIENCE - 1):
            late(spin, wait)
            assert polls(spin, wait)
    late(spin, wait)
    assert rest(spin, wait) == REST_FIRST

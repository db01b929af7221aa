from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from udsbus.engine.deadlines import SLACK, Deadlines

from .support import examples

BOUND = 2 * SLACK
"""Heap entries that a handful of keys may have, whatever happens to their deadlines."""


def pop_all_due(deadlines: Deadlines[str], now: float) -> list[str]:
    found = []
    while (key := deadlines.pop_due(now)) is not None:
        found.append(key)
    return found


def test_nothing_is_due_where_nothing_is_scheduled() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() == inf
    assert deadlines.pop_due(1e9) is None


def test_keys_come_due_in_order_of_time() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, when in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        deadlines.schedule(key, when)
    assert deadlines.next() == 1.0
    assert pop_all_due(deadlines, 0.9) == []
    assert pop_all_due(deadlines, 2.0) == ["a", "b"]
    assert deadlines.next() == 3.0
    assert len(deadlines) == 1


def test_an_earlier_deadline_counts_at_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.schedule("a", 9.0)
    deadlines.schedule("a", 1.0)
    assert pop_all_due(deadlines, 1.0) == ["a"]
    assert pop_all_due(deadlines, 9.0) == []


def test_a_later_deadline_costs_nothing_until_the_old_one_comes_up() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for renewal in range(10_000):
        deadlines.schedule("a", 5.0 + renewal)
        deadlines.schedule("a", 5.0)
    assert len(deadlines._heap) == 1
    assert pop_all_due(deadlines, 5.0) == ["a"]
    deadlines.schedule("a", 10_004.0)
    assert pop_all_due(deadlines, 10_004.0) == ["a"]
    assert deadlines.next() == inf


def test_the_heap_stays_small_when_a_deadline_always_moves_closer() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for step in range(20 * SLACK):
        deadlines.schedule("a", 1e6 - step)
        assert len(deadlines._heap) <= BOUND
    assert deadlines.next() == 1e6 - (20 * SLACK - 1)


def test_the_heap_stays_small_when_a_deadline_flips_between_long_and_short() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for now in range(20 * SLACK):
        deadlines.schedule("a", now + 1e6)
        deadlines.schedule("a", now + 0.5)
        assert pop_all_due(deadlines, now + 0.5) == ["a"]
        assert len(deadlines._heap) <= BOUND


def test_a_key_that_is_forgotten_does_not_come_due() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.schedule("a", 1.0)
    deadlines.schedule("b", 1.0)
    deadlines.forget("a")
    deadlines.forget("c")
    assert len(deadlines) == 1
    assert pop_all_due(deadlines, 1.0) == ["b"]


class Owner:
    """Does what the keyspace and the engine do: holds the true deadlines, and looks when told."""

    def __init__(self) -> None:
        self.true: dict[str, float] = {}
        self.deadlines: Deadlines[str] = Deadlines()

    def set(self, key: str, deadline: float) -> None:
        self.true[key] = deadline
        self.deadlines.schedule(key, deadline)

    def drop(self, key: str) -> None:
        if self.true.pop(key, None) is not None:
            self.deadlines.forget(key)

    def expire(self, now: float) -> list[str]:
        expired = []
        while (key := self.deadlines.pop_due(now)) is not None:
            deadline = self.true.get(key)
            if deadline is None:
                continue
            if deadline <= now:
                del self.true[key]
                expired.append(key)
            else:
                self.deadlines.schedule(key, deadline)
        return expired


set_deadline = st.tuples(st.sampled_from("abc"), st.integers(1, 20))
drop_deadline = st.tuples(st.sampled_from("abc"), st.none())
move_on = st.tuples(st.none(), st.integers(0, 10))


@examples(300)
@given(st.lists(set_deadline | drop_deadline | move_on, max_size=60))
def test_everything_comes_due_once_and_in_time(
    steps: list[tuple[str | None, int | None]],
) -> None:
    now = 0.0
    owner = Owner()
    for key, number in steps:
        if key is None:
            now += number or 0
            expected = sorted(key for key, when in owner.true.items() if when <= now)
            assert sorted(owner.expire(now)) == expected
        elif number is None:
            owner.drop(key)
        else:
            owner.set(key, now + number)
        assert len(owner.deadlines) <= 3
        if owner.true:
            assert owner.deadlines.next() <= min(owner.true.values())
    owner.expire(1e9)
    assert owner.true == {}
    assert owner.deadlines._heap == []
    assert len(owner.deadlines) == 0

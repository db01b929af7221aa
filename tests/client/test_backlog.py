"""The queue between the event thread and a consumer."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udsbus.client.backlog import Backlog

from .support import PATIENCE, Task, in_child

Item = tuple[str, int]


def keyed(limit: int, conflate: bool = False) -> Backlog[Item]:
    return Backlog(limit, lambda item: item[0], conflate)


def drain(backlog: Backlog[Item]) -> list[Item]:
    found = []
    while (item := backlog.take(0)) is not None:
        found.append(item)
    return found


def items(text: str) -> list[Item]:
    return [(key, number) for number, key in enumerate(text)]


def test_everything_in_order_up_to_the_limit() -> None:
    backlog = keyed(5)
    backlog.put(items("aba"))
    backlog.put(items("bb"))
    assert len(backlog) == 5
    assert drain(backlog) == [*items("aba"), *items("bb")]
    assert backlog.skipped == 0


def test_beyond_the_limit_the_newest_of_each_key() -> None:
    """In the order of these; until the consumer has caught up."""
    backlog = keyed(5)
    backlog.put(items("abcabc"))
    assert (len(backlog), backlog.skipped) == (3, 3)
    assert backlog.take(0) == ("a", 3)
    backlog.put([("b", 6), ("a", 7)])
    assert backlog.skipped == 4
    assert drain(backlog) == [("c", 5), ("b", 6), ("a", 7)]
    backlog.put(items("aaa"))
    assert drain(backlog) == items("aaa")


def test_without_a_key_the_oldest_are_dropped() -> None:
    backlog: Backlog[Item] = Backlog(3)
    backlog.put(items("abcde"))
    backlog.put([("f", 5)])
    assert drain(backlog) == [("d", 3), ("e", 4), ("f", 5)]
    assert backlog.skipped == 3


def test_conflate_from_the_start() -> None:
    backlog = keyed(5, conflate=True)
    backlog.put(items("aba"))
    assert drain(backlog) == [("b", 1), ("a", 2)]
    backlog.put(items("aa"))
    assert drain(backlog) == [("a", 1)]
    assert backlog.skipped == 2


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    limit=st.integers(1, 6),
    conflate=st.booleans(),
    steps=st.lists(st.text("abc", min_size=1, max_size=5) | st.integers(1, 5), max_size=30),
)
def test_nothing_is_lost_but_older_values(
    limit: int, conflate: bool, steps: list[str | int]
) -> None:
    """What is taken is in order, ends with the newest of each key, and the rest is counted."""
    backlog = keyed(limit, conflate)
    put: list[Item] = []
    taken: list[Item] = []
    for step in steps:
        if isinstance(step, str):
            added = [(key, len(put) + number) for number, key in enumerate(step)]
            put += added
            backlog.put(added)
        else:
            taken += [item for _ in range(step) if (item := backlog.take(0)) is not None]
    taken += drain(backlog)
    assert taken == sorted(taken, key=lambda item: item[1])
    assert set(taken) <= set(put)
    assert dict(taken) == dict(put)
    assert backlog.skipped == len(put) - len(taken)


def test_take_waits_for_an_item_or_the_end() -> None:
    backlog = keyed(5)
    waiting = [Task(lambda: backlog.take(None)) for _ in range(3)]
    backlog.put(items("ab"))
    backlog.close()
    assert sorted(str(task.result()) for task in waiting) == ["('a', 0)", "('b', 1)", "None"]
    assert backlog.take(None) is None


def test_what_is_there_can_be_taken_after_the_end() -> None:
    backlog = keyed(1)
    backlog.put(items("abab"))
    backlog.close()
    assert [backlog.take(None) for _ in range(3)] == [("a", 2), ("b", 3), None]


@pytest.mark.parametrize("timeout", [0, -1, 1e-9])
def test_take_gives_up(timeout: float) -> None:
    assert keyed(5).take(timeout) is None


def test_a_child_may_use_it_though_a_thread_held_it() -> None:
    """Of the lock that a thread of the parent held at the fork nothing is left."""
    backlog = keyed(5)
    backlog.put(items("ab"))
    waiting = Task(lambda: Backlog[Item](1).take(0))
    waiting.result()

    def work() -> list[Item]:
        backlog.after_fork()
        backlog.put([("c", 2)])
        return drain(backlog)

    with backlog._condition:
        assert in_child(work) == [("a", 0), ("b", 1), ("c", 2)]
    assert os.getpid() and drain(backlog) == items("ab")


def test_to_drain_costs_by_the_number_of_keys() -> None:
    """Not by its square. 200,000 keys take a fraction of a second, or minutes."""
    backlog = keyed(1)
    backlog.put([(str(number), number) for number in range(200_000)])
    began = time.monotonic()
    number = 0
    while backlog.take(0) is not None:
        number += 1
        assert time.monotonic() - began < PATIENCE / 2, f"{number} of 200,000 so far"
    assert number == 200_000

"""The queue between the event thread and a consumer."""

from __future__ import annotations

import os
import select
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from udsbus.client.backlog import Backlog

from .support import PATIENCE, Task, in_child

Item = tuple[str, int]


def keyed(limit: int, conflate: bool = False) -> Backlog[Item]:
    return Backlog(limit, lambda item: item[0], conflate)


def drain(backlog: Backlog[Item]) -> list[Item]:
    return list(iter(backlog.take, None))


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
    assert backlog.take() == ("a", 3)
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
            taken += [item for _ in range(step) if (item := backlog.take()) is not None]
    taken += drain(backlog)
    assert taken == sorted(taken, key=lambda item: item[1])
    assert set(taken) <= set(put)
    assert dict(taken) == dict(put)
    assert backlog.skipped == len(put) - len(taken)


def is_readable(bell: int) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def rings(backlog: Backlog[Item]) -> bool:
    """Whether a consumer that waits for the bell now hears it."""
    bell = backlog.await_bell()
    assert bell is not None, "nobody needs to wait"
    try:
        return is_readable(bell)
    finally:
        backlog.forgo_bell()


def test_the_bell_rings_when_there_is_something_to_take() -> None:
    backlog = keyed(5)
    assert not rings(backlog)
    backlog.put(items("ab"))
    assert backlog.await_bell() is None
    drain(backlog)
    assert not rings(backlog), "it does not ring for what was taken"
    bell = backlog.await_bell()
    assert bell is not None
    backlog.put(items("a"))
    assert is_readable(bell)
    drain(backlog)
    assert not rings(backlog)


def test_the_bell_rings_at_the_end() -> None:
    backlog = keyed(5)
    bell = backlog.await_bell()
    assert bell is not None
    backlog.close()
    assert is_readable(bell)
    assert backlog.await_bell() is None


def test_a_consumer_that_comes_later_leaves_the_bell_to_those_that_wait() -> None:
    """However far they have got: between `await_bell` and waiting for it."""
    backlog = keyed(5)
    bell = backlog.await_bell()
    assert bell is not None
    backlog.put(items("ab"))
    assert backlog.await_bell() is None
    assert is_readable(bell), "there is something to take for both"
    drain(backlog)
    assert not rings(backlog)
    backlog.put(items("a"))
    assert is_readable(bell), "it still waits"


def test_a_bell_that_is_not_awaited_costs_nothing() -> None:
    """However much is put."""
    backlog = keyed(5)
    bell = backlog.await_bell()
    assert bell is not None
    backlog.forgo_bell()
    backlog.put(items("a"))
    assert not is_readable(bell)


def test_a_bell_that_is_awaited_is_rung_once() -> None:
    """However much is put."""
    backlog = keyed(5)
    bell = backlog.await_bell()
    assert bell is not None
    for _ in range(100_000):
        backlog.put(items("a"))
    assert len(os.read(bell, 100)) == 1


def test_several_consumers_get_everything_once() -> None:
    backlog = keyed(1_000_000)

    def consume() -> list[Item]:
        found = []
        while True:
            bell = backlog.await_bell()
            item = backlog.take()
            if item is not None:
                found.append(item)
            elif bell is None:
                return found
            else:
                assert select.select([bell], [], [], PATIENCE)[0]
                backlog.forgo_bell()

    tasks = [Task(consume) for _ in range(4)]
    for number in range(0, 20_000, 2):
        backlog.put([("a", number), ("b", number + 1)])
    backlog.close()
    found = [number for task in tasks for _, number in task.result()]
    assert sorted(found) == list(range(20_000))


def test_what_is_there_can_be_taken_after_the_end() -> None:
    backlog = keyed(1)
    backlog.put(items("abab"))
    backlog.close()
    assert [backlog.take() for _ in range(3)] == [("a", 2), ("b", 3), None]


def test_a_child_has_a_lock_and_a_bell_of_its_own() -> None:
    """The lock may be held, at the fork, by a thread that the child has not; and the bell would
    ring for both."""
    backlog = keyed(5)
    assert not rings(backlog)
    backlog.put(items("ab"))
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with backlog._lock:
            held.set()
            go_on.wait(PATIENCE)

    def work() -> tuple[list[Item], bool]:
        backlog.after_fork()
        backlog.put([("c", 2)])
        found = drain(backlog)
        bell = backlog.await_bell()
        assert bell is not None
        backlog.put(items("a"))
        return found, bool(select.select([bell], [], [], 0)[0])

    task = Task(hold)
    held.wait(PATIENCE)
    assert in_child(work) == ([("a", 0), ("b", 1), ("c", 2)], True)
    go_on.set()
    task.result()
    assert drain(backlog) == items("ab")
    assert not rings(backlog)


def test_it_leaves_no_descriptor_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    backlog = keyed(5)
    assert not rings(backlog)
    del backlog
    assert len(os.listdir("/proc/self/fd")) == before


def test_to_drain_costs_by_the_number_of_keys() -> None:
    """Not by its square: ten times as many keys take ten times as long, not a hundred times."""

    def seconds(number: int) -> float:
        backlog = keyed(1)
        backlog.put([(str(key), key) for key in range(number)])
        began = time.thread_time()
        assert len(drain(backlog)) == number
        return time.thread_time() - began

    few = min(seconds(8_000) for _ in range(5))
    assert seconds(80_000) < 40 * few

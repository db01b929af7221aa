"""Events, conditions and barriers between processes, of which any may die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

import udsbus
from tests.client.support import PATIENCE, Child, Task
from tests.harness import BrokerProcess, wait_until
from udsbus import Client, InvalidRequest, NotHeld

from .conftest import Guarded

T = TypeVar("T")


def in_process(address: str, function: Callable[[Client], T]) -> Child[T]:
    """In a process of its own, with a client of its own."""

    def work() -> T:
        with udsbus.connect(address, timeout=PATIENCE) as client:
            return function(client)

    return Child(work)


def watched(client: Client, number: int) -> None:
    wait_until(lambda: client.info()["watches"] == number, f"{number} watches")


# --- events -----------------------------------------------------------------------------------


def test_an_event_wakes_other_processes(client: Client, bus: BrokerProcess) -> None:
    event = client.event("go")
    children = [in_process(bus.address, lambda mine: mine.event("go").wait()) for _ in range(3)]
    watched(client, 3)
    event.set()
    assert [child.result() for child in children] == [True, True, True]
    assert client.get("events/go") is True
    event.clear()
    assert not event.is_set()
    assert event.wait(0.01) is False
    watched(client, 0)


def test_who_waits_is_woken_by_an_event_that_is_cleared_at_once(
    client: Client, other: Client
) -> None:
    task = Task(lambda: client.event("go").wait(PATIENCE))
    watched(other, 1)
    with other.transaction() as transaction:  # set and clear would be two
        transaction.set("events/go", True)
    other.event("go").clear()
    assert task.result() is True


def test_an_event_over_a_takeover(guarded: Guarded) -> None:
    pair, client, other = guarded
    broker, _ = pair.ready(client)
    task = Task(other.event("go").wait)
    watched(client, 1)
    os.kill(broker, signal.SIGKILL)
    client.event("go").set()
    assert task.result() is True


def test_a_client_that_is_closed_while_it_waits(bus: BrokerProcess, client: Client) -> None:
    closing = udsbus.connect(bus.address, timeout=PATIENCE)
    task = Task(closing.event("never").wait)
    lock = Task(closing.lock("held").acquire) if client.lock("held").acquire() else None
    watched(client, 1)
    wait_until(lambda: client.info()["waiting"] == 1, "it to wait")
    closing.close()
    for each in (task, lock):
        assert each is not None
        with pytest.raises(InvalidRequest, match="closed"):
            each.result()
    client.lock("held").release()
    assert client.locks("held") == []


# --- conditions -------------------------------------------------------------------------------


def test_a_condition_passes_work_on(client: Client, bus: BrokerProcess) -> None:
    """Producer and consumers in processes of their own."""

    def consume(mine: Client) -> list[int]:
        condition = mine.condition("work")
        found: list[int] = []
        while True:
            with condition:
                condition.wait_for(lambda: mine.get("items"))
                items = mine.get("items")
                mine.set("items", items[1:])
            if items[0] is None:
                return found
            found.append(items[0])

    children = [in_process(bus.address, consume) for _ in range(3)]
    condition = client.condition("work")
    for number in [*range(60), None, None, None]:
        with condition:
            client.set("items", [*client.get("items", []), number])
            condition.notify()
    found = [child.result() for child in children]
    assert sorted(number for each in found for number in each) == list(range(60))
    assert client.keys("conditions/**") == []


def test_who_waits_longest_is_notified_first(client: Client, other: Client) -> None:
    woken: list[int] = []
    waiting = [threading.Event() for _ in range(3)]

    def wait(number: int) -> None:
        condition = client.condition("c")
        with condition:
            waiting[number].set()
            assert condition.wait(PATIENCE)
            woken.append(number)

    tasks = []
    for number in range(3):
        tasks.append(Task(lambda number=number: wait(number)))  # type: ignore[misc]
        assert waiting[number].wait(PATIENCE)
        wait_until(lambda: len(client.keys("conditions/c/*")) == number + 1, "it to wait")  # noqa: B023
    condition = other.condition("c")
    for number in range(3):
        with condition:
            condition.notify()
        tasks[number].result()
    assert woken == [0, 1, 2]


def test_the_dead_are_not_notified(client: Client, bus: BrokerProcess) -> None:
    def wait(mine: Client) -> None:
        with mine.condition("c") as _:
            mine.condition("c").wait()

    dead = in_process(bus.address, wait)
    wait_until(lambda: len(client.keys("conditions/c/*")) == 1, "it to wait")
    living = in_process(bus.address, wait)
    wait_until(lambda: len(client.keys("conditions/c/*")) == 2, "both to wait")
    dead.kill()
    wait_until(lambda: len(client.keys("conditions/c/*")) == 1, "the dead to go")
    with client.condition("c") as _:
        client.condition("c").notify()
    living.result()


def test_a_condition_needs_its_lock(client: Client) -> None:
    condition = client.condition("c")
    for ask in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(NotHeld):
            ask()
    with client.lock("mine") as _:
        assert client.condition("c", client.lock("mine")).wait(0.01) is False
        assert client.lock("mine").locked()
    assert client.keys("conditions/**") == []
    with condition, condition:  # an RLock: released as often as it was acquired
        assert condition.wait(0.01) is False
        assert client.lock("conditions/c").locked()
    assert not client.lock("conditions/c").locked()


# --- barriers ---------------------------------------------------------------------------------


def test_a_barrier_of_processes(client: Client, bus: BrokerProcess) -> None:
    def meet(mine: Client) -> list[int]:
        barrier = mine.barrier("b", 3)
        numbers = []
        for turn in range(10):
            mine.increment(f"turn/{turn}")
            numbers.append(barrier.wait(PATIENCE))
            assert mine.get(f"turn/{turn}") == 3
        return numbers

    children = [in_process(bus.address, meet) for _ in range(3)]
    rounds = zip(*(child.result() for child in children), strict=True)
    assert [sorted(numbers) for numbers in rounds] == [[0, 1, 2]] * 10
    assert client.barrier("b", 3).n_waiting == 0


def test_a_party_that_dies_is_not_counted(client: Client, bus: BrokerProcess) -> None:
    dead = in_process(bus.address, lambda mine: mine.barrier("b", 2).wait())
    barrier = client.barrier("b", 2)
    wait_until(lambda: barrier.n_waiting == 1, "it to wait")
    dead.kill()
    wait_until(lambda: barrier.n_waiting == 0, "it to go")
    living = in_process(bus.address, lambda mine: mine.barrier("b", 2).wait())
    assert sorted([barrier.wait(PATIENCE), living.result()]) == [0, 1]


def test_a_broken_barrier(client: Client, other: Client) -> None:
    barrier = client.barrier("b", 3)
    task = Task(barrier.wait)
    wait_until(lambda: barrier.n_waiting == 1, "it to wait")
    with pytest.raises(threading.BrokenBarrierError):
        other.barrier("b", 3).wait(0.01)
    with pytest.raises(threading.BrokenBarrierError):
        task.result()
    assert barrier.broken
    barrier.reset()
    assert not other.barrier("b", 3).broken
    for parties in (0, 1.5, True):
        with pytest.raises(InvalidRequest):
            client.barrier("b", parties)  # type: ignore[arg-type]


# --- in pickles -------------------------------------------------------------------------------


def test_what_is_pickled_is_of_the_same_client(client: Client) -> None:
    import pickle

    things = (
        client, client.lock("a"), client.rlock("a"), client.rwlock("a"), client.semaphore("s", 2),
        client.bounded_semaphore("s", 2), client.event("e"), client.condition("c"),
        client.condition("c", client.lock("a")), client.barrier("b", 2),
    )  # fmt: skip
    copies = pickle.loads(pickle.dumps(things))
    assert copies[0] is client
    assert [repr(copy) for copy in copies] == [repr(thing) for thing in things]
    with copies[1]:
        assert things[1].locked()
        assert things[1]._is_owned()

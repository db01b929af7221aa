"""Forks at any moment: the child has its own connections, the parent keeps its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from itertools import pairwise
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import Client, Message, Watch

from .support import (
    PATIENCE,
    Child,
    Task,
    in_child,
    in_children,
    in_threads,
    replay,
    take,
    take_number,
)


def increment_many(client: Client, key: str, number: int) -> list[int]:
    return [client.increment(key) for _ in range(number)]


# --- requests -----------------------------------------------------------------------------------


def test_parent_and_children_use_one_client_at_the_same_time(client: Client) -> None:
    client.ping()

    def work() -> list[int]:
        return increment_many(client, "a", 300)

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(work)) for _ in range(3)]
        sums = work()
        for child in children:
            sums += child.result()
    assert sorted(sums) == list(range(1, 1_201))


def test_a_child_has_a_connection_of_its_own_and_takes_it_along(address: str) -> None:
    """With a broker of its own: another may still be told of connections that end."""

    def work() -> tuple[int, int]:
        mine = client.info()["connections"]
        with client.watch("a"):
            return mine, client.info()["connections"]

    with running_broker(address), udsbus.connect(address) as client:
        assert in_child(work) == (2, 3)
        wait_until(lambda: client.info()["connections"] == 1, "the child's connections to end")


def test_a_child_that_closes_the_client_closes_its_own(address: str) -> None:
    """With a broker of its own: a client that another test has left behind, with callbacks, would
    connect in this child too."""
    with (
        running_broker(address),
        udsbus.connect(address) as client,
        client.watch("a") as watch,
    ):
        accepted = client.info()["counters"]["accepted"]

        def work() -> None:
            client.close()
            with pytest.raises(udsbus.InvalidRequest, match="closed"):
                client.ping()

        in_child(work)
        client.set("a", 1)
        assert take_number(watch, 1)[0].value == 1
        assert client.info()["counters"]["accepted"] == accepted


def test_grandchildren(client: Client) -> None:
    def work(depth: int) -> int:
        number = client.increment("a")
        return in_child(lambda: work(depth - 1)) if depth else number

    assert work(4) == 5


def test_fork_while_other_threads_are_in_the_middle_of_requests(client: Client) -> None:
    stop = threading.Event()

    def keep_asking(number: int) -> int:
        asked = 0
        while not stop.is_set():
            asked += 1
            value = f"{number}/{asked}"
            client.set(f"a/{number}", value)
            assert client.get(f"a/{number}") == value
        return asked

    def work() -> bool:
        for turn in range(10):
            client.set(f"b/{os.getpid()}", turn)
            assert client.get(f"b/{os.getpid()}") == turn
        return client.delete(f"b/{os.getpid()}")

    tasks = [Task(lambda number=number: keep_asking(number)) for number in range(4)]  # type: ignore[misc]
    forks = [in_child(work) for _ in range(30)]
    stop.set()
    assert all(forks)
    assert all(task.result() for task in tasks)


def test_forks_in_several_threads_at_once(client: Client) -> None:
    """No child uses what it inherited, and the parent's watch goes on."""

    def work() -> list[int]:
        with client.watch(f"b/{os.getpid()}") as own:
            for number in range(3):
                client.set(f"b/{os.getpid()}", number)
            return [change.value for change in take_number(own, 3)]

    def fork() -> None:
        client.ping()
        for _ in range(10):
            assert in_child(work) == [0, 1, 2]
            assert client.get("a/fixed") == "fixed"

    client.set("a/fixed", "fixed")
    with client.watch("a/end") as watch:
        in_threads(*[fork] * 5)
        client.set("a/end", 1)
        assert take_number(watch, 1)[0].value == 1


def test_fork_in_a_thread(client: Client) -> None:
    """Whose child has no main thread but this one."""
    client.ping()
    sums = Task(lambda: in_child(lambda: increment_many(client, "a", 5))).result()
    assert sums == [1, 2, 3, 4, 5]


def increment_at(address: str) -> int:
    with udsbus.connect(address) as client:
        return increment_many(client, "a", 20)[-1]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_multiprocessing(client: Client, method: str) -> None:
    client.ping()
    context = multiprocessing.get_context(method)
    with context.Pool(3) as pool:
        assert max(pool.map(increment_at, [client.address] * 6, chunksize=1)) == 120
        pool.close()
        pool.join()
    assert client.get("a") == 120


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_multiprocessing_inherits_a_client(client: Client) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=increment_many, args=(client, "a", 20)
    )
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert client.increment("a") == 21


# --- watches ------------------------------------------------------------------------------------


def values(watch: Watch[Any], last: int) -> list[int]:
    """The values told, up to `last`."""
    return [change.value for change in take(watch, lambda change: change.value == last)]


def test_a_watch_goes_on_in_the_parent_and_in_the_child(client: Client) -> None:
    with client.watch("a") as watch:
        client.set("a", 1)
        assert values(watch, 1) == [1]

        def work() -> list[int]:
            client.set("a", 2)
            return values(watch, 3)

        with Child(work) as child:
            assert values(watch, 2) == [2]
            client.set("a", 3)
            assert values(watch, 3) == [3]
            assert child.result() == [2, 3]
        client.set("a", 4)
        assert values(watch, 4) == [4]


def test_an_inherited_watch_has_what_was_not_taken_yet(client: Client) -> None:
    with client.watch("a") as watch:
        for number in range(1, 4):
            client.set("a", number)
        assert values(watch, 1) == [1]

        def work() -> list[int]:
            client.set("a", 4)
            return values(watch, 4)

        assert in_child(work) == [2, 3, 4]
        assert values(watch, 4) == [2, 3, 4]


def test_a_watch_whose_client_is_forgotten_is_inherited_too(bus: BrokerProcess) -> None:
    def watch_only() -> Watch:
        return udsbus.connect(bus.address).watch("a")

    with watch_only() as watch, udsbus.connect(bus.address) as client:

        def work() -> list[int]:
            client.set("a", 1)
            return values(watch, 1)

        assert in_child(work) == [1]
        assert values(watch, 1) == [1]
        client.delete("a")


def test_a_subscription_goes_on_in_the_parent_and_in_the_child(client: Client) -> None:
    with client.subscribe("a") as subscription:

        def work() -> object:
            ready = Task(lambda: subscription.get(timeout=PATIENCE))
            wait_until(lambda: client.publish("a", "ready?") == 2, "the child's subscription")
            return ready.result()

        assert in_child(work) == Message("a", "ready?")
        assert subscription.get(timeout=PATIENCE) == Message("a", "ready?")
        assert subscription.interruptions == 0


def test_the_watch_of_one_may_end_while_that_of_the_other_goes_on(client: Client) -> None:
    with client.watch("a") as watch:

        def work() -> None:
            watch.close()
            assert watch.get() is None

        in_child(work)
        client.set("a", 1)
        assert values(watch, 1) == [1]


@pytest.mark.parametrize("initial", [False, True])
def test_an_inherited_watch_misses_nothing(
    client: Client, bus: BrokerProcess, initial: bool
) -> None:
    """Though the forks come while the event thread is busy with it."""
    last = 8_000  # less than what the broker remembers

    def count() -> None:
        with udsbus.connect(bus.address) as own:
            for _ in range(0, last, 100):
                with own.pipeline() as p:
                    for _ in range(100):
                        p.increment("n")

    for _ in range(6):
        client.set("n", 0)
        with contextlib.ExitStack() as stack:
            watch = stack.enter_context(client.watch("n", initial=initial))
            stack.enter_context(Child(count))
            children = []
            for _ in range(8):
                take_number(watch, 50)
                children.append(stack.enter_context(Child(lambda watch=watch: values(watch, last))))  # type: ignore[misc]
            found = [values(watch, last), *[child.result() for child in children]]
        for each in found:
            assert each == list(range(each[0], last + 1)), first_gap(each)


def first_gap(numbers: list[int]) -> str:
    return next(f"{one}, then {other}" for one, other in pairwise(numbers) if other != one + 1)


# --- on_change ----------------------------------------------------------------------------------


def test_on_change_goes_on_in_the_child(client: Client) -> None:
    called: list[tuple[int, int]] = []
    client.on_change("a", lambda change: called.append((os.getpid(), change.value)))

    def work() -> list[tuple[int, int]]:
        wait_until(lambda: client.info()["watches"] > watches, "the child's watch")
        client.set("a", 1)
        wait_until(lambda: called, "a call in the child")
        return called

    watches = client.info()["watches"]
    with Child(work) as child:
        assert child.result() == [(child.pid, 1)]
    wait_until(lambda: called, "a call in the parent")
    assert called == [(os.getpid(), 1)]


def test_on_change_in_the_child_keeps_up(client: Client) -> None:
    """Calls that were due at the fork do not hold up those that are due later."""
    called: list[int] = []
    busy, go_on = threading.Event(), threading.Event()

    @client.on_change("a")
    def slow(change: udsbus.Change) -> None:
        called.append(change.value)
        busy.set()
        if change.value == 1 and os.getpid() == parent:
            go_on.wait(PATIENCE)

    parent = os.getpid()
    with client.watch("a") as watch:
        for number in range(1, 6):
            client.set("a", number)
        take_number(watch, 5)  # so the event thread has handed them all on
        assert busy.wait(PATIENCE)

        def work() -> None:
            client.set("a", 6)
            wait_until(lambda: called[-1] == 6, f"the call for 6; there were {called}")

        in_child(work)
        go_on.set()
        wait_until(lambda: called == [1, 2, 3, 4, 5, 6], "the calls in the parent")


def test_state_followed_in_many_children(client: Client, bus: BrokerProcess) -> None:
    """Each follows the same inherited watch from the initial state, and all agree in the end."""
    client.set_many({f"a/{number}": 0 for number in range(50)})
    with client.watch("a/*", initial=True) as watch:

        def follow() -> dict[str, int]:
            return replay(take(watch, lambda change: change.key == "a/end"))

        def write() -> dict[str, int]:
            with udsbus.connect(bus.address) as own:
                for number in range(1_000):
                    own.set(f"a/{number % 70}", number)
                    if number % 5 == 0:
                        own.delete(f"a/{number % 11}")
                own.set("a/end", 0)
            return dict(client.items("a/*"))

        *states, truth = in_children(follow, follow, follow, write)
        states.append(follow())
    assert states == [truth] * 4

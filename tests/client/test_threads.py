"""Many threads and one client: a connection each, no mix-up, nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import Client, InvalidRequest

from .support import PATIENCE, FakeBroker, Silence, Task, fill_queue, in_threads

THREADS = 16


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_answer_goes_to_another_thread(client: Client) -> None:
    """Each thread knows what its own keys hold, and what each answer must be."""

    def work(number: int) -> int:
        checked = 0
        for turn in range(250):
            key, value = f"a/{number}/{turn % 7}", [number, turn]
            revision = client.set(key, value)
            assert client.get(key) == value
            assert client.entry(key) == (value, revision, None)
            assert client.increment(f"n/{number}") == turn + 1
            with client.pipeline() as p:
                results = [p.get(key), p.get(f"a/{number}/none", number), p.exists(key)]
            assert [result.value for result in results] == [value, number, True]
            checked += 7
        return checked

    tasks = [lambda number=number: work(number) for number in range(THREADS)]
    assert sum(in_threads(*tasks)) == THREADS * 250 * 7


def test_each_thread_has_a_connection_and_takes_it_along(client: Client) -> None:
    before, open_files = client.info()["connections"], descriptors()
    asked, go_on = threading.Barrier(THREADS + 1), threading.Event()

    def work() -> None:
        client.ping()
        client.ping()
        asked.wait(PATIENCE)
        go_on.wait(PATIENCE)

    tasks = [Task(work) for _ in range(THREADS)]
    asked.wait(PATIENCE)
    assert client.info()["connections"] == before + THREADS
    go_on.set()
    for task in tasks:
        task.result()
    wait_until(lambda: client.info()["connections"] == before, "the threads' connections to end")
    assert descriptors() == open_files


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What goes away now goes away by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_thread_that_has_reconnected_takes_its_connection_along(address: str) -> None:
    broker = BrokerProcess(address)
    with udsbus.connect(address) as client:
        ready, restarted = threading.Event(), threading.Event()

        def work() -> None:
            client.ping()
            ready.set()
            restarted.wait(PATIENCE)
            client.ping()

        task = Task(work)
        ready.wait(PATIENCE)
        broker.kill()
        with running_broker(address):
            restarted.set()
            task.result()
            wait_until(lambda: client.info()["connections"] == 1, "its connection to end")


@pytest.mark.usefixtures("no_collector")
def test_a_thread_whose_transaction_was_refused_takes_its_connection_along(client: Client) -> None:
    def work() -> None:
        with pytest.raises(udsbus.Conflict) as refused, client.transaction() as t:
            t.check("absent", 1)
            result = t.set("a", 1)
        del refused
        with pytest.raises(udsbus.Conflict):
            result.value  # noqa: B018

    before = client.info()["connections"]
    Task(work).result()
    wait_until(lambda: client.info()["connections"] == before, "its connection to end")


def test_close_leaves_no_descriptor_behind(bus: BrokerProcess) -> None:
    """Though the client itself is still there."""
    gc.collect()
    before = descriptors()
    client = udsbus.connect(bus.address)
    with client.watch("a"), client.subscribe("a"):
        client.ping()
    client.close()
    assert descriptors() == before


def test_a_client_that_is_forgotten_leaves_no_descriptor_behind(bus: BrokerProcess) -> None:
    gc.collect()
    before = descriptors()
    udsbus.connect(bus.address).ping()
    gc.collect()
    assert descriptors() == before


def test_a_client_that_is_forgotten_after_its_watch_leaves_nothing_behind(
    bus: BrokerProcess,
) -> None:
    gc.collect()
    before, threads = descriptors(), threading.active_count()
    with udsbus.connect(bus.address).watch("a"):
        assert threading.active_count() == threads + 1
    gc.collect()
    wait_until(lambda: threading.active_count() == threads, "the event thread to end")
    assert descriptors() == before


def test_close_ends_what_other_threads_wait_for(address: str) -> None:
    """Long before their time is up."""
    asked = threading.Semaphore(0)

    def answer(method: str, params: object) -> object:
        asked.release()
        raise Silence

    def wait(attempt: Callable[[], object]) -> type[BaseException]:
        with pytest.raises(udsbus.Error) as caught:
            attempt()
        return caught.type

    with FakeBroker(address, answer):
        client = udsbus.connect(address, timeout=PATIENCE)
        attempts: list[Callable[[], object]] = [
            lambda: client.get("a"),
            lambda: client.set("a", 1),
            lambda: client.watch("a"),
            lambda: client.subscribe("a"),
        ]
        tasks = [Task(lambda attempt=attempt: wait(attempt)) for attempt in attempts]  # type: ignore[misc]
        for _ in attempts:
            assert asked.acquire(timeout=PATIENCE)
        client.close()
        kinds = [task.result(PATIENCE / 3) for task in tasks]
    assert kinds == [InvalidRequest, udsbus.BrokerUnavailable, InvalidRequest, InvalidRequest]


def test_close_while_a_thread_connects(address: str) -> None:
    """It has no connection yet that could be ended; and shall have none afterwards."""

    def ask() -> None:
        identity.append(threading.get_native_id())
        with pytest.raises(InvalidRequest, match="this client is closed"):
            client.ping()

    with FakeBroker(address, lambda *_: 1, queue=0) as broker:
        client = udsbus.connect(address, timeout=PATIENCE)
        broker.accepting.clear()
        waiting = fill_queue(address)
        identity: list[int] = []
        task = Task(ask)
        wait_until(lambda: identity and sleeps(identity[0]), "the thread to wait for its turn")
        client.close()
        broker.accepting.set()
        task.result()
        assert "ping" not in broker.requests
        for sock in waiting:
            sock.close()


def sleeps(thread: int) -> bool:
    return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_close_while_threads_begin(address: str) -> None:
    """Each either gets its answer or is told that the client is closed, from then on too. With a
    broker of its own: of one whose hello was under way it may believe for a while that it lives."""

    def begin() -> None:
        started.wait(PATIENCE)
        with pytest.raises((InvalidRequest, udsbus.BrokerUnavailable)):
            for _ in range(1_000):
                client.ping()
        with pytest.raises(InvalidRequest, match="closed"):
            client.ping()

    interval = sys.getswitchinterval()
    with running_broker(address), contextlib.ExitStack() as stack:
        stack.callback(sys.setswitchinterval, interval)
        sys.setswitchinterval(1e-5)
        for _ in range(50):
            started = threading.Barrier(9)
            client = udsbus.connect(address)
            tasks = [Task(begin) for _ in range(8)]
            started.wait(PATIENCE)
            client.close()
            for task in tasks:
                task.result()

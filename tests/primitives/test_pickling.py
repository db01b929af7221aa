"""Clients, locks and the like as arguments of other processes, however these are started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

import udsbus
from tests.client.support import PATIENCE
from udsbus import Client, LocalBroker, Lock

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture(scope="module")
def mine() -> Iterator[Client]:
    with LocalBroker() as broker, broker.connect(name="parent", timeout=PATIENCE) as client:
        yield client


def count(client: Client, lock: Lock, key: str, times: int) -> tuple[int, str]:
    """A read and a write that others must not come between."""
    for _ in range(times):
        with lock:
            client.set(key, client.get(key, 0) + 1)
    return os.getpid(), client.session


@pytest.mark.parametrize("method", METHODS)
def test_processes(mine: Client, method: str) -> None:
    lock = mine.lock("counting")
    make = getattr(multiprocessing.get_context(method), "Process")  # noqa: B009  (not of all contexts)
    processes = [make(target=count, args=(mine, lock, method, 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert mine.get(method) == 150


@pytest.mark.parametrize("method", METHODS)
def test_a_pool(mine: Client, method: str) -> None:
    arguments = [(mine, mine.lock("counting"), f"pool/{method}", 10)] * 10
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(count, arguments)
    assert mine.get(f"pool/{method}") == 100
    assert len(set(found)) == len({pid for pid, _ in found}), "one client in each process"
    assert mine.session not in {session for _, session in found}


def test_an_executor(mine: Client) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        lock = mine.lock("counting")
        futures = [executor.submit(count, mine, lock, "executor", 10) for _ in range(10)]
        found = [future.result(PATIENCE) for future in futures]
    assert mine.get("executor") == 100
    assert len(set(found)) == len({pid for pid, _ in found})


def names(client: Client) -> set[str | None]:
    return {each.name for each in client.clients()}


def test_it_has_the_same_name_and_metadata(mine: Client) -> None:
    with udsbus.connect(mine.address, name="worker", metadata={"room": 7}) as worker:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(names, (worker,)) == {"parent", "worker"}
            workers = [each for each in mine.clients() if each.name == "worker"]
            assert [each.metadata for each in workers] == [{"room": 7}] * 2


def back(lock: Lock) -> tuple[Lock, bool]:
    """Also whether it is of the same client here after another pickle."""
    return lock, pickle.loads(pickle.dumps(lock))._client is lock._client


@pytest.mark.parametrize("method", METHODS)
def test_what_comes_back_is_of_the_client_that_went(mine: Client, method: str) -> None:
    """And not of one more for each process that it comes from."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        lock, same = pool.apply(back, (mine.lock("there"),))
    assert lock._client is mine
    assert same

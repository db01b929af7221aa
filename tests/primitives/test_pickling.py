"""Clients, locks and the like as arguments of other processes, however these are started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import udsbus
from tests.client.support import PATIENCE
from udsbus import Client, LocalBroker, Lock

METHODS = multiprocessing.get_all_start_methods()
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


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


# --- all that can be an argument --------------------------------------------------------------


def all_kinds(client: Client, name: str) -> dict[str, Any]:
    mapping = client.mapping(name)
    mapping.update({"dict": {"deep": [{"here": 0}]}, "list": [0], "set": {0}})
    for each in (client.queue, client.lifo_queue, client.priority_queue):
        each(f"{name}/{each.__name__}").put((1, "parent"))
    return {
        "client": client,
        "mapping": mapping,
        "dict": mapping["dict"],
        "list": mapping["list"],
        "set": mapping["set"],
        "deep": mapping["dict"]["deep"][0],
        "queue": client.queue(f"{name}/queue", 9),
        "lifo_queue": client.lifo_queue(f"{name}/lifo_queue", 9),
        "priority_queue": client.priority_queue(f"{name}/priority_queue", 9),
        "counter": client.counter(name),
        "rate_limiter": client.rate_limiter(name, 0.001, 5),
        "event": client.event(name),
        "condition": client.condition(name, client.lock(f"{name}/condition")),
        "barrier": client.barrier(name, 1, os.getpid, PATIENCE),
        "election": client.election(name),
        "rlock": client.rlock(f"{name}/rlock"),
        "rwlock": client.rwlock(f"{name}/rwlock"),
        "semaphore": client.semaphore(f"{name}/semaphore", 2),
        "bounded_semaphore": client.bounded_semaphore(f"{name}/bounded_semaphore", 2),
    }


def use(things: dict[str, Any], parent: str) -> None:
    """Each of them, in a child."""
    client = things["client"]
    assert client.session != parent
    for name, thing in things.items():
        client.set(f"kinds/{name}", repr(thing))
    things["mapping"]["more"] = 1
    things["dict"]["more"] = 1
    things["list"].append(1)
    things["set"].add(1)
    things["deep"]["here"] += 1
    for kind in ("queue", "lifo_queue", "priority_queue"):
        assert things[kind].maxsize == 9
        things[kind].put((0, "child"))
    things["counter"] += 1
    assert things["rate_limiter"].acquire(5, timeout=0)
    things["event"].set()
    with things["condition"], things["rlock"], things["rwlock"].read:
        things["condition"].notify()
        held = {lock.name for lock in client.locks() if lock.holders[0].session == client.session}
    assert {name.rpartition("/")[2] for name in held} == {"condition", "rlock", "rwlock"}
    for kind in ("semaphore", "bounded_semaphore"):
        with things[kind], things[kind]:
            assert not things[kind].acquire(blocking=False)
    assert things["barrier"].wait() == 0
    with things["election"].leading("the child"):
        assert things["election"].is_leader()


def by_process(method: str, *arguments: Any) -> None:
    make = getattr(multiprocessing.get_context(method), "Process")  # noqa: B009  (not of all contexts)
    process = make(target=use, args=arguments)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0


def by_pool(method: str, *arguments: Any) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        pool.apply_async(use, arguments).get(PATIENCE)


def by_executor(method: str, *arguments: Any) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        executor.submit(use, *arguments).result(PATIENCE)


@pytest.mark.parametrize("how", [by_process, by_pool, by_executor])
@pytest.mark.parametrize("method", METHODS)
def test_all_kinds(mine: Client, how: Callable[..., None], method: str) -> None:
    name = f"{how.__name__}/{method}"
    things = all_kinds(mine, name)
    looks = {f"kinds/{kind}": repr(thing) for kind, thing in things.items()}
    how(method, things, mine.session)
    assert mine.get_many(looks) == looks
    assert things["mapping"].copy() == {
        "dict": {"deep": [{"here": 1}], "more": 1},
        "list": [0, 1],
        "set": {0, 1},
        "more": 1,
    }
    assert [things["queue"].get(), things["queue"].get()] == [(1, "parent"), (0, "child")]
    assert things["lifo_queue"].get() == things["priority_queue"].get() == (0, "child")
    assert things["counter"].value == 1
    assert not things["rate_limiter"].acquire(5, timeout=0)
    assert things["event"].is_set()


def test_what_stays_in_its_process(mine: Client) -> None:
    mine.queue("mine").put("item")
    taken = mine.queue("mine").get(ack=True)
    with mine.watch("mine") as watch:
        for each in (taken, watch):
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(each)
    taken.done()

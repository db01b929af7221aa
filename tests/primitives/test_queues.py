"""Queues between processes: each item to one of them, in order, and none lost."""

from __future__ import annotations

import datetime
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import udsbus
from tests.client.support import (
    PATIENCE,
    Child,
    FakeBroker,
    Hangup,
    Task,
    at_every_moment,
    in_child,
)
from tests.engine.support import examples
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import BrokerUnavailable, Client, Conflict, InvalidRequest, UnsupportedValue
from udsbus.client import requests
from udsbus.limits import ORDER_BYTES
from udsbus.primitives.ordering import order_of

from .conftest import Guarded


@pytest.fixture(autouse=True)
def _emptied(bus: BrokerProcess) -> Iterator[None]:
    """The tests share a bus."""
    yield
    with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
        while mine._call(requests.take("q", 0.0)) is not None:
            pass
        while mine._call(requests.done("q")):
            pass


def about(client: Client, name: str = "q") -> dict[str, int]:
    return client._call(requests.queue(name))


def wait_for_takers(client: Client, number: int, name: str = "q") -> None:
    wait_until(lambda: about(client, name)["takers"] == number, f"{number} to wait")


def drained(client: Client, name: str = "q") -> list[Any]:
    found = []
    while True:
        try:
            found.append(client.queue(name).get_nowait())
        except queue.Empty:
            return found


def making_sure() -> bool:
    return any(thread.name == "udsbus-make-sure" for thread in threading.enumerate())


# --- each item to one -------------------------------------------------------------------------


def test_processes_share_the_work(client: Client, bus: BrokerProcess) -> None:
    """None is lost, none is doubled, and those of one come in the order in which it put them."""

    def put(number: int) -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            for n in range(300):
                mine.queue("q", maxsize=5).put((number, n))

    def get() -> list[Any]:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            found = []
            jobs = mine.queue("q", maxsize=5)
            while (item := jobs.get()) is not None:
                found.append(item)
                jobs.task_done()
            jobs.task_done()
            return found

    getters = [Child(get) for _ in range(3)]
    putters = [Child(lambda number=number: put(number)) for number in range(2)]  # type: ignore[misc]
    for putter in putters:
        putter.result()
    for _ in getters:
        client.queue("q").put(None)
    found = [child.result() for child in getters]
    assert sorted(item for its in found for item in its) == [
        (number, n) for number in range(2) for n in range(300)
    ]
    for its in found:
        for number in range(2):
            mine = [item for item in its if item[0] == number]
            assert mine == sorted(mine)
    assert client.queue("q").join(timeout=PATIENCE)
    assert client.keys("$sys/queues/**") + client.keys("$sys/in_hand/**") == []


def test_first_come_first_served(client: Client, bus: BrokerProcess) -> None:
    clients = [udsbus.connect(bus.address, timeout=PATIENCE) for _ in range(4)]
    tasks = []
    for number, each in enumerate(clients):
        tasks.append(Task(each.queue("q").get))
        wait_for_takers(client, number + 1)
    for number in range(4):
        client.queue("q").put(number)
        assert tasks[number].result() == number
    for each in clients:
        each.close()


def test_all_kinds_of_values(client: Client, other: Client) -> None:
    for value in (
        None,
        0,
        "",
        (1, [2, {"three": 3.0}]),
        b"\x00",
        {1, 2},
        datetime.date(2026, 1, 2),
    ):
        client.queue("q").put(value)
        got = other.queue("q").get()
        assert got == value
        assert type(got) is type(value)


def test_an_item_that_cannot_be_sent(client: Client) -> None:
    with pytest.raises(UnsupportedValue, match="cannot be sent"):
        client.queue("q").put(object())
    assert client.queue("q").empty()


def test_an_item_that_cannot_be_read_stays(client: Client) -> None:
    """Another version has put it, say."""
    client._call(requests.put("q", b"\xd4\x63\x00"))  # extension type 99
    for ack in (False, True):
        with pytest.raises(UnsupportedValue, match="unknown to this version"):
            client.queue("q").get(ack=ack)
        wait_until(lambda: client.queue("q").qsize() == 1, "it to be in the queue again")
        assert about(client)["unfinished"] == 1


def test_wrong_arguments(client: Client) -> None:
    jobs = client.queue("q")
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(ValueError, match="timeout must be"):
            jobs.get(timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout must be"):
            jobs.put(1, timeout=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="maxsize"):
        client.queue("q", maxsize="3")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="queue 'q/' has an empty segment"):
        client.queue("q/").put(1)


def test_a_queue_is_keys_that_can_be_watched(client: Client) -> None:
    with client.watch("$sys/queues/jobs/*") as watch:
        client.queue("jobs").put({"url": "a"})
        client.queue("jobs").get()
        created, deleted = watch.get(), watch.get()
    assert created is not None
    assert deleted is not None
    assert (created.kind, created.value, deleted.kind) == ("created", {"url": "a"}, "deleted")
    assert created.key == deleted.key == f"$sys/queues/jobs/{created.revision:020}"


# --- in order of priority ---------------------------------------------------------------------


def test_the_lowest_first(client: Client) -> None:
    jobs = client.priority_queue("q")
    items: list[Any] = [(2, "b"), (1, {"job": 1}), (1, {"job": 0}), (-5, None), (1.5, "c")]
    for item in items:
        jobs.put(item)
    assert [jobs.get() for _ in items] == [
        (-5, None), (1, {"job": 1}), (1, {"job": 0}), (1.5, "c"), (2, "b"),
    ]  # fmt: skip


def test_what_has_no_order(client: Client) -> None:
    items: list[Any] = [{}, None, {1}, ({}, 1), float("nan"), 1 << 2000]
    for item in items:
        with pytest.raises(TypeError, match=r"put \(priority, item\)"):
            client.priority_queue("q").put(item)
    assert client.priority_queue("q").empty()


scalars = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.integers(2**53 - 4, 2**53 + 4),
)
texts = st.text("ab\0\x01\xff\U00010000", max_size=5)


@given(st.data())
@examples(2_000)
def test_the_order_of_bytes_is_that_of_python(data: st.DataObject) -> None:
    kinds: list[st.SearchStrategy[Any]] = [
        scalars, texts, st.binary(max_size=5), st.datetimes(), st.timedeltas(), st.dates(),
        st.datetimes(timezones=st.just(datetime.UTC)),
        st.tuples(scalars, texts),
        st.lists(st.integers(-2, 2), min_size=1, max_size=4),
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(0, 1)),
    ]  # fmt: skip
    kind = data.draw(st.sampled_from(kinds))
    one, two = data.draw(kind), data.draw(kind)
    assert (order_of(one) < order_of(two)) == (one < two)
    assert (order_of(one) == order_of(two)) == (one == two)


def test_a_long_order_is_cut(client: Client) -> None:
    jobs = client.priority_queue("q")
    for end in "ba":
        jobs.put((1, "x" * ORDER_BYTES + end))
    jobs.put((0, "x" * 10_000))
    assert [jobs.get()[1][-1] for _ in range(3)] == ["x", "b", "a"]


# --- who dies with an item in hand ------------------------------------------------------------


def take_and_stay(address: str, *, ack: bool) -> Callable[[], None]:
    def work() -> None:
        client = udsbus.connect(address, timeout=PATIENCE)
        client.queue("q").get(ack=ack)  # type: ignore[call-overload]
        client.set("taken", True)
        signal.pause()

    return work


def test_what_a_killed_process_has_not_done_comes_back(
    client: Client, bus: BrokerProcess, other: Client
) -> None:
    """In its place, before what was put later."""
    for number in (1, 2):
        client.queue("q").put(number)
    child = Child(take_and_stay(bus.address, ack=True))
    wait_until(lambda: client.exists("taken"), "the child to take it")
    assert client.items("$sys/taken/q/*")[0][1] == 1
    task = Task(lambda: [other.queue("q").get(), other.queue("q").get()])
    wait_for_takers(client, 1)
    child.kill()
    assert task.result() == [2, 1], "it was given to who waited already"
    assert about(client)["unfinished"] == 2


def test_what_it_had_in_hand_is_not_waited_for(client: Client, bus: BrokerProcess) -> None:
    client.queue("q").put(1)
    child = Child(take_and_stay(bus.address, ack=False))
    wait_until(lambda: client.exists("taken"), "the child to take it")
    task = Task(client.queue("q").join)
    wait_until(lambda: client.info()["waiting"] == 1, "it to wait")
    child.kill()
    assert task.result()


def test_taken_is_done_or_goes_back(client: Client, other: Client) -> None:
    jobs = client.queue("q")
    jobs.put("a")
    with jobs.get(ack=True) as item:
        assert item == "a"
        assert about(client) == {
            "items": 0, "unfinished": 1, "taken": 1, "takers": 0, "putters": 0,
        }  # fmt: skip
    assert about(client)["unfinished"] == 0
    jobs.put("b")
    with pytest.raises(ZeroDivisionError), jobs.get(ack=True):
        1 / 0  # noqa: B018
    taken = jobs.get(ack=True)
    assert taken.item == "b"
    taken.done()
    for settle in (taken.done, taken.give_back):
        with pytest.raises(InvalidRequest, match="settled before"):
            settle()
    jobs.put("c")
    lost = jobs.get(ack=True)
    other.kick(client.session)
    assert other.queue("q").get() == "c"
    with pytest.raises(Conflict, match="has gone back"):
        lost.done()


def test_a_child_after_a_fork_has_taken_nothing(client: Client) -> None:
    client.queue("q").put(1)
    taken = client.queue("q").get(ack=True)

    def work() -> str:
        with pytest.raises(InvalidRequest) as caught:
            taken.done()
        return str(caught.value)

    assert "parent's" in in_child(work)
    taken.done()


def test_a_client_that_is_closed_gives_back(client: Client, bus: BrokerProcess) -> None:
    client.queue("q").put(1)
    with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
        assert mine.queue("q").get(ack=True).item == 1
    assert client.queue("q").get(timeout=PATIENCE) == 1


def test_who_waits_and_is_killed_gets_nothing(client: Client, bus: BrokerProcess) -> None:
    child = Child(take_and_stay(bus.address, ack=False))
    wait_for_takers(client, 1)
    child.kill()
    wait_for_takers(client, 0)
    client.queue("q").put(1)
    assert client.queue("q").get() == 1


def test_a_putter_that_gives_up_puts_nothing(client: Client, other: Client) -> None:
    client.queue("q", maxsize=1).put(1)
    with pytest.raises(queue.Full):
        other.queue("q", maxsize=1).put(2, timeout=0.05)
    assert drained(client) == [1]


# --- interrupts -------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_ctrl_c_at_every_moment(client: Client, bus: BrokerProcess, ack: bool, empty: bool) -> None:
    """Who gets an exception has not got an item, and it is in the queue, where it was."""

    def work() -> int:
        with (
            udsbus.connect(bus.address, timeout=PATIENCE) as mine,
            udsbus.connect(bus.address, timeout=PATIENCE) as theirs,
        ):
            jobs = mine.queue("q")
            theirs.queue("q").put(0)
            jobs.get()
            jobs.task_done()
            struck = threading.Event()
            got: list[Any] = []
            tasks: list[Task[None]] = []

            def interrupt() -> None:
                raise KeyboardInterrupt

            def prepare() -> None:
                struck.clear()
                got.clear()
                tasks.append(Task(put))
                if not empty:
                    tasks[-1].result()

            def put() -> None:
                if empty:
                    wait_until(
                        lambda: about(theirs)["takers"] == 1 or struck.is_set(),
                        "it to wait",
                    )
                theirs.queue("q").put("first")
                theirs.queue("q").put("second")

            def action() -> None:
                try:
                    got.append(jobs.get(ack=ack))  # type: ignore[call-overload]
                finally:
                    struck.set()

            for moment in at_every_moment(action, interrupt, prepare):
                if got:
                    got[0].done() if ack else jobs.task_done()
                tasks.pop().result()
                wait_until(lambda: not making_sure(), "what was interrupted to be put right")
                rest = ["second"] if got else ["first", "second"]
                assert drained(theirs) == rest, f"moment {moment}"
                for _ in rest:
                    theirs.queue("q").task_done()
                assert about(theirs)["unfinished"] == 0, f"moment {moment}"
            return moment

    assert in_child(work) > 20


@pytest.mark.parametrize("program", ["plain", "with", "fork"])
def test_a_worker_that_is_stopped_by_ctrl_c(
    client: Client, bus: BrokerProcess, program: str
) -> None:
    """It has written down all that it was given, and the rest is in the queue."""
    source = {
        "plain": "work(udsbus.connect(sys.argv[1]))",
        "with": "with udsbus.connect(sys.argv[1]) as client: work(client)",
        "fork": "process = multiprocessing.get_context('fork').Process(target=in_child);"
        "process.start(); process.join()",
    }[program]
    source = f"""
import multiprocessing, os, signal, sys, threading, udsbus
got = []
def work(client):
    jobs = client.queue("q")
    strike = os.getpid(), signal.SIGINT
    threading.Timer(0.05, os.kill, strike).start()
    while True:
        got.append(jobs.get())
def in_child():
    try:
        work(udsbus.connect(sys.argv[1]))
    except KeyboardInterrupt:
        print(*got)
try:
    {source}
except KeyboardInterrupt:
    print(*got)
"""
    jobs = client.queue("q")
    for _ in range(5):
        for number in range(2_000):
            client._call(requests.put("q", b"\xcd" + number.to_bytes(2, "big")))
        done = subprocess.run(
            [sys.executable, "-c", source, bus.address],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        got = [int(number) for number in done.stdout.split()]
        rest = drained(client)
        assert sorted(got + rest) == list(range(2_000)), done.stderr
        assert rest == sorted(rest), "each in its place"
        while about(client)["unfinished"]:
            jobs.task_done()


def test_a_client_that_is_closed_after_an_interrupt(client: Client, bus: BrokerProcess) -> None:
    """As at the end of a `with` block that Ctrl-C has ended."""

    def work() -> int:
        clients: list[Client] = []
        got: list[Any] = []
        client.ping()  # this child is a client of its own
        before = len(client.clients())

        def interrupt() -> None:
            raise KeyboardInterrupt

        def prepare() -> None:
            got.clear()
            client.queue("q").put("item")
            clients.append(udsbus.connect(bus.address, timeout=PATIENCE))
            clients[-1]._stay()

        def action() -> None:
            got.append(clients[-1].queue("q").get())

        for moment in at_every_moment(action, interrupt, prepare):
            clients.pop().close()
            wait_until(lambda: not making_sure(), "what was interrupted to be put right")
            wait_until(lambda: len(client.clients()) == before, "nobody else to be left")
            assert drained(client) == ([] if got else ["item"]), f"moment {moment}"
            while about(client)["unfinished"]:
                client.queue("q").task_done()
        return moment

    assert in_child(work) > 5


def test_who_is_kicked_while_it_waits_goes_on(client: Client, other: Client) -> None:
    """As a new client, and at the end of the line."""
    client.queue("full", maxsize=1).put(1)
    tasks = [
        Task(other.queue("q").get),
        Task(lambda: other.queue("q").get(ack=True).item),
        Task(lambda: other.queue("full", maxsize=1).put(2)),
        Task(lambda: other.queue("full").join(timeout=PATIENCE)),
    ]
    wait_until(lambda: client.info()["waiting"] == 4, "all to wait")
    session = other.session
    client.kick(session)
    wait_until(lambda: client.info()["waiting"] == 4, "all to wait again")
    assert not any(task.done() for task in tasks)
    for item in ("a", "b"):
        client.queue("q").put(item)
    assert {tasks[0].result(), tasks[1].result()} == {"a", "b"}
    assert client.queue("full").get() == 1
    tasks[2].result()
    assert client.queue("full").get() == 2
    client.queue("full").task_done()
    client.queue("full").task_done()
    assert tasks[3].result() is True


# --- the broker ends --------------------------------------------------------------------------


def test_a_queue_outlives_the_broker(guarded: Guarded) -> None:
    pair, client, other = guarded
    jobs = client.queue("q")
    for number in range(3):
        jobs.put(number)
    taken = jobs.get(ack=True)
    assert jobs.get() == 1
    task = Task(lambda: [other.queue("q").get(), other.queue("q").get()])
    wait_for_takers(client, 1)
    for _ in range(2):
        broker, _ = pair.ready(client)
        os.kill(broker, signal.SIGKILL)
        wait_for_takers(client, 1)
        assert about(client)["taken"] == 1
        assert not task.done()
    taken.give_back()
    assert task.result() == [2, 0]
    assert about(client)["unfinished"] == 3
    for _ in range(3):
        jobs.task_done()
    assert jobs.join(timeout=0)


@pytest.mark.parametrize("ack", [False, True])
def test_an_answer_that_is_lost_is_given_again(address: str, ack: bool) -> None:
    """By the msgid, or by the claim: it is the same item."""

    def answer(method: str, params: list[Any]) -> Any:
        if method == "take" and len(takes()) < 3:
            raise Hangup
        return ["00000000000000000007", b"\x05"] if method == "take" else True

    def takes() -> list[Any]:
        return [request for request in broker.sent if request[1] == "take"]

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        got = client.queue("q").get(ack=ack)  # type: ignore[call-overload]
        assert (got.item if ack else got) == 5
    asked = takes()
    assert len(asked) == 3
    assert asked[0][2] == asked[1][2] == asked[2][2]
    assert (len({msgid for msgid, _, _ in asked}) == 1) == (not ack)


def test_what_another_state_knows_nothing_of_is_not_asked_again(tmp_path: Path) -> None:
    """A bus that keeps nothing has died, perhaps with the item on its way."""
    path = tmp_path / "bus.sock"
    with running_broker(path) as broker:
        client = udsbus.connect(path, timeout=PATIENCE)
        task = Task(client.queue("q").get)
        with udsbus.connect(path) as other:
            wait_for_takers(other, 1)
        broker.kill()
        with running_broker(path), pytest.raises(BrokerUnavailable, match="nobody knows"):
            task.result()
        client.close()

"""Locks between processes: one at a time, in order, and never left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import udsbus
from tests.client.support import PATIENCE, Child, Task, at_every_moment, in_child, take_number
from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus import (
    Client,
    Conflict,
    Deadlock,
    InvalidRequest,
    Lock,
    LockLost,
    LockWaiter,
    NotHeld,
    Semaphore,
)
from udsbus.client import requests

from .conftest import Guarded


def waiting(client: Client, lock: str) -> list[LockWaiter]:
    return [waiter for each in client.locks(lock) for waiter in each.waiting]


def waiters(client: Client, lock: str) -> int:
    return len(waiting(client, lock))


def wait_for_waiters(client: Client, lock: str, number: int) -> None:
    wait_until(lambda: waiters(client, lock) == number, f"{number} to wait for {lock}")


# --- one at a time ----------------------------------------------------------------------------


def test_processes_take_turns(client: Client, bus: BrokerProcess) -> None:
    """A read and a write, with others in between if the lock is none."""

    def add() -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            for _ in range(200):
                with mine.lock("sum"):
                    mine.set("sum", mine.get("sum", 0) + 1)

    children = [Child(add) for _ in range(4)]
    for child in children:
        child.result()
    assert client.get("sum") == 800
    assert client.locks("a") == []


def test_threads_of_one_client_take_turns(client: Client) -> None:
    lock, inside, most = client.lock("a"), [0], [0]

    def work() -> None:
        for _ in range(50):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    for task in [Task(work) for _ in range(4)]:
        task.result()
    assert most == [1]


def test_first_come_first_served(client: Client, bus: BrokerProcess) -> None:
    lock, order = client.lock("a"), []
    lock.acquire()

    def work(number: int) -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine, mine.lock("a"):
            order.append(number)

    tasks = []
    for number in range(5):
        tasks.append(Task(lambda number=number: work(number)))  # type: ignore[misc]
        wait_for_waiters(client, "a", number + 1)
    lock.release()
    for task in tasks:
        task.result()
    assert order == [0, 1, 2, 3, 4]


def test_a_lock_belongs_to_the_client(client: Client, other: Client) -> None:
    """Not to the object, nor to the thread."""
    client.lock("a").acquire()
    assert not other.lock("a").acquire(blocking=False)
    with pytest.raises(NotHeld, match="not held by this client"):
        other.lock("a").release()
    Task(client.lock("a").release).result()
    assert other.lock("a").acquire(blocking=False)
    other.lock("a").release()


def test_a_forked_child_holds_nothing(client: Client) -> None:
    lock = client.lock("a")
    with lock:

        def work() -> tuple[bool, str]:
            acquired = lock.acquire(timeout=0.01)
            try:
                lock.release()
            except NotHeld as error:
                return acquired, str(error)
            return acquired, ""

        acquired, refusal = in_child(work)
        assert not acquired
        assert "not held" in refusal
        assert lock.locked()
    assert not lock.locked()


def test_time_outs(client: Client, other: Client) -> None:
    lock = client.lock("a")
    with other.lock("a"):
        assert lock.acquire(blocking=False) is False
        began = time.monotonic()
        assert lock.acquire(timeout=0.05) is False
        assert time.monotonic() - began >= 0.05
        assert waiters(client, "a") == 0
    for arguments in ({"blocking": False, "timeout": 1}, {"timeout": -2}, {"timeout": "1"}):
        with pytest.raises(InvalidRequest):
            lock.acquire(**arguments)


def test_waiting_longer_than_a_request_may_take(bus: BrokerProcess, client: Client) -> None:
    with udsbus.connect(bus.address, timeout=0.2) as hasty:
        client.lock("a").acquire()
        task = Task(lambda: hasty.lock("a").acquire())
        time.sleep(0.5)
        assert not task.done()
        client.lock("a").release()
        assert task.result() is True


# --- shared -----------------------------------------------------------------------------------


def test_readers_and_writers(client: Client, other: Client) -> None:
    mine, theirs = client.rwlock("a"), other.rwlock("a")
    with mine.read, theirs.read:
        assert mine.read.locked()
        assert not mine.write.locked()
        assert not mine.write.acquire(blocking=False)
        writer = Task(theirs.write.acquire)
        wait_for_waiters(client, "a", 1)
        assert not mine.read.acquire(blocking=False), "nobody overtakes the writer"
    assert writer.result()
    assert mine.write.locked()
    theirs.write.release()
    with mine.read:
        pass


def test_a_semaphore(client: Client, other: Client) -> None:
    mine, theirs = client.semaphore("a", 2), other.semaphore("a", 2)
    with mine, theirs:
        assert not mine.acquire(timeout=0.01)
        assert [lock.permits for lock in client.locks("a")] == [2]
        with pytest.raises(Conflict, match="2 permits"):
            client.semaphore("a", 3).acquire()
        with pytest.raises(Conflict, match="2 permits"):
            client.lock("a").acquire()
    waiting = Task(lambda: [other.semaphore("signals", 0).acquire() for _ in range(3)])
    wait_for_waiters(client, "signals", 1)
    client.semaphore("signals", 0).release(3)
    assert waiting.result() == [True, True, True]
    other.semaphore("signals", 0).release(3)
    assert [lock.permits for lock in client.locks("signals")] == [3]


def test_a_bounded_semaphore(client: Client, other: Client) -> None:
    semaphore = client.bounded_semaphore("a", 2)
    semaphore.acquire()
    with pytest.raises(ValueError, match="released too often"):
        semaphore.release(2)
    with pytest.raises(ValueError, match="released too often"):
        other.bounded_semaphore("a", 2).release()
    semaphore.release()
    for wrong in (-1, 1.5, True):
        with pytest.raises(InvalidRequest):
            client.semaphore("a", wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        semaphore.release(0)


# --- those who die, or give up ----------------------------------------------------------------


def hold(address: str, lock: Callable[[Client], Lock | Semaphore]) -> Callable[[], None]:
    def work() -> None:
        client = udsbus.connect(address, timeout=PATIENCE)
        lock(client).acquire()
        client.set("held", True)
        signal.pause()

    return work


@pytest.mark.parametrize(
    "lock",
    [
        lambda client: client.lock("a"),
        lambda client: client.rwlock("a").read,
        lambda client: client.semaphore("a", 1),
    ],
    ids=["lock", "read", "semaphore"],
)
def test_a_killed_holder(
    client: Client, bus: BrokerProcess, lock: Callable[[Client], Lock | Semaphore]
) -> None:
    child = Child(hold(bus.address, lock))
    wait_until(lambda: client.exists("held"), "the child to hold it")
    with client.watch("$sys/locks/**") as watch:
        wanted = client.lock("a") if not isinstance(lock(client), Semaphore) else lock(client)
        task = Task(wanted.acquire)
        wait_for_waiters(client, "a", 1)
        child.kill()
        assert task.result()
        changes = take_number(watch, 2)
        assert [change.kind for change in changes] == ["released", "created"]
    wanted.release()


def test_a_waiter_that_is_killed(client: Client, bus: BrokerProcess, other: Client) -> None:
    with client.lock("a"):
        child = Child(hold(bus.address, lambda mine: mine.lock("a")))
        wait_for_waiters(client, "a", 1)
        task = Task(other.lock("a").acquire)
        wait_for_waiters(client, "a", 2)
        child.kill()
        wait_for_waiters(client, "a", 1)
    assert task.result()
    other.lock("a").release()


def test_time_outs_that_race_with_the_grant(client: Client, bus: BrokerProcess) -> None:
    """Who is told no has not got it, and who is told yes has."""

    def work() -> int:
        granted = 0
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            lock = mine.lock("a")
            for number in range(300):
                if lock.acquire(timeout=number % 7 * 0.0002):
                    granted += 1
                    mine.increment("inside")
                    assert mine.get("inside") == 1
                    mine.increment("inside", -1)
                    lock.release()
        return granted

    children = [Child(work) for _ in range(3)]
    assert sum(child.result() for child in children) > 0
    assert client.locks("a") == []


@pytest.mark.parametrize("kind", ["lock", "rlock", "semaphore"])
@pytest.mark.parametrize("contended", [False, True])
def test_ctrl_c_at_every_moment(
    client: Client, bus: BrokerProcess, kind: str, contended: bool
) -> None:
    """What this client takes itself to hold, it holds, and nothing else."""

    def work() -> int:
        with (
            udsbus.connect(bus.address, timeout=PATIENCE) as mine,
            udsbus.connect(bus.address, timeout=PATIENCE) as theirs,
        ):
            lock, their_lock = getattr(mine, kind)("a"), getattr(theirs, kind)("a")
            lock.acquire()
            lock.release()

            def interrupt() -> None:
                raise KeyboardInterrupt

            def prepare() -> None:
                struck.clear()
                if contended:
                    their_lock.acquire()
                    threading.Thread(target=give_way).start()

            def give_way() -> None:
                wait_until(lambda: waiters(theirs, "a") == 1 or struck.is_set(), "it to wait")
                theirs.lock("a").release() if kind != "semaphore" else their_lock.release()

            def action() -> None:
                try:
                    lock.acquire()
                    lock.release()
                finally:
                    struck.set()

            struck = threading.Event()
            if contended and kind == "rlock":
                their_lock = theirs.lock("a")  # given back by another thread
            for moment in at_every_moment(action, interrupt, prepare):
                while mine.holdings.number("a", kind == "semaphore"):
                    if kind == "rlock" and not lock._is_owned():
                        pytest.fail(f"moment {moment}: held, but by no thread")
                    lock.release()
                assert their_lock.acquire(timeout=PATIENCE), f"moment {moment}: left behind"
                their_lock.release()
                assert mine.holdings.reentered == {}
            return moment

    assert in_child(work) > 20


# --- the broker ends --------------------------------------------------------------------------


def test_a_lock_outlives_the_broker(guarded: Guarded) -> None:
    pair, client, other = guarded
    lock = client.lock("a")
    lock.acquire()
    token = lock.token
    task = Task(other.lock("a").acquire)
    wait_for_waiters(client, "a", 1)
    for _ in range(3):
        broker, _ = pair.ready(client)
        os.kill(broker, signal.SIGKILL)
        wait_for_waiters(client, "a", 1)
        assert not task.done()
        assert [holder.token for holder in client.lock_holders("a")] == [token]
        client.set("k", 1, fence=token)
    lock.release()
    assert task.result()
    assert client.lock_holders("a")[0].token > token
    with pytest.raises(LockLost):
        client.set("k", 2, fence=token)


def test_a_finite_wait_over_a_takeover(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that it has waited already counts."""
    pair, client, other = guarded
    acquire, asked = requests.acquire, []

    def ask(claim: requests.Claim, timeout: float | None) -> requests.Call[int | None]:
        asked.append(timeout)
        return acquire(claim, timeout)

    broker, _ = pair.ready(client)
    with client.lock("a"):
        monkeypatch.setattr(requests, "acquire", ask)
        task = Task(lambda: other.lock("a").acquire(timeout=2.0))
        wait_until(lambda: any(one.seconds > 0.5 for one in waiting(client, "a")), "half a second")
        os.kill(broker, signal.SIGKILL)
        assert task.result() is False
    first, *later = asked
    assert first is not None
    assert 1.9 < first <= 2.0
    assert later
    assert all(left is not None and left < 1.5 for left in later)


def test_a_bus_that_keeps_nothing_loses_its_locks(tmp_path: Path) -> None:
    """And its holder finds out."""
    path = tmp_path / "bus.sock"
    with running_broker(path) as broker:
        client = udsbus.connect(broker.address, timeout=PATIENCE)
        lock = client.lock("a")
        lock.acquire()
        broker.kill()
    with running_broker(path), client:
        with pytest.raises(LockLost):
            client.set("k", 1, fence=lock.token)
        with pytest.raises(LockLost, match="was lost"):
            lock.release()
        with lock:
            assert lock.locked()


# --- lost -------------------------------------------------------------------------------------


def test_a_lock_that_is_lost(client: Client, other: Client) -> None:
    lock = other.lock("a")
    lock.acquire()
    token = lock.token
    client.kick(other.session)
    with client.lock("a"):
        with pytest.raises(LockLost, match=str(token)):
            other.set("k", 1, fence=token)
        with pytest.raises(LockLost):
            other.delete("k", fence=token)
        with pytest.raises(LockLost), other.transaction(fence=token) as transaction:
            transaction.set("k", 1)
        with pytest.raises(LockLost), other.pipeline() as pipeline:
            pipeline.set("k", 1, fence=token)
        with pytest.raises(LockLost, match="was lost"):
            lock.release()
    assert not client.exists("k")
    with pytest.raises(NotHeld):
        _ = lock.token


def test_a_thread_releases_what_it_has_acquired(client: Client, other: Client) -> None:
    """Not what another has since."""
    lock = other.lock("a")
    lock.acquire()
    token = lock.token
    client.kick(other.session)

    def again() -> int:
        other.lock("a").acquire()
        return other.lock("a").token

    newer = Task(again).result()
    assert lock.token == token
    with pytest.raises(LockLost):
        other.set("k", 1, fence=lock.token)
    with pytest.raises(LockLost, match="was lost"):
        lock.release()
    assert [holder.token for holder in client.lock_holders("a")] == [newer]
    lock.release()  # what is left, whichever thread has acquired it
    assert not client.lock("a").locked()


def test_each_reader_gives_its_own_back(client: Client) -> None:
    """So that it is told right who holds it."""
    lock = client.rwlock("a").read
    lock.acquire()
    Task(lock.acquire).result()
    lock.release()
    (holder,) = client.lock_holders("a")
    assert holder.thread != threading.get_native_id()
    assert not client.rwlock("a").write.acquire(timeout=0.01, unless_deadlock=True)
    lock.release()


def test_an_rlock_that_a_lock_has_released(client: Client, other: Client) -> None:
    mine = client.rlock("a")
    mine.acquire()
    client.lock("a").release()
    with other.lock("a"):
        assert not mine.acquire(blocking=False)
        with pytest.raises(NotHeld):
            mine.release()


def test_failed_attempts_leave_no_threads(tmp_path: Path) -> None:
    with running_broker(tmp_path / "bus.sock") as broker:
        client = udsbus.connect(broker.address, timeout=0.05)
        with client.lock("a"):
            pass
        broker.kill()
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(udsbus.BrokerUnavailable):
            client.lock("a").acquire()
    assert threading.active_count() <= before + 1
    client.close()


def test_an_attempt_that_would_be_refused_is_not_insisted_on(tmp_path: Path) -> None:
    with running_broker(tmp_path / "bus.sock") as broker:
        client = udsbus.connect(broker.address, timeout=PATIENCE)
        broker.kill()
    with running_broker(tmp_path / "bus.sock"), client:
        before = set(threading.enumerate())  # other tests may have left some to brokers now gone
        client._make_sure(requests.release(requests.Claim("a*b", 1, 0)))
        wait_until(
            lambda: all(
                each in before or each.name != "udsbus-make-sure" for each in threading.enumerate()
            ),
            "it to end",
        )


def test_an_rlock_that_is_lost(client: Client, other: Client) -> None:
    lock = other.rlock("a")
    with pytest.raises(LockLost), lock:
        client.kick(other.session)
    with lock:
        assert lock.locked()


# --- who waits for whom -----------------------------------------------------------------------


def test_who_holds_and_who_waits(client: Client, other: Client) -> None:
    client.rwlock("a/b").read.acquire()
    task = Task(lambda: other.lock("a/b").acquire())
    wait_for_waiters(client, "a/*", 1)
    (info,) = client.locks("a/**")
    assert (info.name, info.permits) == ("a/b", None)
    (holder,), (waiter,) = info.holders, info.waiting
    assert holder == client.rwlock("a/b").read.owner()._replace(seconds=holder.seconds)  # type: ignore[union-attr]
    assert (holder.session, holder.thread, holder.shared) == (
        client.session, threading.get_native_id(), True,
    )  # fmt: skip
    assert (waiter.session, waiter.shared) == (other.session, False)
    assert 0 <= waiter.seconds <= holder.seconds < PATIENCE
    assert client.locks("b/**") == []
    client.rwlock("a/b").read.release()
    assert task.result()
    assert client.info()["locks"] == 1
    other.lock("a/b").release()


def test_deadlock(client: Client, other: Client) -> None:
    assert client.deadlocks() == []
    client.lock("a").acquire()

    def cross() -> None:
        with other.lock("b"), other.lock("a"):
            pass

    task = Task(cross)
    wait_for_waiters(client, "a", 1)
    with pytest.raises(Deadlock, match="2 wait in a circle") as caught:
        client.lock("b").acquire(unless_deadlock=True)
    assert [session for session, _ in caught.value.details["cycle"]] == [
        client.session, other.session,
    ]  # fmt: skip
    assert client.deadlocks() == []
    in_order = client.lock("b")
    second = Task(lambda: in_order.acquire(timeout=PATIENCE))  # another thread, so no circle
    wait_for_waiters(client, "b", 1)
    assert client.deadlocks() == []
    client.lock("a").release()
    task.result()
    assert second.result()
    in_order.release()


def test_a_circle_is_found(client: Client, other: Client, bus: BrokerProcess) -> None:
    ready = threading.Barrier(2)

    def cross(mine: Client, first: str, second: str) -> bool:
        with mine.lock(first):
            ready.wait(PATIENCE)
            if mine.lock(second).acquire(timeout=PATIENCE):
                mine.lock(second).release()
                return True
            return False

    tasks = [Task(lambda: cross(client, "a", "b")), Task(lambda: cross(other, "b", "a"))]
    with udsbus.connect(bus.address, timeout=PATIENCE) as third:
        wait_until(lambda: len(third.deadlocks()) == 1, "the circle to be seen")
        (circle,) = third.deadlocks()
        assert {(each.session, each.holds, each.wants) for each in circle} == {
            (client.session, "a", "b"),
            (other.session, "b", "a"),
        }
        third.kick(client.session)
    assert tasks[1].result()
    with pytest.raises(LockLost):
        tasks[0].result()


# --- over the wire ----------------------------------------------------------------------------


def test_others_are_answered_while_one_waits(bus: BrokerProcess, client: Client) -> None:
    """Over the same connection too: the answer comes when it can."""
    with RawClient(bus.address) as raw:
        raw.call("hello", 1, {"session": "raw", "lane": 1, "unanswered": 8})
        with client.lock("a"):
            raw.send([0, 100, "acquire", ["a", 1, 0]], [0, 101, "ping", []])
            assert raw.receive()[:3] == [1, 101, None]
            raw.send([0, 102, "acquire", ["a", 2, 0, {"timeout": 0.01}]])
            assert raw.receive() == [1, 102, None, None]
        kind, msgid, error, token = raw.receive()
        assert (kind, msgid, error) == (1, 100, None)
        assert client.lock_holders("a")[0].token == token
        raw.send([0, 100, "acquire", ["a", 1, 0]])
        assert raw.receive() == [1, 100, None, token], "asked again, answered again"
        assert raw.call("release", "a", 1) is True
        assert raw.call("release", "a", 1) is False


def test_who_expects_no_answer_does_not_wait(bus: BrokerProcess, client: Client) -> None:
    with RawClient(bus.address) as raw:
        raw.call("hello", 1, {"session": "raw"})
        with client.lock("a"):
            raw.send([2, "acquire", ["a", 1, 0]])
            raw.call("ping")
            assert waiters(client, "a") == 0


def test_who_has_said_all_is_answered_still(bus: BrokerProcess, client: Client) -> None:
    """A peer that has shut its writing side down, and waits."""
    import socket

    with RawClient(bus.address) as raw:
        raw.call("hello", 1, {"session": "raw"})
        with client.lock("a"):
            raw.send([0, 7, "acquire", ["a", 1, 0]])
            raw.socket.shutdown(socket.SHUT_WR)
            wait_for_waiters(client, "a", 1)
        assert raw.receive()[:3] == [1, 7, None]
        assert raw.rest() == [], "and that was all"

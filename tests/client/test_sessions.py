"""Clients see one another, and what belongs to one goes with it, exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from tests.pairs import Pair
from udsbus import Client, LimitExceeded, Watch
from udsbus.limits import GRACE_SECONDS, RELEASES_PER_TURN

from .support import PATIENCE, Child, Task, in_child, take_number

HOLD = """
import os, sys, udsbus
client = udsbus.connect(sys.argv[1], name="holder")
for number in range(int(sys.argv[2])):
    client.set(f"held/{number}", number, ephemeral=True)
if sys.argv[3:] == ["fork"] and os.fork() == 0:
    sys.stdout.close()
print(client.session, flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process, with ephemeral keys."""

    def __init__(self, address: str, keys: int = 1, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, address, str(keys), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.session = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def told(watch: Watch, number: int) -> list[tuple[str, str]]:
    return [(change.key, change.kind) for change in take_number(watch, number)]


def refusal(raw: RawClient, method: str, *params: Any) -> str:
    """What a request is refused with, and why."""
    (_, why), details = raw.request(method, *params)[2:]
    return f"{details['error']}: {why}"


def sessions(client: Client) -> set[str]:
    return {each.session for each in client.clients()}


# --- who is there -------------------------------------------------------------------------------


def test_clients(client: Client, bus: BrokerProcess) -> None:
    before = time.time()
    with udsbus.connect(bus.address, name="other", metadata={"room": 7}) as other:
        mine, others = client.clients()
        assert (mine.session, mine.name, mine.metadata) == (client.session, None, None)
        assert others[:5] == (other.session, "other", os.getpid(), os.getuid(), os.getgid())
        assert others.metadata == {"room": 7}
        assert before - 60 < mine.since <= others.since <= time.time()
    assert sessions(client) == {client.session}


def test_who_comes_and_goes_can_be_watched(client: Client, bus: BrokerProcess) -> None:
    with client.watch("$sys/clients/*") as watch:
        with udsbus.connect(bus.address, name="other") as other:
            key = f"$sys/clients/{other.session}"
            (came,) = take_number(watch, 1)
            assert (came.key, came.kind, came.value["name"]) == (key, "created", "other")
        assert told(watch, 1) == [(key, "released")]


def test_several_connections_are_one_client(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as other, other.watch("a"):
        other.ping()
        assert sessions(client) == {client.session, other.session}
        with Child(lambda: (client.session, sessions(client))) as child:
            its, found = child.result()
            assert its not in (client.session, other.session), "a child is a client of its own"
            assert {its, client.session, other.session} <= found
        wait_until(lambda: len(client.clients()) == 2, "the child to be gone")


def test_nobody_can_pretend_to_be_somebody(client: Client) -> None:
    for write in (client.set, client.increment):
        with pytest.raises(udsbus.AccessDenied):
            write(f"$sys/clients/{client.session}", 1)


@pytest.mark.parametrize("name", ["", "a/b", "*", "a*"])
def test_a_session_has_a_name_that_fits_into_a_key(bus: BrokerProcess, name: str) -> None:
    with RawClient(bus.address) as raw:
        why = refusal(raw, "hello", 1, {"session": name})
        assert why.startswith("invalid_request: a session's name")
        raw.call("ping")


def test_a_session_is_of_one_process(client: Client) -> None:
    session = client.session

    def work() -> None:
        with RawClient(client.address) as raw:
            assert "another process" in refusal(raw, "hello", 1, {"session": session})

    in_child(work)


def test_metadata_has_a_bound(bus: BrokerProcess) -> None:
    with pytest.raises(LimitExceeded, match="metadata"):
        udsbus.connect(bus.address, metadata="x" * 5_000)
    with RawClient(bus.address) as raw:
        for metadata in (b"\xc1", b"\x91" * 1024 + b"\x01", b"\xd4\x05x"):
            why = refusal(raw, "hello", 1, {"session": "a", "metadata": metadata})
            assert why.startswith("unsupported_value"), "nobody could read who is there"
        assert raw.call("keys", "$sys/clients/*") == [[], None]


# --- what belongs to one ------------------------------------------------------------------------


def test_an_ephemeral_key_goes_with_its_client(client: Client, bus: BrokerProcess) -> None:
    with client.watch("e/*") as watch:
        with udsbus.connect(bus.address) as other:
            revision = other.set("e/1", 1, ephemeral=True)
            assert client.entry("e/1") == (1, revision, None)
            with other.pipeline() as pipeline:
                pipeline.set("e/2", 2, ephemeral=True)
            with other.transaction() as transaction:
                transaction.set("e/3", 3, ephemeral=True)
            other.set("e/4", 4)
            take_number(watch, 4)
        assert told(watch, 3) == [("e/1", "released"), ("e/2", "released"), ("e/3", "released")]
        assert client.items("e/*") == [("e/4", 4)]


def test_whose_a_key_is_changes_with_who_writes_it(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as other:
        for number in range(8):
            other.set(f"e/{number}", number, ephemeral=True)
        client.set("e/0", 0)  # nobody's
        client.set_many({"e/1": 1})
        client.set("e/2", 2, ephemeral=True)  # mine
        client.increment("e/3")  # not a new value, so it is still theirs
        client.expire("e/4", 100.0)
        client.delete("e/5")
        client.set("e/5", 5)
        client.set("e/6", 6, if_changed=True)
        with client.transaction() as transaction:
            transaction.set("e/7", 7, if_changed=True)
    assert client.keys("e/*") == [f"e/{number}" for number in (0, 1, 2, 5, 6, 7)]


def test_the_last_write_of_a_transaction_says_whose_a_key_is(
    client: Client, bus: BrokerProcess
) -> None:
    with udsbus.connect(bus.address) as other, other.transaction() as transaction:
        transaction.set("e/1", 1, ephemeral=True)
        transaction.set("e/1", 1)
        transaction.set("e/2", 1)
        transaction.set("e/2", 1, ephemeral=True)
    wait_until(lambda: client.keys("e/*") == ["e/1"], "the other to go")


def test_an_ephemeral_key_may_expire_before(client: Client) -> None:
    with client.watch("e") as watch:
        client.set("e", 1, ephemeral=True, ttl=0.05)
        assert told(watch, 2) == [("e", "created"), ("e", "expired")]


def test_without_a_session_nothing_can_be_ephemeral(bus: BrokerProcess) -> None:
    with RawClient(bus.address) as raw:
        write = ["e", b"\x01", {"ephemeral": True}]
        assert "`hello`" in refusal(raw, "set", *write)
        assert "`hello`" in refusal(raw, "transaction", [], [["set", *write]])
        assert raw.call("get", "e") is None


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("fork",)])
def test_what_a_dead_process_held_is_gone_at_once(
    client: Client, bus: BrokerProcess, more: tuple[str, ...]
) -> None:
    """Even while a child that it has forked has its sockets still."""
    with client.watch("held/*") as watch, Holder(bus.address, 2, *more) as holder:
        take_number(watch, 2)
        assert holder.session in sessions(client)
        holder.process.kill()
        assert told(watch, 2) == [("held/0", "released"), ("held/1", "released")]
        assert holder.session not in sessions(client)


def test_a_stopped_process_is_not_dead(client: Client, bus: BrokerProcess) -> None:
    with Holder(bus.address) as holder:
        os.kill(holder.process.pid, signal.SIGSTOP)
        assert holder.session in sessions(client)
        assert client.get("held/0") == 0


def test_who_lost_all_connections_may_come_back(address: str) -> None:
    """For a while, which is ten seconds, and then no more."""
    with running_broker(address) as broker, broker.connect() as watcher:
        with RawClient(address) as raw:
            raw.call("hello", 1, {"session": "s", "lane": 1})
            raw.call("set", "e", b"\x01", {"ephemeral": True})
        with RawClient(address) as raw:
            raw.call("hello", 1, {"session": "s", "lane": 2})
            assert raw.call("get", "e") == b"\x01"
            raw.call("set", "f", b"\x01", {"ephemeral": True})
        begun = time.monotonic()
        wait_until(lambda: watcher.call("get", "e") is None, "its end")
        wait_until(lambda: watcher.call("get", "f") is None, "its end")
        assert time.monotonic() - begun > 9


def test_a_new_connection_before_the_old_one_closes(bus: BrokerProcess) -> None:
    with RawClient(bus.address) as first:
        first.call("hello", 1, {"session": "s", "lane": 1})
        first.call("set", "e", b"\x01", {"ephemeral": True})
        with RawClient(bus.address) as second:
            second.call("hello", 1, {"session": "s", "lane": 2})
            first.close()
            assert second.call("get", "e") == b"\x01"
            assert second.call("goodbye") is True
            assert second.call("get", "e") is None
            assert second.call("goodbye") is False


def test_kick(client: Client, bus: BrokerProcess) -> None:
    with Holder(bus.address) as holder, client.watch("held/*") as watch:
        assert client.kick(holder.session)
        assert told(watch, 1) == [("held/0", "released")]
        assert not client.kick("nobody")


def test_one_who_had_much_goes_in_slices(client: Client, bus: BrokerProcess) -> None:
    """And the others are answered meanwhile; each key goes once."""
    number = 3 * RELEASES_PER_TURN
    with client.watch("held/**") as watch:
        with udsbus.connect(bus.address) as other, other.pipeline() as pipeline:
            for key in range(number):
                pipeline.set(f"held/{key}", key, ephemeral=True)
        changes = told(watch, 2 * number)
    assert changes[number:] == [(f"held/{key}", "released") for key in range(number)]
    assert client.count("held/**") == 0


def test_a_client_that_is_closed_in_a_child_stays_in_the_parent(client: Client) -> None:
    client.set("e", 1, ephemeral=True)
    in_child(client.close)
    in_child(lambda: client.set("f", 1, ephemeral=True))
    wait_until(lambda: client.get("f") is None, "the child's key to go")
    assert client.get("e") == 1


# --- brokers that die ---------------------------------------------------------------------------


def test_a_takeover_leaves_what_the_living_hold(address: str, runtime: Path) -> None:
    """Though they ask nothing; and what the dead held goes, once."""
    pair = Pair(address, runtime / "state")
    try:
        with (
            udsbus.connect(address, timeout=PATIENCE) as client,
            Holder(address) as holder,
            client.watch("held/*") as watch,
        ):
            client.set("mine", 1, ephemeral=True)
            for _ in range(3):
                broker, _ = pair.ready(client)
                os.kill(broker, signal.SIGKILL)
                assert client.get("held/0") == 0
                wait_until(lambda: len(client.clients()) == 2, "them to be back")
            broker, standby = pair.ready(client)
            os.kill(standby, signal.SIGSTOP)
            os.kill(broker, signal.SIGKILL)
            holder.kill()
            os.kill(standby, signal.SIGCONT)
            assert told(watch, 1) == [("held/0", "released")]
            assert client.get("mine") == 1
            assert sessions(client) == {client.session}
    finally:
        pair.close()


def test_a_start_releases_what_the_dead_held(address: str, runtime: Path) -> None:
    state = runtime / "state"
    with running_broker(address, durability="process", state=state) as broker:
        with Holder(address, 3) as holder, udsbus.connect(address) as client:
            client.set("stays", 1)
            broker.kill()
            holder.kill()
    with (
        running_broker(address, durability="process", state=state),
        udsbus.connect(address) as client,
    ):
        wait_until(lambda: client.keys() == ["stays"], "the keys of the dead to go")
        assert sessions(client) == {client.session}


def test_a_kicked_client_whose_lock_lingers_comes_back(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address, timeout=PATIENCE) as other:
        lock = other.lock("lingering")
        lock.acquire(linger=30.0)
        accepted = client.info()["counters"]["accepted"]
        client.kick(other.session)
        assert other.set("a", 1, fence=lock.token), "nobody else has it yet"
        wait_until(lambda: other.session in sessions(client), "it to be back")
        assert not client.lock("lingering").acquire(blocking=False)
        assert client.info()["counters"]["accepted"] < accepted + 10
        with pytest.raises(udsbus.LockLost):
            lock.release()
        with client.lock("lingering"):
            pass


def test_a_client_that_was_kicked_and_came_back_goes_at_once(
    client: Client, bus: BrokerProcess
) -> None:
    """Though the connection of the thread that closes it has ended."""
    other = udsbus.connect(bus.address, timeout=PATIENCE)
    other.set("a", 1, ephemeral=True)
    client.kick(other.session)
    wait_until(lambda: other.session in sessions(client), "it to be back")
    Task(lambda: other.set("b", 1, ephemeral=True)).result()
    began = time.monotonic()
    other.close()
    wait_until(lambda: not client.exists("b"), "its key to go")
    assert sessions(client) == {client.session}
    assert time.monotonic() - began < GRACE_SECONDS / 2


def test_a_client_that_is_closed_does_not_come_back(
    client: Client, bus: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goodbye ends its event connection too; nobody is left then who would reconnect."""
    other = udsbus.connect(bus.address, timeout=PATIENCE)
    other.watch("a")
    thread = other._events._thread
    goodbye = other._say_goodbye
    reconnecting = []

    def say_goodbye() -> None:
        goodbye()
        reconnecting.append(thread is not None and thread.is_alive())

    monkeypatch.setattr(other, "_say_goodbye", say_goodbye)
    other.close()
    assert reconnecting == [False]
    assert sessions(client) == {client.session}

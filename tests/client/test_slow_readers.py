"""A process that is stopped, and goes on later: what its watches and subscriptions make of it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from tests.pairs import Pair
from udsbus import Client, InvalidRequest
from udsbus.limits import BEHIND_MESSAGE_BYTES, MIB, OUTPUT_HARD_BYTES

from .support import PATIENCE, Child, Task, stopped

LARGE = bytes(MIB)
ENOUGH = OUTPUT_HARD_BYTES // MIB + 8
"""So many of them are too much for one who does not read."""


def following(address: str, follow: Callable[[Client], dict[str, Any]]) -> Child[dict[str, Any]]:
    """A process of its own that follows something until the end."""

    def run() -> dict[str, Any]:
        with udsbus.connect(address, name="follower", timeout=PATIENCE) as client:
            return follow(client)

    return Child(run)


def watching(client: Client) -> dict[str, Any]:
    """What a watch of everything tells, until `zz/end` is there."""
    state: dict[str, Any] = {}
    revisions = []
    ended = False
    with client.watch("**", initial=True) as watch:
        client.set("ready", True)
        for change in watch:
            if isinstance(change, udsbus.CaughtUp):
                if ended:
                    break
                continue
            revisions.append(change.revision)
            if change.kind in ("deleted", "expired", "released"):
                state.pop(change.key, None)
            else:
                state[change.key] = change.value
            if change.key == "zz/end":
                ended = True
                if change.kind != "present":  # else what is gone is still to be told
                    break
        return {
            "state": state, "in order": revisions == sorted(revisions), "changes": len(revisions),
            "skipped": watch.skipped, "conflated": watch.conflated, "over": watch.started_over,
        }  # fmt: skip


def subscribing(policy: str) -> Callable[[Client], dict[str, Any]]:
    def follow(client: Client) -> dict[str, Any]:
        with client.subscribe("t", policy=policy) as subscription:  # type: ignore[arg-type]
            client.set("ready", True)
            numbers: list[int] = []
            while not numbers or numbers[-1] >= 0:
                message = subscription.get(PATIENCE)
                assert message is not None
                numbers.append(int.from_bytes(message.value[:4], signed=True))
            return {
                "numbers": numbers[:-1], "dropped": subscription.dropped,
                "interruptions": subscription.interruptions,
            }  # fmt: skip

    return follow


def number(n: int, size: int = MIB) -> bytes:
    return n.to_bytes(4, signed=True) + bytes(size)


def is_ready(client: Client) -> None:
    wait_until(lambda: client.get("ready"), "the follower", PATIENCE)
    client.delete("ready")


@pytest.fixture
def own_broker(address: str) -> Iterator[BrokerProcess]:
    with running_broker(address) as broker:
        yield broker


@pytest.fixture
def writer(own_broker: BrokerProcess) -> Iterator[Client]:
    with udsbus.connect(own_broker.address, timeout=PATIENCE) as client:
        yield client


@contextlib.contextmanager
def full_disk(broker: BrokerProcess) -> Iterator[None]:
    """The system lets no file of the broker's grow."""
    before = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, before)


def behind(client: Client) -> list[str]:
    """The connections that are said to be."""
    return client.keys("$sys/slow/*")


# --- watches --------------------------------------------------------------------------------


def test_a_watch_has_the_newest_of_all_and_says_that_there_was_more(writer: Client) -> None:
    with following(writer.address, watching) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.set("large", n.to_bytes(4) + LARGE)
                writer.set(f"small/{n % 10}", n)
            wait_until(lambda: behind(writer), "the key that says so")
            ((key, about),) = writer.items("$sys/slow/*")
            sessions = [each.session for each in writer.clients() if each.name == "follower"]
            assert key.removeprefix("$sys/slow/").rpartition(".")[0] == sessions[0]
            assert (about["name"], about["pid"]) == ("follower", child.pid)
            assert abs(about["since"] - time.time()) < 60
            assert writer.info()["behind"] == 1
            for n in range(1_000):
                writer.set(f"small/{n % 10}", n)
            writer.delete("small/0")
        wait_until(lambda: not behind(writer), "it to catch up", PATIENCE)
        writer.set("zz/end", True)
        told = child.result()
    assert told["state"] == dict(writer.items())
    assert told["in order"]
    assert told["over"] == 0
    assert told["conflated"] == 1
    counters = writer.info()["counters"]
    assert told["skipped"] == counters["left_out"] > 900
    # `ready` came and went, and there is the end; what it was told, and what not, is all there was.
    assert told["changes"] + told["skipped"] == 2 + 2 * ENOUGH + 1_000 + 1 + 1
    assert (counters["fell_behind"], counters["closed"].get("slow_reader")) == (1, None)


def test_a_broker_that_is_killed_meanwhile_costs_nothing(address: str, runtime: Path) -> None:
    pair = Pair(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as writer:
            broker, _ = pair.ready(writer)
            with following(address, watching) as child:
                is_ready(writer)
                with stopped(child.pid):
                    for n in range(ENOUGH):
                        writer.set("large", n.to_bytes(4) + LARGE)
                    wait_until(lambda: behind(writer), "the key that says so")
                    writer.set("small", 1)
                    os.kill(broker, signal.SIGKILL)
                    writer.set("small", 2)
                    wait_until(lambda: not behind(writer), "the key of the dead broker to go")
                writer.set("zz/end", True)
                told = child.result()
            assert told["state"] == dict(writer.items())
            assert told["in order"] or told["over"]
    finally:
        pair.close()


def test_it_catches_up_while_the_disk_is_full(address: str, runtime: Path) -> None:
    state = runtime / "state"
    with (
        running_broker(address, durability="process", state=state) as broker,
        udsbus.connect(address, timeout=PATIENCE) as writer,
        following(address, watching) as child,
    ):
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.set("large", n.to_bytes(4) + LARGE)
            wait_until(lambda: behind(writer), "the key that says so")
            (key,) = behind(writer)
            with full_disk(broker):
                with pytest.raises(udsbus.StorageFailed):
                    writer.set("large", 0)
                os.kill(child.pid, signal.SIGCONT)
                wait_until(lambda: not writer.info()["behind"], "it to catch up", PATIENCE)
                assert behind(writer) == [key], "that cannot be written now"
            wait_until(lambda: not behind(writer), "the key to go")
        writer.set("zz/end", True)
        told = child.result()
        assert told["state"] == dict(writer.items())
        assert told["in order"]


def test_more_keys_than_can_be_noted_let_it_start_over(writer: Client) -> None:
    with following(writer.address, watching) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.set("large", n.to_bytes(4) + LARGE)
            for start in range(0, 80_000, 20_000):
                writer.set_many({f"many/{n}": n for n in range(start, start + 20_000)})
            assert writer.info()["behind"] == 0
        wait_until(
            lambda: writer.info()["counters"]["closed"].get("slow_reader"), "its connection to end"
        )
        writer.set("zz/end", True)
        told = child.result()
    assert told["state"] == dict(writer.items())
    assert told["over"] == 1


def test_its_own_backlog_turns_to_the_newest_too(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udsbus.client.following.WATCH_BACKLOG", 10)
    with client.watch("a") as watch:
        for n in range(100):
            client.set("a", n)
        wait_until(lambda: watch.skipped == 99, "all to come in")
        assert watch.conflated == 1
        change = watch.get(PATIENCE)
        assert change is not None
        assert change.value == 99


# --- the async client -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_client_hears_of_it_too(writer: Client, backend: str) -> None:
    """Its requests go over the same connection, and are answered when it has caught up."""

    async def follow() -> dict[str, Any]:
        async with (
            udsbus.connect_async(writer.address, timeout=PATIENCE) as client,
            client.watch("large") as watch,
            client.subscribe("t") as subscription,
        ):
            await client.set("ready", True)
            revisions, change = [], None
            while change is None or change.value is not None:
                change = await watch.get(PATIENCE)
                assert change is not None
                revisions.append(change.revision)
            return {
                "in order": revisions == sorted(set(revisions)), "changes": len(revisions),
                "skipped": watch.skipped, "conflated": watch.conflated,
                "dropped": subscription.dropped,
            }  # fmt: skip

    with Child(lambda: anyio.run(follow, backend=backend)) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.set("large", number(n))
                writer.publish("t", LARGE)
            writer.delete("large")
        told = child.result()
    assert told["in order"]
    assert told["conflated"] == 1
    assert told["changes"] + told["skipped"] == ENOUGH + 1
    assert told["dropped"] == writer.info()["counters"]["dropped"] > 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_publisher_waits_or_gives_up(writer: Client, backend: str) -> None:
    async def publish() -> None:
        async with udsbus.connect_async(writer.address, timeout=PATIENCE) as client:
            with pytest.raises(udsbus.Conflict):
                await client.publish("t", number(1_000), wait=0.05)
            with anyio.move_on_after(0.05) as scope:
                await client.publish("t", number(1_001), wait=PATIENCE)
            assert scope.cancelled_caught
            os.kill(child.pid, signal.SIGCONT)
            assert await client.publish("t", number(-1), wait=PATIENCE) == 1

    with following(writer.address, subscribing("block")) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.publish("t", number(n))
            anyio.run(publish, backend=backend)
        assert child.result()["numbers"] == list(range(ENOUGH))


# --- subscriptions --------------------------------------------------------------------------


def test_the_oldest_messages_are_dropped_and_counted(writer: Client) -> None:
    published = ENOUGH + 2 * BEHIND_MESSAGE_BYTES // MIB
    with following(writer.address, subscribing("drop_oldest")) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(published):
                assert writer.publish("t", number(n)) == 1
        wait_until(lambda: not writer.info()["behind"], "it to catch up", PATIENCE)
        writer.publish("t", number(-1))
        told = child.result()
    numbers = told["numbers"]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == published - 1, "the newest is there"
    assert told["dropped"] == published - len(numbers) > 0
    assert writer.info()["counters"]["dropped"] == told["dropped"]
    assert told["interruptions"] == 0


def test_rather_than_drop_messages_it_is_disconnected_and_comes_back(writer: Client) -> None:
    with following(writer.address, subscribing("disconnect")) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH + 2 * BEHIND_MESSAGE_BYTES // MIB):
                writer.publish("t", number(n))
            closed = writer.info()["counters"]["closed"]
            wait_until(lambda: writer.info()["subscriptions"] == 0, "its connection to end")
        wait_until(lambda: writer.info()["subscriptions"] == 1, "it to come back")
        writer.publish("t", number(-1))
        told = child.result()
    closed = writer.info()["counters"]["closed"]
    assert closed["slow_reader"] == 1
    assert (told["interruptions"], told["dropped"]) == (1, 0)


def test_publishers_wait_for_one_who_blocks(writer: Client) -> None:
    with following(writer.address, subscribing("block")) as child:
        is_ready(writer)
        with stopped(child.pid):
            n = 0
            with pytest.raises(udsbus.Conflict, match=r"is behind, .* sent to nobody"):
                while n < 10 * ENOUGH:
                    writer.publish("t", number(n), wait=0.05)
                    n += 1
            waiting = Task(lambda: writer.publish("t", number(n), wait=PATIENCE))
            wait_until(lambda: writer.info()["waiting"] == 1, "the publisher to wait")
            assert writer.publish("another", 1, wait=1) == 0
            assert not waiting.done()
        assert waiting.result() == 1
        writer.publish("t", number(-1), wait=PATIENCE)
        told = child.result()
    assert told == {"numbers": list(range(n + 1)), "dropped": 0, "interruptions": 0}


def test_a_publisher_who_gives_up_waiting_has_published_nothing(writer: Client) -> None:
    """A client that is closed while it waits takes its message along."""
    with following(writer.address, subscribing("block")) as child:
        is_ready(writer)
        with stopped(child.pid):
            for n in range(ENOUGH):
                writer.publish("t", number(n))
            other = udsbus.connect(writer.address, timeout=PATIENCE)
            waiting = Task(lambda: other.publish("t", number(1_000), wait=PATIENCE))
            wait_until(lambda: writer.info()["waiting"] == 1, "the publisher to wait")
            other.close()
            with contextlib.suppress(udsbus.Error, AssertionError):
                waiting.result()
            wait_until(lambda: writer.info()["waiting"] == 0, "nobody to wait")
        writer.publish("t", number(-1), wait=PATIENCE)
        told = child.result()
    assert told["numbers"] == list(range(ENOUGH))


@pytest.mark.parametrize("policy", ["", "drop", None, 1, ["block"]])
def test_a_policy_that_is_none(client: Client, policy: Any) -> None:
    with pytest.raises(InvalidRequest, match="one of drop_oldest, disconnect, block"):
        client.subscribe("t", policy=policy)


@pytest.mark.parametrize("wait", [-1, "5", float("nan"), True, [1]])
def test_a_wait_that_is_none(client: Client, wait: Any) -> None:
    with pytest.raises(InvalidRequest, match="wait must be a number of seconds"):
        client.publish("t", 1, wait=wait)


def test_one_may_be_ready_to_wait_for_ever(client: Client) -> None:
    with client.subscribe("t", policy="block") as subscription:
        assert client.publish("t", 1, wait=float("inf")) == 1
        assert client.publish("t", 2, wait=0) == 1
        assert subscription.get(PATIENCE) == ("t", 1, False)
        assert subscription.policy == "block"

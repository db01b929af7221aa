"""Watches and subscriptions while all is well: order, completeness, slow consumers, the end."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
from functools import partial

import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until
from udsbus import CaughtUp, Change, Client

from .support import PATIENCE, Child, Task, catches_up, in_children, replay, take, take_number

# --- what a watch tells -------------------------------------------------------------------------


def test_a_watch_tells_of_every_kind_of_change(client: Client) -> None:
    with client.watch("a/**") as watch:
        revision = client.set("a/b", 1)
        client.set("elsewhere", 1)
        client.set("a/b", 2)
        client.delete("a/b")
        client.set("a", [3], ttl=0.01)
        assert take_number(watch, 5) == [
            Change(revision, "created", "a/b", 1),
            Change(revision + 2, "updated", "a/b", 2),
            Change(revision + 3, "deleted", "a/b", None),
            Change(revision + 4, "created", "a", [3]),
            Change(revision + 5, "expired", "a", None),
        ]
    assert watch.pattern == "a/**"
    assert (watch.started_over, watch.skipped) == (0, 0)


def test_a_watch_is_there_when_the_call_returns(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as other:
        for number in range(100):
            with client.watch(f"a/{number}") as watch:
                other.set(f"a/{number}", number)
                assert take_number(watch, 1)[0].value == number


def test_get_returns_none_when_nothing_comes(client: Client) -> None:
    with client.watch("a") as watch, client.subscribe("a") as subscription:
        for source in (watch, subscription):
            assert source.get(timeout=0) is None
            assert source.get(timeout=0.01) is None
            assert source.get(timeout=-1) is None


def test_several_watches_of_one_client(client: Client) -> None:
    """Each tells of its own pattern, though the broker sends every change but once."""
    patterns = ["a/b", "a/*", "**", "a/**", "a/b", "*/c"]
    watches = [client.watch(pattern) for pattern in patterns]
    for key in ["a/b", "a/c", "a", "d/c", "end"]:
        client.set(key, 1)
    told = [[change.key for change in take(watches[2], lambda change: change.key == "end")]]
    for watch in watches:
        told.append([])
        while (change := watch.get(timeout=0)) is not None:
            told[-1].append(change.key)
        watch.close()
    assert told == [
        ["a/b", "a/c", "a", "d/c", "end"],
        ["a/b"], ["a/b", "a/c"], [], ["a/b", "a/c", "a"], ["a/b"], ["a/c", "d/c"],
    ]  # fmt: skip


def test_several_writers(client: Client, bus: BrokerProcess) -> None:
    """Everything is told, and in the order of the revisions."""
    writers, each = 4, 1_500

    def write(number: int) -> list[int]:
        with udsbus.connect(bus.address) as own:
            revisions = []
            for turn in range(each // 3):
                revisions.append(own.set(f"a/{number}", turn))
                revisions.append(own.set_many({f"a/{number}/x": turn, f"a/{number}/y": turn}))
            return revisions

    with client.watch("a/**") as watch:
        revisions = in_children(*[partial(write, number) for number in range(writers)])
        changes = take_number(watch, writers * each)
        assert watch.get(timeout=0) is None
    assert [change.revision for change in changes] == sorted(change.revision for change in changes)
    assert {change.revision for change in changes} == set(itertools.chain(*revisions))
    for number in range(writers):
        own = [change.value for change in changes if change.key == f"a/{number}/y"]
        assert own == list(range(each // 3))


def test_from_revision(client: Client) -> None:
    revision = client.set("a", 1)
    client.set("b", 1)
    client.set("a", 2)
    client.delete("a")
    with client.watch("a", from_revision=revision) as watch:
        client.set("a", 3)
        assert [change.revision - revision for change in take_number(watch, 3)] == [2, 3, 4]
    with client.watch("a", from_revision=revision - 1) as watch:
        assert [change.value for change in take_number(watch, 4)] == [1, 2, None, 3]
    with client.watch("a", from_revision=client.revision()) as watch:
        assert watch.get(timeout=0) is None
        assert watch.started_over == 0


def test_from_a_revision_that_is_to_come(client: Client) -> None:
    """Of another bus, perhaps: the watch says that it knows nothing of it."""
    client.set("a", 1)
    with client.watch("a", from_revision=client.revision() + 100) as watch:
        assert watch.started_over == 1
        assert take_number(watch, 1)[0].kind == "present"


def test_from_a_revision_that_is_forgotten(client: Client) -> None:
    revision = client.set("a/gone", 1)
    client.set("a/here", 1)
    client.delete("a/gone")
    for _ in range(2):
        with client.pipeline() as p:
            for number in range(9_000):
                p.set("elsewhere", number)
    with client.watch("a/*", from_revision=revision) as watch:
        assert watch.started_over == 1
        assert take_number(watch, 1) == [Change(revision + 1, "present", "a/here", 1)]
        assert watch.get(timeout=0) is None


# --- the initial state --------------------------------------------------------------------------


def test_initial_tells_what_is_there_first(client: Client) -> None:
    values = {f"a/{number:04}": number for number in range(2_500)}
    revision = client.set_many(values)
    with client.watch("a/*", initial=True) as watch:
        client.set("a/0001", "new")
        told = [watch.get(timeout=PATIENCE) for _ in range(2_502)]
        assert watch.get(timeout=0) is None
    assert told == [
        *[Change(revision, "present", key, value) for key, value in values.items()],
        CaughtUp(revision),
        Change(revision + 1, "updated", "a/0001", "new"),
    ]
    assert [type(each) for each in told[-2:]] == [CaughtUp, Change]
    assert (watch.started_over, watch.skipped) == (0, 0)


def test_initial_of_nothing(client: Client) -> None:
    revision = client.set("elsewhere", 1)
    with client.watch("a/*", initial=True) as watch:
        assert catches_up(watch) == CaughtUp(revision)
        assert watch.get(timeout=0) is None
        client.set("a/b", 1)
        assert take_number(watch, 1)[0].kind == "created"


def test_initial_state_and_changes_meet(client: Client, bus: BrokerProcess) -> None:
    """While others write, of several pages: no gap, no double, and the same state in the end."""
    keys = [f"a/{number:04}" for number in range(1_300)]

    def write(seed: int) -> None:
        """So much at a time that no watch can fall behind for good."""
        chance = random.Random(seed)
        with udsbus.connect(bus.address) as own, own.watch("attempt", initial=True) as attempts:
            for turn in itertools.chain.from_iterable(
                range(number.value * 50, number.value * 50 + 50)
                for number in attempts
                if isinstance(number, Change)
            ):
                with own.pipeline() as p:
                    for key in chance.sample(keys, 20):
                        if chance.random() < 0.4:
                            p.delete(key)
                        else:
                            p.set(key, (seed, turn))
                with own.transaction() as t:
                    for key in chance.sample(keys, 3):
                        t.set(key, (seed, turn))

    truth: dict[str, object] = {}
    with client.watch("a/*") as everything:
        client.set_many(dict.fromkeys(keys, 0))
        with Child(lambda: write(1)), Child(lambda: write(2)):
            for attempt in range(40):
                client.set("attempt", attempt)
                with client.watch("a/*", initial=True) as watch:
                    end = client.set("a/end", attempt)
                    changes = take(watch, lambda change, end=end: change.revision == end)  # type: ignore[misc]
                check_story(changes)
                replay(take(everything, lambda change, end=end: change.revision == end), truth)  # type: ignore[misc]
                assert replay(changes) == truth
        assert everything.skipped == 0


def check_story(changes: list[Change]) -> None:
    """First what is present, each key once; then changes, each once, that follow upon it."""
    present = list(itertools.takewhile(lambda change: change.kind == "present", changes))
    later = changes[len(present) :]
    known = {change.key: change.revision for change in present}
    assert len(known) == len(present)
    assert [change.revision for change in later] == sorted(change.revision for change in later)
    for change in later:
        assert known.get(change.key, 0) < change.revision, f"told before: {change}"
        if change.kind == "deleted":
            del known[change.key]
        else:
            assert change.kind == "updated" or change.key not in known, change
            known[change.key] = change.revision


def test_initial_with_conflate(client: Client) -> None:
    client.set_many({"a/b": 1, "a/c": 1})
    with client.watch("a/*", initial=True, conflate=True) as watch, client.watch("a/*") as other:
        client.set("a/b", 2)
        take_number(other, 1)
        wait_until(lambda: watch.skipped, "the newer value to take the place of the older")
        assert [(change.kind, change.key, change.value) for change in take_number(watch, 2)] == [
            ("present", "a/c", 1),
            ("updated", "a/b", 2),
        ]


# --- slow consumers -----------------------------------------------------------------------------


def test_conflate_keeps_the_newest_of_each_key(client: Client) -> None:
    with client.watch("a/*", conflate=True) as watch, client.watch("a/*") as other:
        for number in range(100):
            client.set(f"a/{number % 3}", number)
        client.delete("a/0")
        take_number(other, 101)
        wait_until(lambda: watch.skipped == 98, "the newest of each key")
        assert [(change.key, change.value) for change in take_number(watch, 3)] == [
            ("a/1", 97),
            ("a/2", 98),
            ("a/0", None),
        ]
        assert watch.get(timeout=0) is None
        client.set("a/1", "again")
        assert take_number(watch, 1)[0].value == "again"
    assert (other.skipped, watch.skipped) == (0, 98)


SLOW = """
import sys
import udsbus.limits
udsbus.limits.WATCH_BACKLOG = udsbus.limits.SUBSCRIPTION_BACKLOG = 100
import udsbus
client = udsbus.connect(sys.argv[1])
watch, marks = client.watch("a/*"), client.watch("mark")
subscription = client.subscribe("a/*")

def write(first, last):
    for number in range(first, last):
        client.set(f"a/{number % 7}", number)
        client.publish(f"a/{number % 7}", number)
    client.set("mark", last)
    assert marks.get(timeout=30).value == last

def taken(source, number):
    return [source.get(timeout=30).value for _ in range(number)]

write(0, 100)
assert (watch.skipped, subscription.dropped) == (0, 0)
assert taken(watch, 10) == taken(subscription, 10) == list(range(10))
write(100, 300)
assert taken(watch, 7) == list(range(293, 300))
assert watch.skipped == 283, watch.skipped
assert taken(subscription, 100) == list(range(200, 300))
assert subscription.dropped == 190, subscription.dropped
write(300, 400)
assert taken(watch, 100) == taken(subscription, 100) == list(range(300, 400))
assert (watch.skipped, subscription.dropped) == (283, 190)
assert watch.started_over == subscription.interruptions == 0
client.pipeline()
for key in client.keys():
    client.delete(key)
client.close()
"""


def test_slow_consumers_get_the_newest_and_a_count(bus: BrokerProcess) -> None:
    """With smaller limits than usual: changes conflate, the oldest messages are dropped; and once
    the consumer has caught up everything comes again."""
    subprocess.run([sys.executable, "-c", SLOW, bus.address], check=True, timeout=PATIENCE)


@pytest.mark.skipif(sys.platform != "linux", reason="counts context switches in /proc")
@pytest.mark.parametrize("start", ["watch", "subscribe"])
def test_a_consumer_that_waits_reads_by_itself(
    bus: BrokerProcess, client: Client, start: str
) -> None:
    """Nothing goes through the event thread, which would cost a second wake-up for each event."""
    rounds = 300

    def answer() -> None:
        with udsbus.connect(bus.address) as own, own.subscribe("ball") as balls:
            own.publish("ready", None)
            for ball in balls:
                (own.set if start == "watch" else own.publish)("back", ball.value)
                if ball.value == rounds:
                    return

    def switches(thread: threading.Thread) -> int:
        with open(f"/proc/self/task/{thread.native_id}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("voluntary"))

    with client.subscribe("ready") as ready, getattr(client, start)("back") as back:
        with Child(answer):
            assert ready.get(timeout=PATIENCE) is not None
            (events,) = [t for t in threading.enumerate() if t.name == "udsbus-events"]
            for turn in range(rounds + 1):
                client.publish("ball", turn)
                assert back.get(timeout=PATIENCE).value == turn
                if turn == rounds // 2:
                    before = switches(events)
            assert switches(events) - before < rounds // 4


# --- the end ------------------------------------------------------------------------------------


def test_close_wakes_who_waits(client: Client) -> None:
    watch, subscription = client.watch("a"), client.subscribe("a")
    for source in (watch, subscription):
        waiting = Task[object](source.get), Task[object](partial(list, source))
        source.close()
        source.close()
        assert [task.result() for task in waiting] == [None, []]
        assert source.get() is None


def test_close_of_the_client_wakes_who_waits(bus: BrokerProcess) -> None:
    client = udsbus.connect(bus.address)
    watch, subscription = client.watch("a"), client.subscribe("a")
    waiting = [Task[object](wait) for wait in (lambda: list(watch), lambda: list(subscription))]
    waiting.append(Task[object](watch.get))
    client.close()
    assert [task.result() for task in waiting] == [[], [], None]


def test_what_has_come_in_can_be_taken_after_the_end(client: Client) -> None:
    with client.watch("a") as watch, client.watch("a") as other:
        client.set("a", 1)
        take_number(other, 1)
    assert [change.value for change in watch] == [1]


def test_the_broker_sends_no_more_after_the_end(client: Client) -> None:
    watches, subscriptions = (client.info()[name] for name in ("watches", "subscriptions"))
    with client.watch("a/*"), client.watch("b"), client.subscribe("a", "b/*"):
        assert client.publish("b/c", 1) == 1
        assert client.info()["watches"] == watches + 2
        assert client.info()["subscriptions"] == subscriptions + 2
    wait_until(lambda: client.info()["watches"] == watches, "the watches to end")
    wait_until(lambda: client.info()["subscriptions"] == subscriptions, "the subscription to end")
    assert client.publish("b/c", 1) == 0


def test_one_watch_ends_and_another_goes_on(client: Client) -> None:
    """Also one of the very same pattern."""
    with client.watch("a") as lasting:
        client.watch("a").close()
        client.watch("**").close()
        client.set("a", 1)
        assert take_number(lasting, 1)[0].value == 1


@pytest.mark.parametrize("start", ["watch", "subscribe"])
def test_watches_that_are_dropped_end_and_disturb_no_later_one(client: Client, start: str) -> None:
    """A new one may well stand where the old one stood in memory."""

    def one(number: int) -> None:
        source = getattr(client, start)("a/b")
        (client.set if start == "watch" else client.publish)("a/b", number)
        found = source.get(timeout=PATIENCE)
        assert found is not None
        assert found.value == number

    counted = "watches" if start == "watch" else "subscriptions"
    before = client.info()[counted]
    for number in range(300):
        one(number)
    wait_until(lambda: client.info()[counted] == before, "them to end")


@pytest.mark.parametrize("start", ["watch", "subscribe"])
def test_watches_come_and_go_in_many_threads(client: Client, start: str) -> None:
    def work(number: int) -> int:
        received = 0
        for turn in range(30):
            with getattr(client, start)(f"a/{number}") as source:
                write = client.set if start == "watch" else client.publish
                write(f"a/{number}", turn)
                found = source.get(timeout=PATIENCE)
                assert found is not None
                assert found.value == turn
                received += 1
        return received

    tasks = [Task(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]
    assert [task.result() for task in tasks] == [30] * 8


def test_iteration_in_a_thread_while_others_write(client: Client) -> None:
    """The loop of the documentation."""
    seen: list[int] = []
    started = threading.Event()

    def follow() -> None:
        with client.watch("a") as watch:
            started.set()
            for change in watch:
                seen.append(change.value)
                if change.value == 99:
                    break

    task = Task(follow)
    assert started.wait(PATIENCE)
    for number in range(100):
        client.set("a", number)
    task.result()
    assert seen == list(range(100))


# --- messages -----------------------------------------------------------------------------------


def test_patterns_of_subscriptions(client: Client, bus: BrokerProcess) -> None:
    with (
        udsbus.connect(bus.address) as other,
        client.subscribe("news/*", "news/**", "alarm") as both,
        client.subscribe("news/*") as news,
        other.subscribe("**") as everything,
    ):
        assert client.publish("news/a", 1) == 2
        assert client.publish("news/a/b", [2]) == 2
        assert client.publish("alarm", None) == 2
        assert client.publish("elsewhere", 3) == 1
        assert client.publish("news/end", 4) == 2
        received = [[], [], []]  # type: ignore[var-annotated]
        for source, messages in zip((both, news, everything), received, strict=True):
            while not messages or messages[-1].topic != "news/end":
                messages.append(source.get(timeout=PATIENCE))
    assert [[message[:2] for message in messages] for messages in received] == [
        [("news/a", 1), ("news/a/b", [2]), ("alarm", None), ("news/end", 4)],
        [("news/a", 1), ("news/end", 4)],
        [("news/a", 1), ("news/a/b", [2]), ("alarm", None), ("elsewhere", 3), ("news/end", 4)],
    ]
    assert both.patterns == ("news/*", "news/**", "alarm")


def test_messages_of_several_publishers(client: Client, bus: BrokerProcess) -> None:
    """Each publisher's messages come in its order, and to every subscriber in the same."""

    def publish(number: int) -> int:
        with udsbus.connect(bus.address) as own:
            return min(own.publish(f"a/{number}", turn) for turn in range(1_000))

    with udsbus.connect(bus.address) as other:
        sources = [client.subscribe("a/*"), other.subscribe("**")]
        assert in_children(*[partial(publish, number) for number in range(3)]) == [2] * 3
        received = [[source.get(timeout=PATIENCE) for _ in range(3_000)] for source in sources]
        assert received[0] == received[1]
        for number in range(3):
            own = [m.value for m in received[0] if m is not None and m.topic == f"a/{number}"]
            assert own == list(range(1_000))
        assert [source.dropped for source in sources] == [0, 0]
        sources[0].close()

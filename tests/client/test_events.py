"""The event connection is cut, the broker is started anew: what watches and subscriptions make of
it."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import Change, Client, InvalidRequest, Message
from udsbus.client import events as events_module
from udsbus.client.events import Events
from udsbus.wire.framing import Decoder

from .support import (
    PATIENCE,
    Child,
    FakeBroker,
    Proxy,
    Task,
    catch_up,
    notification,
    replay,
    take,
    take_number,
)


@pytest.fixture
def proxy(runtime: Path, bus: BrokerProcess) -> Iterator[Proxy]:
    with Proxy(str(runtime / "proxy.sock"), bus.address) as proxy:
        yield proxy


@pytest.fixture
def follower(proxy: Proxy, runtime: Path) -> Iterator[Client]:
    """A client whose event connection `proxy` can cut."""
    with udsbus.connect(runtime / "proxy.sock", timeout=PATIENCE) as client:
        yield client


def is_value(value: object) -> Callable[[Change], bool]:
    return lambda change: change.value == value


# --- a connection that is cut -------------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
def test_a_watch_goes_on_after_a_cut(
    client: Client, follower: Client, proxy: Proxy, initial: bool
) -> None:
    with follower.watch("a", initial=initial) as watch:
        for number in range(20):
            client.set("a", number)
            proxy.cut()
            client.set("a", -number)
        assert proxy.cuts >= 1
        changes = take(watch, is_value(-19))
        assert [change.value for change in changes] == [
            value for number in range(20) for value in (number, -number)
        ]
        assert (watch.started_over, watch.skipped) == (0, 0)


def test_a_watch_is_cut_again_and_again_while_others_write(
    client: Client, follower: Client, proxy: Proxy, bus: BrokerProcess
) -> None:
    """At any byte, also between two changes of one transaction. No gap and no double."""
    keys = [f"a/{number}" for number in range(40)]

    def write() -> int:
        chance = random.Random(1)
        with udsbus.connect(bus.address) as own:
            for turn in range(2_500):
                with own.transaction() as t:
                    for key in chance.sample(keys, 5):
                        if chance.random() < 0.3:
                            t.delete(key)
                        else:
                            t.set(key, turn)
                if turn % 10 == 0:
                    time.sleep(0.002)  # so that it lasts for many cuts
            return own.set("a/end", 0)

    with client.watch("a/*") as everything, follower.watch("a/*") as watch, Child(write) as child:
        task = Task(lambda: take(watch, lambda change: change.key == "a/end"))
        rest = Task(child.result)
        while not rest.done():
            proxy.cut()
        truth = take(everything, lambda change: change.key == "a/end")
        found = task.result()
        assert proxy.cuts >= 10
        assert found == truth
        assert watch.started_over == 0


def test_the_initial_state_is_cut_again_and_again(
    client: Client, follower: Client, proxy: Proxy, bus: BrokerProcess
) -> None:
    """Keys that were told of as present and are gone when it starts again are told to be gone."""
    keys = [f"a/{number:04}" for number in range(2_400)]

    def write() -> None:
        with udsbus.connect(bus.address) as own:
            for turn in itertools.count():
                with own.pipeline() as p:
                    for key in random.sample(keys, 300):
                        p.delete(key)
                    for key in random.sample(keys, 250):
                        p.set(key, turn)

    client.set_many(dict.fromkeys(keys, -1))
    for attempt in range(6):
        with Child(write):
            starting = Task(lambda: follower.watch("a/*", initial=True))
            for _ in range(5):
                proxy.cut()
            watch = starting.result()
        client.set("a/end", f"end {attempt}")
        with watch:
            assert replay(take(watch, is_value(f"end {attempt}"))) == dict(client.items("a/*"))


def test_a_watch_that_missed_too_much_starts_over(
    client: Client, follower: Client, proxy: Proxy
) -> None:
    """More happens, while it is away, than the broker remembers."""
    client.set_many({"a/b": 1, "a/c": 1, "a/d": 1})
    with follower.watch("a/*", initial=True) as watch:
        take_number(watch, 3)
        with proxy.closed():
            client.delete("a/c")
            client.set("a/d", 2)
            for _ in range(2):
                with client.pipeline() as p:
                    for number in range(9_000):
                        p.set("elsewhere", number)
        client.set("a/e", 1)
        catch_up(watch, {"a/b": 1, "a/c": 1, "a/d": 1}, {"a/b": 1, "a/d": 2, "a/e": 1})
        assert watch.started_over == 1


def test_a_subscription_counts_its_interruptions(
    client: Client, follower: Client, proxy: Proxy
) -> None:
    with follower.subscribe("a/*") as subscription:
        for number in range(5):
            assert subscription.interruptions == number
            assert client.publish("a/b", number) == 1
            assert subscription.get(timeout=PATIENCE) == Message("a/b", number)
            proxy.cut()
            wait_until(lambda: client.publish("a/c", "there?") == 1, "the subscription")
            while (message := subscription.get(timeout=0.2)) is not None:
                assert message == Message("a/c", "there?")
        assert subscription.interruptions == 5


def test_a_subscription_that_ends_while_it_reconnects_takes_no_other_along(address: str) -> None:
    """The number that it had on the connection before may be another's on this one."""
    ended: list[int] = []

    def answer(method: str, params: list[Any]) -> Any:
        if method == "unsubscribe":
            ended.append(params[0])
            return True
        if broker.requests.count("subscribe") <= 2:
            return [{"one": 5, "other": 6}[params[0][0]], 0, 0]
        restarted.set()
        assert go_on.wait(PATIENCE)
        return [{"one": 6, "other": 5}[params[0][0]], 0, 0]

    restarted, go_on = threading.Event(), threading.Event()
    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        one, _ = client.subscribe("one"), client.subscribe("other")
        broker.hang_up()
        assert restarted.wait(PATIENCE)
        one.close()
        go_on.set()
        wait_until(lambda: ended, "it to end")
        assert ended == [6]


# --- a broker that is started anew ----------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
def test_a_watch_starts_over_with_a_new_broker(address: str, initial: bool) -> None:
    """It tells what is there now, and that what it told of before is gone."""
    broker = BrokerProcess(address)
    with udsbus.connect(address) as client:
        watch = client.watch("a/*", initial=initial)
        client.set_many({"a/b": 1, "a/c": 1})
        client.delete("a/c")
        client.set("a/d", [1])
        state = replay(take(watch, lambda change: change.key == "a/d"))
        assert state == {"a/b": 1, "a/d": [1]}
        for started_over in (1, 2):
            broker.kill()
            broker = BrokerProcess(address)
            client.set_many({"a/d": [started_over, 2], f"a/e/{started_over}": 1, "a/f": 1})
            catch_up(watch, state, {"a/d": [started_over, 2], "a/f": 1})
            assert watch.started_over == started_over
            client.delete("a/f")
            catch_up(watch, state, {"a/d": [started_over, 2]})
    broker.stop()


def test_an_idle_watch_starts_over_though_the_new_broker_has_no_key(address: str) -> None:
    """What was told of is gone, and it says so without being asked."""
    with running_broker(address):
        client = udsbus.connect(address)
        client.set_many({"a/b": 1, "a/c": 1})
        watch = client.watch("a/*", initial=True)
        take_number(watch, 2)
    with client, running_broker(address):
        gone = take_number(watch, 2)
        assert [(change.kind, change.key) for change in gone] == [
            ("deleted", "a/b"),
            ("deleted", "a/c"),
        ]
        assert watch.started_over == 1


def test_many_followers_survive_a_restart(address: str) -> None:
    with running_broker(address):
        client = udsbus.connect(address, timeout=PATIENCE)
        watches = [client.watch(f"a/{number}") for number in range(50)]
        subscriptions = [client.subscribe(f"a/{number}") for number in range(50)]
        called: list[Change] = []
        client.on_change("b", called.append)
    with client, running_broker(address):
        wait_until(lambda: client.info()["watches"] == 51, "the watches to come back")
        wait_until(lambda: client.info()["subscriptions"] == 50, "the subscriptions, too")
        for number in range(50):
            client.set(f"a/{number}", number)
            client.publish(f"a/{number}", number)
        client.set("b", 1)
        for number, watch in enumerate(watches):
            assert take_number(watch, 1)[0].value == number
        for number, subscription in enumerate(subscriptions):
            assert subscription.get(timeout=PATIENCE) == Message(f"a/{number}", number)
            assert subscription.interruptions == 1
        wait_until(lambda: called, "the callback")


def test_an_interruption_is_logged_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not at every attempt to reconnect."""
    caplog.set_level(logging.INFO, "udsbus.client")
    with running_broker(address):
        client = udsbus.connect(address)
        watch = client.watch("a")
    with client, watch:
        client.timeout = 0.3
        with pytest.raises(udsbus.BrokerUnavailable):  # while the event thread tries as well
            client.ping()
        client.timeout = PATIENCE
        with running_broker(address):
            client.set("a", 1)
            take(watch, is_value(1))
    assert "the broker is stopping" in caplog.text
    assert 1 <= caplog.text.count("interrupted") <= 2


# --- what must not disturb the others -------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda c: c.watch("\ud800"), id="surrogate"),
        pytest.param(lambda c: c.subscribe("a", "\ud800"), id="surrogate among topics"),
        pytest.param(lambda c: c.watch("a", from_revision="5"), id="text"),
        pytest.param(lambda c: c.watch("a", from_revision=2**70), id="too large"),
    ],
)
def test_a_watch_that_cannot_be_asked_for_harms_no_other(
    bus: BrokerProcess, attempt: Callable[[Client], Any]
) -> None:
    """Neither for the time of the attempt nor later; and it is refused as what it is."""
    with (
        udsbus.connect(bus.address, timeout=2) as client,
        client.subscribe("a/b") as subscription,
    ):
        try:
            with pytest.raises(InvalidRequest):
                attempt(client)
        finally:
            assert subscription.interruptions == 0


def test_a_watch_that_is_refused_later_says_so(address: str) -> None:
    """Taken up again after a lost connection. The loop must not look as if all were well."""

    def answer(method: str, params: list[Any]) -> Any:
        if broker.requests.count("watch") > 1:
            raise udsbus.AccessDenied("not any more")
        return [1, 5, []]

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        watch = client.watch("a")
        broker.hang_up()
        with pytest.raises(udsbus.AccessDenied, match="not any more"):
            watch.get(timeout=PATIENCE)


def test_unknown_notifications_are_ignored(address: str) -> None:
    """A newer broker may send more of them."""

    def answer(method: str, params: list[Any]) -> Any:
        return [1, 5, []] if method == "watch" else True

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with client.watch("a") as watch:
            broker.send(
                notification("whisper", 7) + notification("change", 6, "created", "a", b"\x01")
            )
            assert watch.get(timeout=PATIENCE) == Change(6, "created", "a", 1)
            broker.send(notification("change", 7, "renamed", "a", b"\x02", "and more"))
            assert watch.get(timeout=PATIENCE) == Change(7, "renamed", "a", 2)  # type: ignore[arg-type]
            assert broker.requests == ["watch"]


def test_close_while_there_is_no_broker(address: str) -> None:
    with running_broker(address):
        client = udsbus.connect(address, timeout=PATIENCE)
        watch = client.watch("a")
    task = Task(watch.get)
    client.close()
    assert task.result(PATIENCE / 3) is None
    threads = {thread.name for thread in threading.enumerate()}
    assert not threads & {"udsbus-events", "udsbus-callbacks"}


# --- when things go wrong between two instructions ----------------------------------------------


def test_a_wake_up_that_is_lost_is_made_up_for(
    client: Client, bus: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt can come right before the event thread is woken; it looks by itself then."""
    monkeypatch.setattr(events_module, "SWEEP_SECONDS", 0.05)
    watch = client.watch("a")
    monkeypatch.setattr(Events, "look", lambda *_: None)
    watch.close()
    wait_until(lambda: client.info()["watches"] == 0, "the watch to be ended")
    monkeypatch.undo()


def test_nobody_waits_for_what_only_he_could_read(client: Client, bus: BrokerProcess) -> None:
    """A destructor, which the collector may call while messages are read, is told at once."""
    outcomes: list[BaseException | None] = []

    class Interrupted:
        def __init__(self, decoder: Decoder) -> None:
            self.decoder = decoder
            self.cause, self.share = None, decoder.share

        def feed(self, data: bytes) -> list[Any]:
            if over:  # a watch that is closed has nothing to wait for
                return self.decoder.feed(data)
            try:
                inner.get(timeout=PATIENCE)
                outcomes.append(None)
            except InvalidRequest as error:
                outcomes.append(error)
            return self.decoder.feed(data)

    over = False
    with client.watch("a") as watch, client.watch("b") as inner:
        client._events._decoder = Interrupted(client._events._decoder)  # type: ignore[assignment]
        client.set("a", 1)
        change = watch.get(timeout=PATIENCE)
        assert change is not None
        assert change.value == 1
        over = True
    assert outcomes
    for outcome in outcomes:
        assert isinstance(outcome, InvalidRequest)
        assert "interrupts" in str(outcome)

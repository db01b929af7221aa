"""A broker or a client that hangs is found out; and what it makes of it when it goes on."""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus import Change, Client, InvalidRequest, RequestTimeout
from udsbus.client.pulse import Pulse
from udsbus.limits import BEATS_MISSED, CHANGE_LOG_CHANGES, HEARTBEAT_LEAST

from .support import (
    PATIENCE,
    Child,
    FakeBroker,
    Proxy,
    catch_up,
    notification,
    stopped,
    take,
    take_number,
)

OFTEN = 4 * HEARTBEAT_LEAST
"""On a busy machine a process may have to wait for longer than a few of the shortest."""


def silent(client: Client) -> int:
    """How many connections the broker has ended because it heard nothing of them."""
    number: int = client.info()["counters"]["closed"].get("silent", 0)
    return number


# --- the pulse ------------------------------------------------------------------------------------


def test_three_looks_in_vain_are_enough() -> None:
    pulse = Pulse(5.0, 10.0)
    pulse.begin(100.0)
    pulse.agree(5.0, 100.0)
    pulse.hear(101.0)
    assert pulse.left(102.0) == 3.0
    assert [pulse.is_over(now) for now in (105.0, 110.0, 115.0)] == [False] * 3
    pulse.hear(117.0)
    assert [pulse.is_over(now) for now in (120.0, 125.0, 130.0, 135.0)] == [False] * 3 + [True]


def test_one_late_look_is_one_look() -> None:
    """This process was stopped, and perhaps so was the whole machine."""
    pulse = Pulse(5.0, 10.0)
    pulse.begin(0.0)
    pulse.agree(5.0, 0.0)
    assert not pulse.is_over(1_000.0)
    assert pulse.left(1_001.0) == 4.0


def test_a_broker_that_has_not_answered_yet_has_longer() -> None:
    """As long as any request may take, if that is longer than three beats."""
    for wished, greeting, first in ((5.0, 3.0, 5.0), (1.0, 30.0, 10.0)):
        pulse = Pulse(wished, greeting)
        pulse.begin(0.0)
        assert pulse.left(0.0) == first


def test_who_rests_begins_anew() -> None:
    pulse = Pulse(5.0, 10.0)
    pulse.begin(0.0)
    pulse.agree(5.0, 0.0)
    assert [pulse.is_over(5.0), pulse.is_over(10.0)] == [False, False]
    pulse.rest(12.0)
    assert pulse.left(12.0) == 5.0
    assert [pulse.is_over(now) for now in (17.0, 22.0, 27.0)] == [False, False, True]


def test_two_intervals_are_fresh() -> None:
    pulse = Pulse(5.0, 10.0)
    pulse.begin(0.0)
    pulse.agree(5.0, 0.0)
    pulse.hear(100.0)
    assert [pulse.is_fresh(now) for now in (100.0, 110.0, 110.1)] == [True, True, False]


def test_without_a_heartbeat_nothing_is_over_ever() -> None:
    pulse = Pulse(None, 10.0)
    pulse.begin(0.0)
    assert pulse.left(1e9) == math.inf
    pulse.agree(None, 0.0)
    assert pulse.left(1e9) == math.inf
    assert pulse.is_fresh(1e9)


@pytest.mark.parametrize("heartbeat", [0, -1, math.nan, math.inf, True, "5", b"", [5]])
def test_an_interval_that_is_none_is_refused(address: str, heartbeat: Any) -> None:
    with pytest.raises(InvalidRequest, match="heartbeat must be a number of seconds above 0"):
        udsbus.connect(address, heartbeat=heartbeat)


# --- what a client says ---------------------------------------------------------------------------


def test_a_client_answers_and_asks_for_its_interval(address: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        return [1, 5, []] if method == "watch" else True

    with FakeBroker(address, answer) as broker:
        with udsbus.connect(address, heartbeat=7) as client, client.watch("a") as watch:
            asked = [params[1].get("heartbeat") for _, method, params in broker.sent
                     if method == "hello"]  # fmt: skip
            assert asked == [None, 7]  # only where it is told of something
            broker.send(
                notification("ping", 8) + notification("change", 9, "created", "a", b"\x01")
            )
            take_number(watch, 1)
            wait_until(lambda: broker.notified, "the answer")
            assert broker.notified == [("pong", [8])]
            broker.send(notification("ping", 9))  # while nobody takes
            wait_until(lambda: len(broker.notified) == 2, "the next answer")


def test_who_follows_nothing_expects_nothing(address: str) -> None:
    """A client that holds a key, say. It would take a broker that has nothing to say for hung."""
    with running_broker(address), udsbus.connect(address, heartbeat=OFTEN) as client:
        client.set("e", 1, ephemeral=True)
        wait_until(lambda: client.info()["connections"] == 2, "the event connection")
        accepted = client.info()["counters"]["accepted"]
        time.sleep(2 * BEATS_MISSED * OFTEN)  # nothing happens, and that is what is tested
        assert client.info()["counters"]["accepted"] == accepted
        assert client.in_sync


def test_an_idle_watch_does_not_start_over(client: Client, runtime: Path) -> None:
    """The broker has forgotten the revision at which it began, but not that of the last beat."""
    with (
        Proxy(str(runtime / "proxy.sock"), client.address) as proxy,
        udsbus.connect(runtime / "proxy.sock", heartbeat=OFTEN, timeout=PATIENCE) as idle,
        idle.watch("a") as watch,
    ):
        for _ in range(3):
            revision = client.revision() + CHANGE_LOG_CHANGES
            with client.pipeline() as p:
                for number in range(CHANGE_LOG_CHANGES):
                    p.set("elsewhere", number)
            wait_until(lambda at=revision: (watch._core._last or 0) >= at, "a beat")
            proxy.cut()
        client.set("a", 1)
        assert [change.value for change in take_number(watch, 1)] == [1]
        assert watch.started_over == 0


# --- a broker that hangs --------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [True, False])
def test_a_broker_that_hangs_is_found_out(
    address: str, caplog: pytest.LogCaptureFixture, takes: bool
) -> None:
    """And when it goes on, so does all that is followed, without a gap or a double."""
    caplog.set_level(logging.INFO, "udsbus.client")
    with (
        running_broker(address) as broker,
        udsbus.connect(address, heartbeat=OFTEN, timeout=1.0) as client,
        udsbus.connect(address, timeout=PATIENCE) as other,
        client.watch("a/*") as watch,
        client.subscribe("a/*") as subscription,
    ):
        other.set("a/0", 0)
        take(watch, lambda change: change.value == 0)
        assert client.in_sync
        with stopped(broker.pid):
            if takes:  # and so it leads, and nobody else reads
                assert watch.get(timeout=2 * BEATS_MISSED * OFTEN) is None
            wait_until(lambda: not client.in_sync, "it to be noticed")
            wait_until(lambda: "it hangs" in caplog.text, "the connection to be given up")
            assert watch.lag > 2 * OFTEN
            assert not client.in_sync
            with pytest.raises(RequestTimeout), client.timeout_of(0.1):
                client.ping()
        for number in range(1, 100):
            other.set(f"a/{number}", number)
        changes = take(watch, lambda change: change.value == 99)
        assert [change.value for change in changes] == list(range(1, 100))
        assert watch.started_over == 0
        wait_until(lambda: client.in_sync, "all to be well")
        assert subscription.interruptions >= 1
        assert other.publish("a/1", 1) == 1
        assert "nothing was heard of the broker for 0." in caplog.text


def test_a_broker_that_never_greets_is_given_up(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection in the listen queue of one that hangs, which may be replaced."""
    caplog.set_level(logging.DEBUG, "udsbus.client")

    def answer(method: str, params: list[Any]) -> Any:
        return [1, 5, []] if method == "watch" else True

    with FakeBroker(address, answer) as broker, udsbus.connect(
        address, heartbeat=OFTEN, timeout=1.0
    ) as client, client.watch("a") as watch:  # fmt: skip
        broker.accepting.clear()
        broker.hang_up()
        wait_until(lambda: not client.in_sync, "the end to be noticed")
        wait_until(lambda: "it hangs" in caplog.text, "the client to wait in vain, and come again")
        broker.accepting.set()
        wait_until(lambda: len([1 for _, method, _ in broker.sent if method == "hello"]) >= 4,
                   "another greeting")  # fmt: skip
        wait_until(lambda: client.in_sync, "all to be well")
        broker.send(notification("change", 6, "created", "a", b"\x01"))
        take_number(watch, 1)


def test_death_is_noticed_at_once_all_the_same(address: str) -> None:
    """A heartbeat an hour would do for that."""
    with udsbus.LocalBroker() as broker:
        client = broker.connect(heartbeat=3600)
        watch = client.watch("a")
        began = time.monotonic()
        os.kill(broker.pid, signal.SIGKILL)
        wait_until(lambda: not client.in_sync, "the end to be noticed")
        assert time.monotonic() - began < 10
        watch.close()
        client.close()


# --- a client that hangs --------------------------------------------------------------------------


def follow(
    address: str, until: int, heartbeat: float = OFTEN
) -> tuple[list[Change], int, int, str]:
    """What a watch tells of until a value comes; how often it started over, and messages may have
    been missed; and what the client has said."""
    said: list[str] = []

    def note(record: logging.LogRecord) -> None:
        # Clients of earlier tests may go on in this child, which was forked with them.
        if address in record.getMessage():
            said.append(record.getMessage())

    handler = logging.Handler()
    handler.emit = note  # type: ignore[method-assign]
    logging.getLogger("udsbus.client").addHandler(handler)
    logging.getLogger("udsbus.client").setLevel(logging.INFO)
    with udsbus.connect(address, heartbeat=heartbeat, name="hanging") as client:
        with client.watch("a/*") as watch, client.subscribe("m") as subscription:
            client.set("ready", 1)
            changes = take(watch, lambda change: change.value == until)
            return changes, watch.started_over, subscription.interruptions, "\n".join(said)


def test_a_client_that_hangs_is_ended_and_goes_on(client: Client, bus: BrokerProcess) -> None:
    before = silent(client)
    with client.watch("ready") as ready, Child(partial(follow, bus.address, 299)) as child:
        take_number(ready, 1)
        for number in range(100):
            client.set(f"a/{number}", number)
        with stopped(child.pid):
            for number in range(100, 200):
                client.set(f"a/{number}", number)
            wait_until(lambda: silent(client) > before, "it to be noticed")
            assert "hanging" in [each.name for each in client.clients()]  # its process lives
            assert client.publish("m", 1) == 0
            for number in range(200, 300):
                client.set(f"a/{number}", number)
        changes, started_over, interruptions, said = child.result()
    assert [change.value for change in changes] == list(range(300))
    assert (started_over, interruptions) == (0, 1)
    assert "closes the event connection: nothing was heard of you" in said
    assert "nothing was heard of the broker" not in said  # for it was not the broker that hung


def test_both_may_hang(client: Client, address: str) -> None:
    """As when the machine is suspended: nobody blames anybody. With beats that are far enough apart
    for a busy machine, where one goes on later than the other."""
    heartbeat = 2 * OFTEN
    with running_broker(address) as broker:
        with RawClient(address) as raw, Child(partial(follow, address, 1, heartbeat)) as child:
            wait_until(lambda: raw.call("get", "ready"), "it to follow")
            with stopped(child.pid), stopped(broker.pid):
                time.sleep((BEATS_MISSED + 2) * heartbeat)
            raw.call("set", "a/1", b"\x01")
            changes, started_over, interruptions, said = child.result()
            assert raw.call("info")["counters"]["closed"].get("silent") is None
    assert [change.value for change in changes] == [1]
    assert (started_over, interruptions, said) == (0, 0, "")


# --- how late it is -------------------------------------------------------------------------------


def test_in_sync_while_nothing_is_followed(address: str) -> None:
    with running_broker(address) as broker, udsbus.connect(address) as client:
        assert client.in_sync
        broker.kill()
        assert client.in_sync
    assert client.in_sync


def test_lag_grows_until_the_next_sign(bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address, heartbeat=OFTEN) as client, client.watch("a") as watch:
        seen = [watch.lag]
        until = time.monotonic() + 10 * OFTEN
        while time.monotonic() < until:
            seen.append(watch.lag)
        falls = sum(later < earlier for earlier, later in itertools.pairwise(seen))
        assert falls >= 3
        assert min(seen) < OFTEN
        assert client.in_sync


def test_lag_is_the_age_of_what_waits(client: Client) -> None:
    with client.watch("a/*") as watch, client.watch("a/*", conflate=True) as newest:
        for each in (watch, newest):
            assert each.lag >= 0
        client.set("a/1", 1)
        wait_until(lambda: watch.waiting and newest.waiting, "it to come")
        began = time.monotonic()
        time.sleep(0.1)
        client.set("a/2", 1)
        client.set("a/1", 2)
        wait_until(lambda: (watch.waiting, newest.waiting) == (3, 2), "them to come")
        past = time.monotonic() - began
        assert watch.lag >= past >= newest.lag  # the older of 1 was left out for the newer one
        take_number(watch, 1)
        assert watch.lag < time.monotonic() - began
        take_number(watch, 2)
        assert watch.lag < 5


def test_lag_goes_on_while_it_is_interrupted(address: str) -> None:
    """It does not begin anew with a connection over which the watch is not taken up yet."""
    go_on = False

    def answer(method: str, params: list[Any]) -> Any:
        if method == "watch" and broker.requests.count("watch") > 1 and not go_on:
            return b""  # it does not answer
        return [1, 5, []] if method == "watch" else True

    with FakeBroker(address, answer) as broker, udsbus.connect(address, heartbeat=None) as client:
        watch = client.watch("a")
        began = time.monotonic()
        broker.hang_up()
        wait_until(lambda: broker.requests.count("watch") == 2, "it to come back")
        assert watch.lag >= time.monotonic() - began
        assert not client.in_sync
        go_on = True
        broker.hang_up()
        wait_until(lambda: client.in_sync, "it to be taken up")
        assert watch.lag < time.monotonic() - began
        watch.close()


def test_a_child_is_in_sync_when_it_follows_by_itself(client: Client, bus: BrokerProcess) -> None:
    """After a fork it has no connection at first."""
    with udsbus.connect(bus.address, heartbeat=OFTEN) as parent, parent.watch("a") as watch:
        assert parent.in_sync

        def in_child() -> tuple[bool, bool, int]:
            before = parent.in_sync
            parent.set("a", 2)
            state: dict[str, Any] = {}
            catch_up(watch, state, {"a": 2})
            wait_until(lambda: parent.in_sync, "the child to follow")
            return before, parent.in_sync, watch.started_over

        with Child(in_child) as child:
            assert child.result() == (False, True, 0)
        take(watch, lambda change: change.value == 2)
        assert parent.in_sync

"""The client is struck at every moment: by Ctrl-C, and by handlers that use it themselves.

What test_signals.py tries at random is done here at one moment after the other, so that no gap
between two instructions stays untried.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, wait_until
from udsbus import Client, InvalidRequest, Message

from .support import Ticks, at_every_moment, in_child

TIMEOUT = 10.0


def interrupt() -> None:
    raise KeyboardInterrupt


def ask(client: Client) -> None:
    assert client.get("a") == "a"
    assert client.get_many(["a", "b"]) == {"a": "a", "b": "b"}


def pipeline(client: Client) -> None:
    with client.pipeline() as p:
        results = [p.get(key) for key in "abab"]
    assert [result.value for result in results] == ["a", "b", "a", "b"]


def transaction(client: Client) -> None:
    with client.transaction() as t:
        t.set("c", "c")
        result = t.get("b")
    assert result.value == "b"


def watch(client: Client) -> None:
    with client.watch("a", initial=True) as watch:
        change = watch.get(timeout=TIMEOUT)
        assert isinstance(change, udsbus.Change)
        assert change.value == "a"


def subscription(client: Client) -> None:
    with client.subscribe("a") as subscription:
        assert client.publish("a", 1) == 1
        assert subscription.get(timeout=TIMEOUT) == Message("a", 1)


ACTIONS = [ask, pipeline, transaction, watch, subscription]


@pytest.fixture
def filled(client: Client) -> Client:
    client.set_many({"a": "a", "b": "b"})
    return client


@pytest.mark.parametrize("action", ACTIONS)
def test_ctrl_c_at_every_moment(
    filled: Client, bus: BrokerProcess, action: Callable[[Client], None]
) -> None:
    """Afterwards everything works, with the connections that there are, and nothing is left."""
    before = filled.info()

    def work() -> int:
        with udsbus.connect(bus.address, timeout=TIMEOUT) as client:
            action(client)
            for moment in at_every_moment(lambda: action(client), interrupt):
                ask(client)
                watch(client)
                accepted = client.info()["counters"]["accepted"]
                ask(client)
                watch(client)
                assert client.info()["counters"]["accepted"] == accepted, f"moment {moment}"
            for usual in ACTIONS:
                usual(client)
            gc.collect()
            wait_until(lambda: client.info()["watches"] == before["watches"], "them to end")
            wait_until(
                lambda: client.info()["subscriptions"] == before["subscriptions"], "them to end"
            )
            return moment

    assert in_child(work) > 5


@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_that_asks_at_every_moment(
    filled: Client, bus: BrokerProcess, action: Callable[[Client], None]
) -> None:
    def work() -> int:
        with udsbus.connect(bus.address, timeout=TIMEOUT) as client:

            def handle() -> None:
                ask(client)
                pipeline(client)

            return max(at_every_moment(lambda: action(client), handle))

    assert in_child(work) > 5


@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_that_watches_at_every_moment(
    filled: Client, bus: BrokerProcess, action: Callable[[Client], None]
) -> None:
    """It may be told that it cannot, but it must not hang, nor disturb what it interrupts."""

    def work() -> int:
        with udsbus.connect(bus.address, timeout=TIMEOUT) as client:

            def handle() -> None:
                with contextlib.suppress(InvalidRequest):
                    watch(client)

            return max(at_every_moment(lambda: action(client), handle))

    assert in_child(work) > 5


@pytest.mark.parametrize("change_waits", [False, True])
def test_a_handler_that_closes_at_every_moment_of_get(
    filled: Client, bus: BrokerProcess, change_waits: bool
) -> None:
    """Whoever waits is woken, wherever it was on its way to wait."""

    def work() -> int:
        client = udsbus.connect(bus.address, timeout=TIMEOUT)
        struck = False

        def renew() -> None:
            nonlocal client, struck
            client.close()
            client = udsbus.connect(bus.address, timeout=TIMEOUT)
            struck = False

        def get() -> None:
            with Ticks(0.5, 40, close_unless_struck), contextlib.suppress(InvalidRequest):
                list(client.watch("a", initial=change_waits))

        def strike() -> None:
            nonlocal struck
            struck = True
            client.close()

        def close_unless_struck(_: int) -> None:
            if not struck:  # it waits: there are no more moments
                sys.settrace(None)
                client.close()

        return max(at_every_moment(get, strike, renew))

    assert in_child(work) > 5


def test_ctrl_c_at_every_moment_of_get_loses_no_more_than_one_change(
    filled: Client, bus: BrokerProcess
) -> None:
    """The one that was on its way from the queue to the caller, as with every queue of Python's."""

    def work() -> int:
        with udsbus.connect(bus.address, timeout=TIMEOUT) as client, client.watch("n") as watch:

            def take() -> None:
                change = watch.get(timeout=TIMEOUT)
                assert change is not None
                found.append(change.value)

            def take_five() -> None:
                for _ in range(5):
                    client.increment("n")
                for _ in range(5):
                    take()

            found: list[int] = []
            over = 0
            for moment in at_every_moment(take_five, interrupt):
                last = client.increment("n")
                while not found or found[-1] != last:
                    take()
                gaps = [b - a - 1 for a, b in pairwise(found)]
                over, before = watch.started_over, over
                assert sum(gaps) <= 1 or over > before, f"moment {moment}: {found}"
                del found[:-1]
            return moment

    assert in_child(work) > 5


def test_ctrl_c_at_every_moment_of_get_costs_others_nothing(
    filled: Client, bus: BrokerProcess
) -> None:
    """Who waits reads for all that the client follows. Struck in the midst of that, what is taken
    from them is the state in place of changes, which is said."""

    def work() -> tuple[int, int]:
        with (
            RawClient(bus.address) as writer,
            udsbus.connect(bus.address, timeout=TIMEOUT) as client,
            client.watch("n") as watch,
            client.watch("other/*", initial=True, strict=True) as other,
            client.subscribe("kept") as subscription,
        ):
            number = missed = moment = heard = 0
            believed: dict[str, object] = {}

            def write_and_take() -> None:
                nonlocal number
                number += 1
                watch.get(timeout=0.001)  # so that the event thread leaves what comes to us
                writer.call("set", "other/a", bytes([number % 100]))
                if number % 2:
                    writer.call("set", "other/b", bytes([number % 100]))
                else:
                    writer.call("delete", "other/b")
                writer.call("publish", "kept", bytes([number % 100]), {"retain": True})
                writer.call("set", "n", bytes([number % 100]))
                while (change := watch.get(timeout=TIMEOUT)) is None or change.value != number:
                    assert change is not None

            def follow() -> None:
                nonlocal missed
                truth = client.get_many(["other/a", "other/b"])
                while believed != truth:
                    try:
                        change = other.get(timeout=TIMEOUT)
                    except udsbus.MissedChanges:
                        missed += 1
                        continue
                    assert change is not None, f"moment {moment}: {believed}, not {truth}"
                    if isinstance(change, udsbus.CaughtUp):
                        continue
                    if change.value is None:
                        believed.pop(change.key, None)  # told once more, perhaps
                    else:
                        believed[change.key] = change.value

            def listen() -> None:
                nonlocal heard
                last = client.retained("kept").get("kept", 0)
                while heard != last:
                    message = subscription.get(timeout=TIMEOUT)
                    assert message is not None, f"moment {moment}: {last} was not told"
                    heard = message.value

            for moment in at_every_moment(write_and_take, interrupt):  # noqa: B007
                follow()
                listen()
            return moment, missed

    moments, missed = in_child(work)
    assert moments > 10
    assert missed

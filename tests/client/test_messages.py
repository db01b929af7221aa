"""Messages between real clients: who gets them, what is retained, what is echoed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from tests.pairs import Pair
from udsbus import BrokerUnavailable, Client, InvalidRequest, LimitExceeded, Message, Subscription
from udsbus.limits import PAGE_KEYS

from .support import PATIENCE, FakeBroker, Hangup, Proxy, in_child, in_threads


@pytest.fixture
def other(bus: BrokerProcess) -> Iterator[Client]:
    with udsbus.connect(bus.address, timeout=PATIENCE) as other:
        yield other


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Which would come to the subscriptions of other tests."""
    yield
    if "bus" in request.fixturenames:
        with udsbus.connect(request.getfixturevalue("bus").address) as client:
            for topic in client.retained():
                client.unretain(topic)


def take(subscription: Subscription, number: int) -> list[Message]:
    messages = [subscription.get(timeout=PATIENCE) for _ in range(number)]
    found = [message for message in messages if message is not None]
    assert len(found) == number, f"{number - len(found)} messages are missing"
    return found


def rest(subscription: Subscription) -> list[Message]:
    """What has come; a message that comes behind it shows that it is all."""
    return list(iter(lambda: subscription.get(timeout=0), None))


# --- how many receive it --------------------------------------------------------------------------


def test_publish_counts_clients_and_each_subscription_gets_it_once(
    client: Client, other: Client
) -> None:
    assert other.publish("a/b", 0) == 0
    subscriptions = [
        client.subscribe("a/b", "a/*", "**"),
        client.subscribe("a/*"),
        client.subscribe("a/*"),
        client.subscribe("a/b", "a/b"),
        client.subscribe("b"),
    ]
    assert other.publish("a/b", 1) == 1
    assert other.publish("b", 2) == 1
    with other.subscribe("a/b"):
        assert other.publish("a/b", 3) == 2
        assert client.publish("a/b", 4) == 2
    wait_until(lambda: client.info()["subscriptions"] == 8, "its end")
    assert other.publish("a/b", 5) == 1
    assert other.publish("end", 6) == 1
    assert take(subscriptions[0], 6)[-1] == Message("end", 6)
    for each in subscriptions[1:4]:
        assert rest(each) == [Message("a/b", number) for number in (1, 3, 4, 5)]
    assert rest(subscriptions[4]) == [Message("b", 2)]
    for each in subscriptions:
        each.close()
    wait_until(lambda: client.info()["subscriptions"] == 0, "their end")
    assert other.publish("a/b", 7) == 0


# --- what is retained -----------------------------------------------------------------------------


def test_who_comes_later_gets_what_was_retained(client: Client, other: Client) -> None:
    other.publish("status/one", "lost")
    other.publish("status/one", "old", retain=True)
    assert other.publish("status/one", {"up": True}, retain=True) == 0
    other.publish("status/two", None, retain=True)
    other.publish("elsewhere", 1, retain=True)
    other.publish("status/one", "not kept")
    with client.subscribe("status/*", "status/one") as late:
        assert rest(late) == [  # at once: before `subscribe` returns
            Message("status/one", {"up": True}, True),
            Message("status/two", None, True),
        ]
        assert other.publish("status/one", "new", retain=True) == 1
        assert take(late, 1) == [Message("status/one", "new", False)]
    with client.subscribe("status/*", retained=False) as indifferent:
        other.publish("status/one", "newer", retain=True)
        assert take(indifferent, 1) == [Message("status/one", "newer")]
        assert client.retained("status/*") == {"status/one": "newer", "status/two": None}
        assert client.retained().keys() == {"elsewhere", "status/one", "status/two"}
        assert client.unretain("status/one") is True
        assert client.unretain("status/one") is False
    with client.subscribe("status/*") as latest:
        assert rest(latest) == [Message("status/two", None, True)]


def test_it_is_a_key_that_can_be_watched_and_not_written(client: Client, other: Client) -> None:
    with client.watch("$sys/retained/**") as watch:
        other.publish("a/b", [1], retain=True)
        change = watch.get(timeout=PATIENCE)
        assert change is not None
        assert (change.kind, change.key, change.value) == ("created", "$sys/retained/a/b", [1])
        assert client.get("$sys/retained/a/b") == [1]
        with pytest.raises(udsbus.AccessDenied):
            client.set("$sys/retained/a/b", 2)
    assert client.info()["retained"] == 1
    assert client.keys() == []


def test_more_than_a_page_of_them(client: Client, other: Client) -> None:
    with other.pipeline() as p:
        for number in range(2 * PAGE_KEYS + 10):
            p.publish(f"a/{number:05}", number, retain=True)
    with client.subscribe("a/*") as late:
        assert [message.value for message in rest(late)] == list(range(2 * PAGE_KEYS + 10))
    assert len(client.retained()) == 2 * PAGE_KEYS + 10


def test_nothing_is_lost_or_doubled_while_others_publish(client: Client, other: Client) -> None:
    """Each subscription is told of the newest, and of every one after it. What is retained while
    the others are listed comes by itself, and takes the place of what was there."""
    ended = False

    def publish() -> None:
        number = 0
        while not ended:
            other.publish("a/b", number, retain=True)
            number += 1

    def subscribe() -> None:
        nonlocal ended
        try:
            for _ in range(60):
                before = client.retained().get("a/b", 0)
                with client.subscribe("a/*") as late:
                    messages = take(late, 5)
                values = [message.value for message in messages]
                assert values == list(range(values[0], values[0] + 5))
                assert values[0] >= before
                assert not any(message.retained for message in messages[1:])
        finally:
            ended = True

    in_threads(publish, subscribe)


@pytest.mark.parametrize("topic", ["k" * 1_020, "/".join("k" * 32)])
def test_a_topic_that_is_too_long_to_be_retained(client: Client, topic: str) -> None:
    assert client.publish(topic, 1) == 0
    with pytest.raises(LimitExceeded, match="key of a retained message"):
        client.publish(topic, 1, retain=True)
    with pytest.raises(InvalidRequest):
        client.publish("a/*", 1, retain=True)
    with client.subscribe(topic, "/".join(["**"] * 32)) as subscription:  # can be subscribed to
        client.publish("a", 1)
        assert take(subscription, 1) == [Message("a", 1)]


# --- after a lost connection ----------------------------------------------------------------------


def test_what_was_retained_meanwhile_is_told_once(
    client: Client, other: Client, runtime: Path
) -> None:
    client.publish("a/before", 1, retain=True)
    client.publish("a/changed", 1, retain=True)
    with (
        Proxy(str(runtime / "proxy.sock"), client.address) as proxy,
        udsbus.connect(runtime / "proxy.sock", timeout=PATIENCE) as follower,
        follower.subscribe("a/*") as subscription,
    ):
        take(subscription, 2)
        other.publish("a/live", 1, retain=True)
        assert take(subscription, 1) == [Message("a/live", 1)]
        with proxy.closed():
            other.publish("a/changed", 2, retain=True)
            other.publish("a/missed", 1)
        assert take(subscription, 1) == [Message("a/changed", 2, True)]
        assert subscription.interruptions == 1
        proxy.cut()
        wait_until(lambda: other.publish("a/end", 1) == 1, "the subscription")
        assert take(subscription, 1) == [Message("a/end", 1)]
        assert rest(subscription) in ([], [Message("a/end", 1)])


def test_what_is_retained_survives_the_broker(runtime: Path, address: str) -> None:
    """And is not told again, for it is the same bus."""
    pair = Pair(address, runtime / "state")
    try:
        with udsbus.connect(address, timeout=PATIENCE) as client:
            broker, standby = pair.ready(client)
            client.publish("a", 1, retain=True)
            client.publish("gone", 1, retain=True)
            client.unretain("gone")
            with client.subscribe("**") as subscription:
                assert take(subscription, 1) == [Message("a", 1, True)]
                os.kill(broker, signal.SIGKILL)
                client.publish("b", 2, retain=True)
                assert client.info()["pid"] == standby
                wait_until(lambda: client.in_sync, "the subscription")
                (message,) = take(subscription, 1)
                assert (message.topic, message.value) == ("b", 2)
                client.publish("end", 3)
                assert take(subscription, 1) == [Message("end", 3)]
            assert client.retained() == {"a": 1, "b": 2}
    finally:
        pair.close()


def test_on_another_bus_all_is_told(address: str) -> None:
    with running_broker(address):
        client = udsbus.connect(address, timeout=PATIENCE)
        client.publish("a", 1, retain=True)
        subscription = client.subscribe("a")
        take(subscription, 1)
    with client, running_broker(address, first_revision=0) as broker, broker.connect() as raw:
        raw.call("publish", "a", b"\x01", {"retain": True})
        (message,) = take(subscription, 1)
        assert (message.topic, message.value) == ("a", 1)


def test_a_retained_one_may_be_sent_again_to_the_next_broker(address: str) -> None:
    """That knows whether it was carried out. Of one that is not retained nobody does."""

    def answer(method: str, params: list[object]) -> object:
        if len(broker.requests) < 2:
            broker.epoch += 1
            raise Hangup
        return 5

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        assert client.publish("a", 1, retain=True) == 5
        broker.requests.clear()
        with pytest.raises(BrokerUnavailable, match="another broker"):
            client.publish("a", 1)


# --- echo -----------------------------------------------------------------------------------------


def test_without_echo_nobody_hears_himself(client: Client, other: Client) -> None:
    with client.subscribe("a", echo=False) as quiet, other.subscribe("a", echo=False) as theirs:
        assert client.publish("a", 1) == 1
        assert in_threads(partial(client.publish, "a", 2)) == [1]
        assert other.publish("a", 3) == 1
        assert take(quiet, 1) == [Message("a", 3)]
        assert take(theirs, 2) == [Message("a", 1), Message("a", 2)]
        with client.pipeline() as p:
            result = p.publish("a", 4)
        assert result.value == 1
        assert take(theirs, 1) == [Message("a", 4)]
        other.publish("a", 5)
        assert take(quiet, 1) == [Message("a", 5)]


def test_each_subscription_is_right_though_they_share_a_connection(
    client: Client, other: Client
) -> None:
    with (
        client.subscribe("a/*", echo=False) as quiet,
        client.subscribe("a/loud") as loud,
        client.subscribe("**", echo=False) as all_quiet,
    ):
        assert client.publish("a/loud", 1) == 1
        assert client.publish("a/quiet", 2) == 0
        assert other.publish("a/loud", 3) == 1
        assert other.publish("a/quiet", 4) == 1
        assert take(loud, 2) == [Message("a/loud", 1), Message("a/loud", 3)]
        for each in (quiet, all_quiet):
            assert take(each, 2) == [Message("a/loud", 3), Message("a/quiet", 4)]
            assert rest(each) == []
        loud.close()
        wait_until(lambda: client.publish("a/loud", 5) == 0, "its end")


def test_a_child_after_a_fork_is_another(client: Client) -> None:
    with client.subscribe("a", echo=False) as quiet:

        def publish() -> int:
            return client.publish("a", "from the child")

        assert in_child(publish) == 1
        assert take(quiet, 1) == [Message("a", "from the child")]


def test_echo_is_of_messages_and_not_of_what_is_retained(client: Client) -> None:
    client.publish("a", 1, retain=True)
    with client.subscribe("a", echo=False) as quiet:
        assert rest(quiet) == [Message("a", 1, True)]
        client.publish("a", 2, retain=True)
        assert rest(quiet) == []


def test_a_connection_without_a_session_does_not_hear_itself(broker: BrokerProcess) -> None:
    with broker.connect() as raw, broker.connect() as another:
        raw.call("subscribe", ["a"], {"echo": False})
        assert raw.call("publish", "a", b"\x01") == 0
        assert another.call("publish", "a", b"\x01") == 1
        assert raw.receive() == [2, "message", ["a", b"\x01"]]


def test_details_are_for_those_who_ask(broker: BrokerProcess) -> None:
    with broker.connect() as raw, broker.connect() as plain, broker.connect() as writer:
        assert plain.call("subscribe", ["a"]) == 1
        assert raw.call("subscribe", ["a"], {"details": True}) == [2, 0, 0]
        assert raw.call("subscribe", ["a"]) == 3
        writer.call("hello", 1, {"session": "s"})
        revision = writer.call("ping") + 1
        assert writer.call("publish", "a", b"\x01", {"retain": True}) == 2
        assert writer.call("publish", "a", b"\x02") == 2
        for value, more in ((b"\x01", [revision, "s"]), (b"\x02", [])):
            assert plain.receive() == [2, "message", ["a", value]]
            assert raw.receive() == [2, "message", ["a", value, *more]]
        assert raw.call("subscribe", ["b"], {"details": True, "echo": False})[0] == 4
        assert writer.call("publish", "a", b"\x03") == 2
        assert plain.receive() == [2, "message", ["a", b"\x03"]]
        assert raw.receive() == [2, "message", ["a", b"\x03", None, "s"]]
        assert raw.call("subscribe", ["a"], {"details": True}) == [5, revision, 1]
        assert raw.call("unsubscribe", 2) is True
        assert raw.call("unsubscribe", 4) is True
        assert raw.call("unsubscribe", 5) is True
        writer.call("publish", "a", b"\x03")
        assert raw.receive() == [2, "message", ["a", b"\x03"]]


def test_what_the_page_shows_is_what_runs(
    client: Client, other: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
    names: dict[str, Any] = {"client": client, "other": other}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out == "news/sport {'score': '2:1'}\n"
    assert names["receivers"] == 1

"""What several patterns hold."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus.running.following import Difference, Following, differences, merged
from udsbus.running.naming import Held
from udsbus.wire.values import encode


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[udsbus.Client]:
    with udsbus.connect(broker.address) as client:
        yield client


def following(
    client: udsbus.Client, *patterns: str, say: Callable[[str], None] = print
) -> Following:
    return Following(udsbus.connect(client.address), patterns, say)


def plain(one: Following) -> list[dict[str, Any]]:
    return [{key: held.value for key, held in each.items()} for _, each in one.watched]


def now(one: Following) -> list[dict[str, Any]]:
    one.take()
    return plain(one)


def held(value: Any, revision: int = 1) -> Held:
    return Held(revision, value, encode(value))


def test_what_is_there_and_what_comes(client: udsbus.Client) -> None:
    client.set_many({"a/1": 1, "a/2": 2, "b": 3, "c": 4})
    follows = following(client, "a/*", "b")
    assert plain(follows) == [{"a/1": 1, "a/2": 2}, {"b": 3}]
    rung = threading.Event()
    follows.ring(rung.set)
    assert rung.is_set(), "for what came before"
    rung.clear()
    with client.transaction() as t:
        t.set("a/1", 5)
        t.delete("a/2")
        t.set("b", 6)
    assert rung.wait(20)
    wait_until(follows.take, "the changes")
    assert plain(follows) == [{"a/1": 5}, {"b": 6}]
    assert not follows.take()
    follows.close()


def test_it_is_at_one_revision(client: udsbus.Client) -> None:
    """Whenever it is looked at: both are written together, always. Threads take turns as often as
    they can, so that it is looked at in the midst of everything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    client.set_many({"a/n": 0, "b/n": 0})
    stop = threading.Event()

    def write() -> None:
        with udsbus.connect(client.address) as other:
            number = 0
            while not stop.is_set():
                number += 1
                other.set_many({"a/n": number, "b/n": number})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            follows = following(client, "a/*", "b/*")
            a, b = plain(follows)
            for _ in range(500):
                assert a["a/n"] == b["b/n"]
                a, b = now(follows)
            follows.close()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        writer.join()


def test_a_value_that_cannot_be_read(client: udsbus.Client, broker: BrokerProcess) -> None:
    said: list[str] = []
    client.set("a", 1)
    follows = following(client, "*", say=said.append)
    with broker.connect() as raw:
        raw.call("hello", 1)
        raw.call("set", "a", msgpack.packb(msgpack.ExtType(99, b"?")))
    client.set("b", 2)
    wait_until(lambda: now(follows) == [{"a": 1, "b": 2}], "the change")
    assert len(said) == 1
    assert "a value of '*' cannot be read, and is left out: extension type 99" in said[0]
    follows.close()


def test_after_a_lost_bus_the_state_is_that_of_the_next(address: str) -> None:
    with running_broker(address) as broker:
        with udsbus.connect(address) as client:
            client.set_many({"a": 1, "b": 2})
        follows = Following(udsbus.connect(address), ["*"], print)
        broker.kill()
    with running_broker(address), udsbus.connect(address) as client:
        client.set("b", 3)
        wait_until(lambda: now(follows) == [{"b": 3}], "what is there now")
        assert follows.whole
    follows.close()


def test_differences() -> None:
    before = {"a": held(1), "b": held(1), "c": held(1), "d": held("x")}
    after = {"a": held(1, 9), "b": held(True, 7), "c": held(2, 8), "e": held(None, 6)}
    assert differences(before, after) == [
        Difference(7, "updated", "b", True),
        Difference(8, "updated", "c", 2),
        Difference(0, "deleted", "d", None),
        Difference(6, "created", "e", None),
    ]
    assert differences(after, after) == []


def test_of_a_key_of_two_patterns_the_newest_counts() -> None:
    old, new = {"a": held(1, 3)}, {"a": held(2, 4)}
    for watched in ([("*", old), ("a", new)], [("*", new), ("a", old)]):
        assert merged(watched) == new

"""A MessagePack-RPC client that we did not write: pynvim's, as Neovim's Python plugins use it.

It knows nothing of udsbus: no `hello`, no value codec, errors shown by their message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from pynvim.msgpack_rpc import socket_session

from .harness import BrokerProcess

NATIVE = {"native": True}


def until_the_end(session: Any) -> list[Any]:
    """The notifications that come until the broker closes the connection."""
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(session.next_message())
    return messages


@pytest.fixture
def connect(broker: BrokerProcess) -> Iterator[Callable[[], Any]]:
    """Makes sessions. They end with the broker: only so does pynvim close its socket in order."""
    sessions = []

    def session() -> Any:
        sessions.append(socket_session(broker.address))
        return sessions[-1]

    yield session
    broker.process.terminate()
    for one in sessions:
        until_the_end(one)
        one.close()


def test_it_introduces_itself_and_is_not_minded(connect: Callable[[], Any]) -> None:
    """On connecting it sends the notification `nvim_set_client_info`, its name as bytes."""
    session = connect()
    assert session.request("ping") == 0
    counters = session.request("info")["counters"]
    assert (counters["refused"], counters["closed"]) == (1, {})


def test_native_values(connect: Callable[[], Any]) -> None:
    session = connect()
    ports = {"host": "a", "ports": [80, 443]}
    values: list[Any] = [None, True, -5, 2**64 - 1, 1.5, "é", [1, [2]], ports]
    for revision, value in enumerate(values, 1):
        assert session.request("set", "k", value) == revision
        assert session.request("get", "k", NATIVE) == value
        assert session.request("get", "k") == msgpack.packb(value)
        assert session.request("entry", "k", NATIVE) == [value, revision, None]
        assert session.request("items", "**", NATIVE) == [[["k", value, revision]], None]


def test_native_values_together(connect: Callable[[], Any]) -> None:
    session = connect()
    assert session.request("set_many", {"a": b"\x89PNG", "b": [1]}, NATIVE) == 1
    assert session.request("get_many", ["a", "b", "c"], NATIVE) == [b"\x89PNG", [1], None]
    reading = [["get", "a"], ["get", "b"]]
    assert session.request("transaction", [], reading, NATIVE) == [1, [b"\x89PNG", [1]]]


def test_native_bytes(connect: Callable[[], Any]) -> None:
    session = connect()
    session.request("set", "k", b"\x89PNG", NATIVE)
    assert session.request("get", "k", NATIVE) == b"\x89PNG"


def test_an_absent_key(connect: Callable[[], Any]) -> None:
    session = connect()
    assert session.request("get", "k", NATIVE) is None
    assert session.request("exists", "k") is False
    assert session.request("delete", "k") is False


def test_errors_are_shown_as_their_message(connect: Callable[[], Any]) -> None:
    session = connect()
    with pytest.raises(Exception, match=r"^there is no method 'gett'$"):
        session.request("gett", "k")
    with pytest.raises(Exception, match=r"^get: expected the arguments key, then"):
        session.request("get")
    with pytest.raises(Exception, match=r"^ttl must be a number of seconds above 0, not 0$"):
        session.request("set", "k", 1, {"ttl": 0})
    session.request("set", "k", 1)
    with pytest.raises(Exception, match=r"^'k' is at revision 1, not absent$"):
        session.request("set", "k", 2, {"if_revision": 0})
    assert session.request("get", "k", NATIVE) == 1


def test_increment(connect: Callable[[], Any]) -> None:
    one, other = connect(), connect()
    assert one.request("increment", "visits") == 1
    assert other.request("increment", "visits", {"by": 2}) == 3
    assert one.request("get", "visits", NATIVE) == 3


def test_requests_without_an_answer(connect: Callable[[], Any]) -> None:
    session = connect()
    assert session.request("set", "k", "v", async_=True) is None
    assert session.request("no such method", async_=True) is None
    assert session.request("get", "k", NATIVE) == "v"


def test_changes_arrive_one_by_one(connect: Callable[[], Any]) -> None:
    watcher, writer = connect(), connect()
    watch, revision, changes = watcher.request("watch", "lamp/*")
    assert (revision, changes) == (0, [])
    writer.request("set", "lamp/1", "on")
    writer.request("set", "fan/1", "on")
    writer.request("delete", "lamp/1")
    first = watcher.next_message()
    assert (first.type, first.name) == ("notification", "change")
    assert first.args == [1, "created", "lamp/1", msgpack.packb("on")]
    assert watcher.next_message().args == [3, "deleted", "lamp/1", None]
    assert watcher.request("unwatch", watch) is True


def test_changes_and_messages_arrive_in_a_loop(connect: Callable[[], Any]) -> None:
    watcher, writer = connect(), connect()
    watcher.request("watch", "**")
    watcher.request("subscribe", ["news/*"])
    for level in range(5):
        writer.request("set", "level", level)
        assert writer.request("publish", "news/level", level) == 1
    arrived: list[tuple[str, Any]] = []

    def on_notification(name: str, args: list[Any]) -> None:
        arrived.append((name, msgpack.unpackb(args[-1])))
        if len(arrived) == 10:
            watcher.stop()

    watcher.run(None, on_notification)
    assert arrived == [(name, level) for level in range(5) for name in ("change", "message")]


def test_a_request_from_within_a_notification(connect: Callable[[], Any]) -> None:
    """What a plugin does: told of a change, it asks for more before the loop goes on."""
    watcher, writer = connect(), connect()
    watcher.request("watch", "config/version")
    writer.request("set_many", {"config/colour": "blue", "config/version": 1})
    answers = []

    def on_notification(name: str, args: list[Any]) -> None:
        answers.append(watcher.request("get", "config/colour", NATIVE))
        watcher.stop()

    watcher.run(None, on_notification)
    assert answers == ["blue"]


def test_changes_that_come_while_it_waits_for_a_response(connect: Callable[[], Any]) -> None:
    session = connect()
    session.request("watch", "**")
    assert session.request("set", "k", 1) == 1
    assert session.request("set", "k", 2) == 2
    assert session.next_message().args[:3] == [1, "created", "k"]
    assert session.next_message().args[:3] == [2, "updated", "k"]


def test_it_is_told_why_the_connection_ends(
    connect: Callable[[], Any], broker: BrokerProcess
) -> None:
    session = connect()
    session.request("ping")
    broker.process.terminate()
    (closing,) = until_the_end(session)
    assert closing.name == "closing"
    assert closing.args == ["shutdown", "the broker is stopping"]

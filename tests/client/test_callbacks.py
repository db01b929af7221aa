"""Functions called for changes."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, wait_until
from udsbus import Change, Client

from .support import PATIENCE, Task, take_number


class Calls(list[Change]):
    """Notes the changes that it is called with."""

    def __call__(self, change: Change) -> None:
        self.append(change)

    def wait_for(self, *values: object) -> None:
        wait_until(lambda: self.values()[-len(values) :] == list(values), f"calls for {values}")

    def values(self) -> list[object]:
        return [change.value for change in self]


def test_as_a_decorator_it_returns_the_function(client: Client) -> None:
    calls = Calls()

    @client.on_change("a/*")
    def function(change: Change) -> None:
        calls.append(change)

    assert function.__name__ == "function"
    revision = client.set("a/b", 1)
    client.set("elsewhere", 1)
    client.delete("a/b")
    calls.wait_for(1, None)
    assert calls == [
        Change(revision, "created", "a/b", 1),
        Change(revision + 2, "deleted", "a/b", None),
    ]


def test_with_a_function_it_returns_the_watch(client: Client) -> None:
    calls = Calls()
    client.set("a", 0)
    watch = client.on_change("a", calls, initial=True)
    calls.wait_for(0)
    assert calls[0].kind == "present"
    client.set("a", 1)
    calls.wait_for(0, 1)
    watch.close()
    client.set("a", 2)
    with client.watch("b") as other:
        client.set("b", 3)
        take_number(other, 1)
    assert calls.values() == [0, 1]


def test_initial_of_the_decorator(client: Client) -> None:
    calls = Calls()
    client.set("a", 1)
    client.on_change("a", initial=True)(calls)
    calls.wait_for(1)


def test_one_at_a_time_in_order_and_in_a_thread_of_their_own(client: Client) -> None:
    running = 0
    seen: list[tuple[int, int]] = []

    def function(change: Change) -> None:
        nonlocal running
        running += 1
        assert running == 1
        seen.append((change.value, threading.get_ident()))
        client.get("a")  # and they may use the client
        running -= 1

    client.on_change("a", function)
    client.on_change("**", function)
    for number in range(200):
        client.set("a", number)
    wait_until(lambda: len(seen) == 400, "400 calls")
    assert sorted(number for number, _ in seen) == sorted([*range(200)] * 2)
    assert len({thread for _, thread in seen}) == 1
    assert threading.get_ident() != seen[0][1]


def test_an_exception_is_logged_and_the_watch_goes_on(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    @client.on_change("a")
    def function(change: Change) -> None:
        calls.append(change)
        raise ZeroDivisionError(change.value)

    client.set("a", 1)
    client.set("a", 2)
    calls.wait_for(1, 2)
    wait_until(lambda: len(caplog.records) == 2, "both to be logged")
    assert "on_change('a'): " in caplog.text
    assert "failed; it is called for the next all the same" in caplog.text
    assert "ZeroDivisionError: 1\n" in caplog.text
    assert "ZeroDivisionError: 2\n" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_sys_exit_ends_no_more_than_the_call(client: Client) -> None:
    """Python drops a SystemExit in a thread without a word, and with it the thread."""
    calls = Calls()

    @client.on_change("a")
    def function(change: Change) -> None:
        raise SystemExit

    client.on_change("b", calls)
    client.set("a", 1)
    client.set("b", 2)
    calls.wait_for(2)


def test_an_undecodable_value_is_logged_and_the_watch_goes_on(
    client: Client, bus: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    client.on_change("a", calls)
    with RawClient(bus.address) as raw:
        raw.call("set", "a", b"\xc1")
    client.set("a", 1)
    calls.wait_for(1)
    assert "are no value that this version reads" in caplog.text


def test_a_callback_may_start_a_watch_and_a_callback(client: Client) -> None:
    calls, inner = Calls(), Calls()

    @client.on_change("a")
    def function(change: Change) -> None:
        client.on_change("b", inner)
        with client.watch("c") as watch, client.subscribe("c"):
            client.set("c", change.value)
            calls.append(take_number(watch, 1)[0])

    client.set("a", 1)
    calls.wait_for(1)
    client.set("b", 2)
    inner.wait_for(2)


def test_a_callback_may_close_its_watch(client: Client) -> None:
    """What has come in meanwhile is not for it any more."""
    calls = Calls()
    others = Calls()
    go_on = threading.Event()

    def function(change: Change) -> None:
        go_on.wait(PATIENCE)
        calls(change)
        watch.close()

    watch = client.on_change("a", function)
    client.on_change("a", others)
    client.set("a", 1)
    client.set("a", 2)
    client.set("a", 3)
    go_on.set()
    others.wait_for(1, 2, 3)
    client.set("a", 4)
    others.wait_for(4)
    assert calls.values() == [1]


def test_a_callback_may_close_the_client(bus: BrokerProcess) -> None:
    calls = Calls()
    closed = threading.Event()
    client = udsbus.connect(bus.address)

    @client.on_change("a")
    def function(change: Change) -> None:
        calls(change)
        client.close()
        closed.set()

    with udsbus.connect(bus.address) as writer:
        with writer.pipeline() as p:
            for number in range(5):
                p.set("a", number)
        assert closed.wait(PATIENCE)
        writer.delete("a")
    wait_until(
        lambda: "udsbus-callbacks" not in {thread.name for thread in threading.enumerate()},
        "the thread to end",
    )
    assert calls.values() == [0]


def test_close_waits_for_a_running_callback(bus: BrokerProcess) -> None:
    """And there is none afterwards."""
    entered, go_on = threading.Event(), threading.Event()
    calls = Calls()
    client = udsbus.connect(bus.address)

    @client.on_change("a")
    def function(change: Change) -> None:
        entered.set()
        go_on.wait(PATIENCE)
        calls(change)

    for number in range(3):
        client.set("a", number)
    assert entered.wait(PATIENCE)
    closing = Task(client.close)
    go_on.set()
    closing.result()
    assert calls.values() == [0]
    with udsbus.connect(bus.address) as cleaner:
        cleaner.delete("a")


def test_close_does_not_wait_for_ever(bus: BrokerProcess) -> None:
    entered, go_on = threading.Event(), threading.Event()
    client = udsbus.connect(bus.address)

    @client.on_change("a")
    def function(change: Change) -> None:
        entered.set()
        go_on.wait()

    client.set("a", 1)
    assert entered.wait(PATIENCE)
    Task(client.close).result(PATIENCE / 2)
    go_on.set()
    with udsbus.connect(bus.address) as cleaner:
        cleaner.delete("a")


def test_callbacks_go_on_though_nobody_holds_the_client(bus: BrokerProcess) -> None:
    """Whoever registered a function wants it to be called."""
    calls = Calls()

    def register() -> weakref.ref[Client]:
        client = udsbus.connect(bus.address)
        client.on_change("a", calls)
        return weakref.ref(client)

    forgotten = register()
    gc.collect()
    with udsbus.connect(bus.address) as writer:
        writer.set("a", 1)
        calls.wait_for(1)
        writer.delete("a")
    client = forgotten()
    assert client is not None
    client.close()  # else it would go on in every later test


def test_a_refused_callback_leaves_nothing_behind(client: Client) -> None:
    with pytest.raises(udsbus.InvalidRequest):
        client.on_change("a*", print)
    with pytest.raises(udsbus.InvalidRequest):
        client.on_change("a*")(print)
    calls = Calls()
    client.on_change("a", calls)
    client.set("a", 1)
    calls.wait_for(1)


def test_functions_are_called_again_when_there_are_descriptors_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    client.on_change("a", lambda change: called.append(change.value))
    failures, pipe = iter([24]), os.pipe

    def none_left() -> tuple[int, int]:
        for number in failures:
            raise OSError(number, "Too many open files")
        return pipe()

    monkeypatch.setattr(os, "pipe", none_left)
    client.set("a", 1)
    wait_until(lambda: called == [1], "the call")

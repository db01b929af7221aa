"""What a watch tells on request: transactions as such, previous values, the end of the initial
state, what was missed; and what it leaves out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus import CaughtUp, Change, Client, InvalidRequest, MissedChanges, UnsupportedValue, Watch
from udsbus.limits import VALUE_BYTES

from .support import PATIENCE, FakeBroker, Proxy, Task, catches_up, in_child, take, take_number


def fill_log(client: Client) -> None:
    """Let the broker forget all changes that there were."""
    for _ in range(2):
        with client.pipeline() as p:
            for number in range(9_000):
                p.set("elsewhere", number)


def what(changes: list[Change]) -> list[tuple[str, str, Any]]:
    return [(change.kind, change.key, change.value) for change in changes]


# --- together -----------------------------------------------------------------------------------


def test_the_changes_of_a_transaction_come_together(client: Client) -> None:
    with client.watch("a/*") as watch:
        first = client.set_many({"a/1": 1, "b": 1, "a/2": 2})
        with client.transaction() as t:
            t.delete("a/1")
            t.set("a/2", 3)
            t.set("elsewhere", 0)
        client.set("b", 2)
        last = client.set("a/3", 3)
        told = [watch.get_transaction(PATIENCE) for _ in range(3)]
        assert watch.get_transaction(timeout=0) == []
    assert told == [
        [Change(first, "created", "a/1", 1), Change(first, "created", "a/2", 2)],
        [Change(first + 1, "deleted", "a/1", None), Change(first + 1, "updated", "a/2", 3)],
        [Change(last, "created", "a/3", 3)],
    ]
    assert watch.get_transaction() == []


def test_the_rest_of_a_transaction(client: Client) -> None:
    with client.watch("a/*") as watch:
        client.set_many({"a/1": 1, "a/2": 2, "a/3": 3})
        first = watch.get(PATIENCE)
        assert first is not None
        assert first.key == "a/1"
        assert [change.key for change in watch.get_transaction(PATIENCE)] == ["a/2", "a/3"]


def test_a_transaction_with_an_unreadable_value(client: Client, bus: BrokerProcess) -> None:
    """It is told, and the rest of the transaction is not lost."""
    with client.watch("a/*") as watch, RawClient(bus.address) as raw:
        raw.call("set_many", {"a/1": b"\x01", "a/2": b"\xc1", "a/3": b"\x03"})
        with pytest.raises(UnsupportedValue):
            watch.get_transaction(PATIENCE)
        assert [change.key for change in watch.get_transaction(PATIENCE)] == ["a/1", "a/3"]


def test_the_initial_state_comes_in_one_piece(client: Client) -> None:
    values = {f"a/{number:04}": number for number in range(1_500)}
    for key in ("a/0000", "a/0001"):
        client.set(key, 0)
    revision = client.set_many(values)
    with client.watch("a/*", initial=True) as watch:
        client.set_many({"a/0000": 1, "a/0001": 1})
        state, caught_up, changes = (watch.get_transaction(PATIENCE) for _ in range(3))
    assert what([each for each in state if isinstance(each, Change)]) == [
        ("present", *item) for item in values.items()
    ]
    assert caught_up == [CaughtUp(revision)]
    assert [each.revision for each in changes] == [revision + 1] * 2


def test_large_changes_of_one_revision_come_together(client: Client) -> None:
    """More than fit in one notification."""
    with client.watch("a/*", previous=True) as watch:
        for fill in (b"x", b"y"):
            with client.transaction() as t:
                for number in range(3):
                    t.set(f"a/{number}", fill * (15 << 20))
            changes = watch.get_transaction(PATIENCE)
            assert [change.key for change in changes] == ["a/0", "a/1", "a/2"]
            assert {change.value[:1] for change in changes} == {fill}
        assert {change.previous[:1] for change in changes} == {b"x"}


def test_the_largest_change_there_may_be(client: Client) -> None:
    """With the value before it, nearly twice a value of any size."""
    size = VALUE_BYTES - 5
    with client.watch("a", previous=True) as watch:
        client.set("a", b"x" * size)
        client.set("a", b"y" * size)
        changes = take_number(watch, 2)
        assert [len(changes[1].value), len(changes[1].previous)] == [size, size]
        assert watch.started_over == 0
        assert watch.state == "live"


# --- in detail ----------------------------------------------------------------------------------


def test_the_value_before(client: Client, bus: BrokerProcess) -> None:
    with client.watch("a", previous=True) as watch, client.watch("a") as other:
        client.set("a", 1)
        client.set("a", [2])
        client.increment("n")
        client.set("a", None, ttl=0.01)
        take(watch, lambda change: change.kind == "expired")
        client.set("a", 3)
        client.delete("a")
        with udsbus.connect(bus.address) as owner:
            owner.set("a", 4, ephemeral=True)
        changes = take(other, lambda change: change.kind == "released")
        assert {change.previous for change in changes} == {None}
    with client.watch("a", from_revision=changes[0].revision - 1, previous=True) as again:
        told = [(change.kind, change.previous) for change in take_number(again, len(changes))]
    assert told == [
        ("created", None), ("updated", 1), ("updated", [2]), ("expired", None),
        ("created", None), ("deleted", 3), ("created", None), ("released", 4),
    ]  # fmt: skip


def test_live_changes_have_the_value_before(client: Client) -> None:
    with client.watch("a/*", previous=True) as watch:
        client.set("a/1", 1)
        client.set("a/1", 2)
        client.set_many({"a/1": 3, "a/2": 3})
        client.delete("a/1")
        told = [(change.key, change.value, change.previous) for change in take_number(watch, 5)]
    assert told == [
        ("a/1", 1, None), ("a/1", 2, 1), ("a/1", 3, 2), ("a/2", 3, None), ("a/1", None, 3),
    ]  # fmt: skip


def test_kinds(client: Client) -> None:
    with (
        client.watch("a/*", kinds=["deleted", "expired"]) as goes,
        client.watch("a/*", kinds=("created",), initial=True) as comes,
        client.watch("b/*") as other,
    ):
        client.set("a/1", 1)
        client.set("a/1", 2)
        client.set("a/2", 1, ttl=0.01)
        client.delete("a/1")
        take_number(goes, 2)
        client.set("a/1", 3)
        client.set("b/1", 1)
        assert what(take_number(other, 1)) == [("created", "b/1", 1)]
        catches_up(comes)
        assert [change.value for change in take_number(comes, 3)] == [1, 1, 3]
        assert [comes.get(timeout=0), goes.get(timeout=0)] == [None, None]


def test_the_initial_state_is_told_whatever_the_kinds(client: Client) -> None:
    client.set("a/1", 1)
    with client.watch("a/*", initial=True, kinds=["deleted"], ignore_own=True) as watch:
        assert what(take_number(watch, 1)) == [("present", "a/1", 1)]
        catches_up(watch)


@pytest.mark.parametrize("kinds", [["created", "present"], [], "created", 7])
def test_kinds_that_are_none(client: Client, kinds: Any) -> None:
    with pytest.raises(InvalidRequest, match="created, updated, deleted, expired, released"):
        client.watch("a", kinds=kinds)
    assert client.info()["watches"] == 0


def test_ones_own_changes_are_ignored(client: Client, bus: BrokerProcess) -> None:
    """Those of any thread, and in no other watch. What expires is nobody's."""
    with (
        udsbus.connect(bus.address) as other,
        client.watch("a/*", ignore_own=True) as watch,
        client.watch("a/*") as everything,
        other.watch("a/*", ignore_own=True) as theirs,
    ):
        client.set("a/1", 1)
        other.set("a/2", 2)
        Task(lambda: client.set("a/1", 3)).result()
        with client.transaction() as t:
            t.set("a/1", 4)
            t.set("a/2", 4)
        other.set("a/3", 5, ttl=0.01)
        changes = take(everything, lambda change: change.kind == "expired")
        other.set("a/2", 6)
        client.set("a/1", 7)
        assert [change.value for change in changes] == [1, 2, 3, 4, 4, 5, None]
        assert [change.value for change in take_number(watch, 4)] == [2, 5, None, 6]
        assert [change.value for change in take_number(theirs, 6)] == [1, 3, 4, 4, None, 7]
        assert [watch.get(timeout=0), theirs.get(timeout=0)] == [None, None]


def test_a_child_is_another(client: Client) -> None:
    """What its parent does is not its own."""
    with client.watch("a", ignore_own=True) as watch:

        def work() -> list[int]:
            client.set("a", 1)
            with udsbus.connect(client.address) as third:
                third.set("a", 2)
            found = watch.get(PATIENCE)
            assert found is not None
            ready = client.publish("ready", 0)
            assert ready
            return [found.value, take_number(watch, 1)[0].value]

        def parent() -> None:
            with client.subscribe("ready") as ready:
                begun.set()
                ready.get(PATIENCE)
                client.set("a", 3)

        begun = threading.Event()
        task = Task(parent)
        assert begun.wait(PATIENCE)
        assert in_child(work) == [2, 3]
        task.result()
        assert [change.value for change in take_number(watch, 2)] == [1, 2]


# --- what was missed ------------------------------------------------------------------------------


@pytest.fixture
def proxied(bus: BrokerProcess, runtime: Any) -> Any:
    address = str(runtime / "proxy.sock")
    with Proxy(address, bus.address) as proxy, udsbus.connect(address, timeout=PATIENCE) as own:
        yield proxy, own


def test_a_strict_watch_raises_once_what_it_has_missed(
    client: Client, proxied: tuple[Proxy, Client]
) -> None:
    proxy, own = proxied
    seen = client.set_many({"a/1": 1, "a/2": 2})
    with own.watch("a/*", initial=True, strict=True) as watch:
        take_number(watch, 2)
        assert catches_up(watch) == CaughtUp(seen)
        with proxy.closed():
            client.delete("a/2")
            fill_log(client)
            revision = client.revision()
        with pytest.raises(MissedChanges) as missed:
            watch.get(PATIENCE)
        assert missed.value.details == {"after_revision": seen, "revision": revision}
        assert what(take_number(watch, 2)) == [("present", "a/1", 1), ("deleted", "a/2", None)]
        assert catches_up(watch) == CaughtUp(revision)
        assert watch.started_over == 1
        client.set("a/1", 3)
        assert [change.value for change in take_number(watch, 1)] == [3]


def test_a_loop_over_a_strict_watch_can_go_on(client: Client) -> None:
    revision = client.set("a", 1)
    fill_log(client)
    with client.watch("a", from_revision=revision - 1, strict=True) as watch:
        with pytest.raises(MissedChanges, match="were missed"):
            for _ in watch:
                pass
        assert [next(iter(watch)).kind for _ in range(1)] == ["present"]
        client.set("a", 2)
        assert [change.value for change in watch.get_transaction(PATIENCE)] == [2]


def test_nothing_is_raised_where_nothing_was_missed(
    client: Client, proxied: tuple[Proxy, Client]
) -> None:
    """Also by an idle watch, if another of the client has seen what the broker has forgotten."""
    proxy, own = proxied
    with (
        own.watch("a", strict=True, initial=True) as watch,
        own.watch("elsewhere", conflate=True) as busy,
    ):
        catches_up(watch)
        with proxy.closed():
            client.set("a", 1)
        assert [change.value for change in take_number(watch, 1)] == [1]
        fill_log(client)
        last = client.set("elsewhere", "end")
        take(busy, lambda change: change.revision == last)
        proxy.cut()
        client.set("a", 2)
        assert [change.value for change in take_number(watch, 1)] == [2]
        assert watch.started_over == 0


def test_without_initial_nothing_tells_the_end_of_a_state(client: Client) -> None:
    revision = client.set("a", 1)
    fill_log(client)
    with client.watch("a", from_revision=revision - 1) as watch:
        assert watch.started_over == 1
        assert what(take_number(watch, 1)) == [("present", "a", 1)]
        assert watch.get(timeout=0) is None


def test_functions_get_changes_only(client: Client) -> None:
    called: list[Any] = []
    client.set("a", 1)
    client.on_change("a", called.append, initial=True)
    client.set("a", 2)
    wait_until(lambda: len(called) == 2, "the calls")
    assert [type(each) for each in called] == [Change, Change]


# --- conflation -----------------------------------------------------------------------------------


def test_caught_up_comes_behind_what_took_the_place_of_the_state(client: Client) -> None:
    """Else a slow consumer would take himself to know all when he does not."""
    client.set_many({"a/1": 1, "a/2": 1})
    with client.watch("a/*", initial=True, conflate=True) as watch, client.watch("a/*") as other:
        client.set("a/1", 2)
        client.set("a/3", 2)
        take_number(other, 2)
        wait_until(lambda: watch.waiting == 4, "what is told")
        told = [watch.get(PATIENCE) for _ in range(4)]
    keys = [each.key if isinstance(each, Change) else each for each in told]
    assert keys[:2] == ["a/2", "a/1"]
    assert isinstance(keys[2], CaughtUp)
    assert keys[3] == "a/3"
    assert watch.skipped == 1


# --- its state ------------------------------------------------------------------------------------


def test_the_state_of_a_watch(address: str) -> None:
    with running_broker(address):
        client = udsbus.connect(address, timeout=PATIENCE)
        watch, other = client.watch("a/*", initial=True), client.watch("b")
        assert [watch.state, other.state] == ["live", "live"]
    wait_until(lambda: watch.state == other.state == "interrupted", "the end to be noticed")
    with running_broker(address):
        wait_until(lambda: watch.state == other.state == "live", "them to be taken up again")
        watch.close()
        assert [watch.state, other.state] == ["closed", "live"]
        client.close()
        assert other.state == "closed"


def test_the_state_while_it_begins(address: str) -> None:
    """The call waits, so only another thread can see it."""

    def answer(method: str, params: list[Any]) -> Any:
        come[method].set()
        assert go_on[method].wait(PATIENCE)
        return [1, 5, []] if method == "watch" else [[], None]

    come, go_on = ({name: threading.Event() for name in ("watch", "items")} for _ in range(2))
    with FakeBroker(address, answer), udsbus.connect(address, timeout=PATIENCE) as client:
        task = Task(lambda: client.watch("a", initial=True))
        states = []
        for method in ("watch", "items"):
            assert come[method].wait(PATIENCE)
            (watch,) = client._events.followers()
            assert isinstance(watch, Watch)
            states.append(watch.state)
            go_on[method].set()
        states.append(task.result().state)
        assert states == ["starting", "listing", "live"]


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param(b"\xc1", id="rubbish"),
        pytest.param(b"\x94\x01\x01\xc0\xc0", id="no map"),
        pytest.param(b"\x94\x01\x01\xc0\x80", id="an empty map"),
        pytest.param(b"\x94\x01\x01\x01\xc0", id="an error of another form"),
        pytest.param(b"\x94\x01\xcd\x03\xe8\xc0\x80", id="an answer to nothing"),
        pytest.param(b"\x93\x02\xa6change\x91\x01", id="half a change"),
        pytest.param(b"\x93\x02\xa7changes\xc0", id="no changes"),
        pytest.param(b"\x93\x02\xa7closing\x90", id="a goodbye of nobody"),
    ],
)
def test_a_reconnection_that_fails_is_tried_again(address: str, hello: bytes) -> None:
    """However it fails: the event thread lives on."""

    def answer(method: str, params: list[Any]) -> Any:
        return [1, 5, []]

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        watch = client.watch("a")
        broker.hello = hello
        before = len(broker.sent)
        broker.hang_up()
        wait_until(lambda: len(broker.sent) > before + 2, "it to try, and again")
        states = [watch.state]
        broker.hello = None
        wait_until(lambda: watch.state == "live", "it to succeed")
        assert states == ["interrupted"]


@pytest.mark.parametrize("close", [Client.close, lambda client: client._watches[0].close()])
def test_close_in_a_function_that_is_called(
    bus: BrokerProcess, close: Callable[[Any], None]
) -> None:
    with udsbus.connect(bus.address, timeout=PATIENCE) as client:

        def function(change: Change) -> None:
            close(client)
            called.append(change.value)

        called: list[int] = []
        client._watches = [client.on_change("a", function)]  # type: ignore[attr-defined]
        with udsbus.connect(bus.address) as other:
            other.set("a", 1)
            wait_until(lambda: called, "the call")
            other.set("a", 2)
            other.delete("a")
        assert client._watches[0].state == "closed"  # type: ignore[attr-defined]
        assert called == [1]

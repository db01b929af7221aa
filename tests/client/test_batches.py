"""Transactions and pipelines."""

from __future__ import annotations

from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient
from udsbus import (
    BrokerUnavailable,
    Client,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    UnsupportedValue,
)

from .support import FakeBroker, Hangup, in_children, take_number

# --- transactions -------------------------------------------------------------------------------


def test_a_transaction_is_one_revision(client: Client) -> None:
    revision = client.set("a", 1)
    client.set("gone", 1)
    with client.watch("**") as watch:
        with client.transaction() as t:
            t.check("a", revision)
            t.check("new", 0)
            before = t.get("a")
            absent = t.get("absent", "nothing")
            written = t.set("new", [1], ttl=1_000)
            after = t.get("new")
            deleted = t.delete("gone")
            number = t.increment("n", 5)
        told = take_number(watch, 3)
    assert (before.value, absent.value, after.value) == (1, "nothing", [1])
    assert (deleted.value, number.value) == (True, 5)
    assert t.revision == written.value == revision + 2
    assert {change.revision for change in told} == {t.revision}
    assert {(change.kind, change.key) for change in told} == {
        ("created", "new"),
        ("deleted", "gone"),
        ("created", "n"),
    }
    assert client.ttl("new") is not None


@pytest.mark.parametrize("way", ["check", "set", "delete"])
def test_a_failed_transaction_does_nothing(client: Client, way: str) -> None:
    client.set("a", 1)
    t = client.transaction()
    with pytest.raises(Conflict, match="'a' is at revision") as caught, t:
        result = t.set("b", 2)
        if way == "check":
            t.check("a", 0)
        elif way == "set":
            t.set("a", 3, if_revision=0)
        else:
            t.delete("a", if_revision=0)
    assert caught.value.details["key"] == "a"
    assert t.revision is None
    assert client.items() == [("a", 1)]
    with pytest.raises(Conflict):
        result.value  # noqa: B018


def test_set_if_changed_in_a_transaction(client: Client) -> None:
    revision = client.set("a", 1)
    with client.transaction() as t:
        same = t.set("a", 1, if_changed=True)
    assert same.value == revision
    assert client.revision() == revision


def test_transactions_are_isolated(bus: BrokerProcess, client: Client) -> None:
    """Money goes round between two accounts; each look at both sees all of it."""
    client.set_many({"a": 1_000, "b": 0})

    def move() -> None:
        with udsbus.connect(bus.address) as own:
            for _ in range(300):
                with own.transaction() as t:
                    t.increment("a", -1)
                    t.increment("b")

    def look() -> set[int]:
        with udsbus.connect(bus.address) as own:
            return {sum(own.get_many(["a", "b"]).values()) for _ in range(600)}

    assert in_children(move, look, move) == [None, {1_000}, None]
    assert client.get_many(["a", "b"]) == {"a": 400, "b": 600}


# --- pipelines ----------------------------------------------------------------------------------


def test_a_pipeline_has_the_methods_of_the_client(client: Client) -> None:
    with client.subscribe("news") as news:
        with client.pipeline() as p:
            results = [
                p.get("a"),
                p.get("a", 0),
                p.exists("a"),
                p.set("a", 1, if_revision=0),
                p.entry("a"),
                p.expire("a", 1_000),
                p.ttl("a"),
                p.persist("a"),
                p.ttl("a"),
                p.increment("a", 2),
                p.set("a", 3, if_changed=True),
                p.delete("a"),
                p.delete("a", if_revision=0),
                p.publish("news", "hello"),
            ]
        message = news.get(timeout=10)
    revision = client.revision()
    values = [result.value for result in results]
    left = values.pop(6)
    assert 900 < left < 1_000.001  # both at one time, of which floats are not exact
    assert values == [
        None, 0, False, revision - 2, (1, revision - 2, None), True, True, None, 3, revision - 1,
        True, False, 1,
    ]  # fmt: skip
    assert message == udsbus.Message("news", "hello")


def test_a_pipeline_goes_on_after_a_refusal(client: Client) -> None:
    p = client.pipeline()
    with pytest.raises(Conflict, match="'a' is at revision") as caught, p:
        first = p.set("a", 1)
        second = p.set("a", 2, if_revision=0)
        third = p.get("a/*")
        fourth = p.increment("b")
    assert caught.value.__notes__ == ["request 2 of 4 in the pipeline"]
    assert (first.value, fourth.value) == (client.revision() - 1, 1)
    with pytest.raises(Conflict):
        second.value  # noqa: B018
    with pytest.raises(InvalidRequest, match="only patterns do"):
        third.value  # noqa: B018
    assert client.get("a") == 1


def test_what_cannot_be_sent_in_a_large_pipeline(client: Client) -> None:
    """Either nothing is sent, or all others are carried out."""
    p = client.pipeline()
    with pytest.raises(InvalidRequest), p:
        first = p.set("first", 1)
        for number in range(1_000):
            p.set(f"a/{number}", number)
        p.set("\ud800", 1)
    if client.count():
        assert client.count() == 1_001
        assert first.value > 0


def test_a_large_pipeline(client: Client) -> None:
    """Far more, both ways, than the sockets hold: the broker stops reading while its replies are
    not taken."""
    value = "x" * 2_000
    with client.pipeline() as p:
        written = [p.set(f"a/{number}", [number, value]) for number in range(10_000)]
        read = [p.get(f"a/{number}") for number in range(10_000)]
    assert [result.value for result in read] == [[number, value] for number in range(10_000)]
    assert [result.value for result in written] == list(
        range(written[0].value, written[0].value + 10_000)
    )


def test_a_pipeline_that_reads_more_than_a_response_holds(client: Client) -> None:
    """In order all the same: each read sees the writes before it, and none after it."""
    value = "x" * 300_000
    with client.pipeline() as p:
        results: list[Any] = []
        for number in range(1_000):
            p.set("n", number)
            if number % 40 == 0:
                p.set("large", [number, value])
            if number % 10 == 0:
                results += [p.get("large"), p.get("n")]
    read = [result.value for result in results]
    assert read[1::2] == list(range(0, 1_000, 10))
    assert read[::2] == [[number // 40 * 40, value] for number in range(0, 1_000, 10)]


def test_refusals_in_every_frame_of_a_pipeline(client: Client) -> None:
    with pytest.raises(Conflict) as caught, client.pipeline() as p:
        results = [
            p.set("a", number, if_revision=None if number % 100 else 1_000_000)
            for number in range(1_000)
        ]
    assert caught.value.__notes__ == ["request 1 of 1000 in the pipeline"]
    for number, result in enumerate(results):
        if number % 100:
            assert result.value > 0
        else:
            with pytest.raises(Conflict):
                assert result.value


def test_an_empty_pipeline_sends_nothing(client: Client) -> None:
    before = client.info()["counters"]["requests"]
    with client.pipeline():
        pass
    assert client.info()["counters"]["requests"] == before + 1


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transaction", "pipeline"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_left_by_an_exception_sends_nothing(
    client: Client, kind: str, error: type[BaseException]
) -> None:
    before = client.info()["counters"]["requests"]
    with pytest.raises(error), getattr(client, kind)() as batch:
        result = batch.set("a", 1)
        raise error
    assert client.info()["counters"]["requests"] == before + 1
    with pytest.raises(InvalidRequest, match="nothing was sent"):
        result.value  # noqa: B018
    assert client.count() == 0


@pytest.mark.parametrize("kind", ["transaction", "pipeline"])
def test_what_has_ended_takes_no_more(client: Client, kind: str) -> None:
    """It would not be sent, or all would be sent again."""
    with getattr(client, kind)() as batch:
        batch.increment("n")
    with pytest.raises(InvalidRequest, match="begin another"):
        batch.increment("n")
    with pytest.raises(InvalidRequest, match="begin another"), batch:
        pass
    assert client.get("n") == 1


def test_a_pipeline_that_breaks_off_keeps_what_was_answered(address: str) -> None:
    answered = 0

    def answer(method: str, params: list[Any]) -> Any:
        nonlocal answered
        answered += 1
        if answered > 600:
            broker.bus = "another"
            raise Hangup
        return answered

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match="nobody knows"), client.pipeline() as p:
            results = [p.increment("n") for _ in range(1_000)]
    assert [result.value for result in results[:512]] == list(range(1, 513))
    for result in results[512:]:
        with pytest.raises(BrokerUnavailable, match="nobody knows"):
            result.value  # noqa: B018


@pytest.mark.parametrize("kind", ["transaction", "pipeline"])
def test_a_result_is_there_when_the_block_has_ended(client: Client, kind: str) -> None:
    with getattr(client, kind)() as batch:
        result = batch.increment("a")
        with pytest.raises(InvalidRequest, match="when the with block has ended"):
            result.value  # noqa: B018
        assert repr(result) == "<Result: not there yet>"
    assert result.value == 1
    assert repr(result) == "<Result: 1>"


def test_the_repr_of_a_refused_result_is_its_error(client: Client) -> None:
    p = client.pipeline()
    with pytest.raises(LimitExceeded), p:
        result = p.get("k" * 2_000)
    assert repr(result).startswith("<Result: LimitExceeded(")


@pytest.mark.parametrize("kind", ["transaction", "pipeline"])
def test_a_value_that_cannot_be_sent_is_refused_at_once(client: Client, kind: str) -> None:
    with getattr(client, kind)() as batch:
        with pytest.raises(UnsupportedValue):
            batch.set("a", object())
        batch.set("a", 1)
    assert client.items() == [("a", 1)]


def test_a_value_that_cannot_be_read_does_not_hide_what_a_pipeline_did(
    client: Client, bus: BrokerProcess
) -> None:
    with RawClient(bus.address) as raw:
        raw.call("set", "bad", b"\xc1")
    p = client.pipeline()
    with pytest.raises(UnsupportedValue), p:
        written = p.set("a", 1)
        bad = p.get("bad")
    assert written.value == client.revision()
    with pytest.raises(UnsupportedValue):
        bad.value  # noqa: B018


def test_a_value_that_cannot_be_read_does_not_hide_that_a_transaction_was_carried_out(
    client: Client, bus: BrokerProcess
) -> None:
    with RawClient(bus.address) as raw:
        raw.call("set", "bad", b"\xc1")
    t = client.transaction()
    with pytest.raises(UnsupportedValue), t:
        written = t.set("a", 1)
        bad = t.get("bad")
    assert client.get("a") == 1
    assert t.revision == written.value == client.revision()
    with pytest.raises(UnsupportedValue):
        bad.value  # noqa: B018


@pytest.mark.parametrize("kind", ["pipeline", "transaction"])
def test_a_block_within_its_own_block_is_a_mistake(client: Client, kind: str) -> None:
    """The inner end would send what the outer one goes on adding to."""
    with getattr(client, kind)() as many:
        with pytest.raises(InvalidRequest, match="begun already"), many:
            pass
        result = many.set("a", 1)
    assert result.value
    assert client.get("a") == 1

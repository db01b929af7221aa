"""The methods of a client, one after the other, against a real broker."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess
from udsbus import (
    AccessDenied,
    Change,
    Client,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    RequestTimeout,
    UnsupportedValue,
)
from udsbus.limits import FRAME_BYTES, PAGE_KEYS, PAGE_SCAN

from .support import in_children, take

# --- reading ------------------------------------------------------------------------------------


def test_get_returns_the_value_or_the_default(client: Client) -> None:
    assert client.get("a") is None
    assert client.get("a", 5) == 5
    client.set("a", "there")
    assert client.get("a", 5) == "there"


def test_a_stored_none_is_not_absence(client: Client) -> None:
    client.set("a", None)
    assert client.get("a", 5) is None
    assert client.exists("a")
    assert client.get_many(["a", "b"]) == {"a": None}
    assert client.items() == [("a", None)]
    assert client.entry("a") is not None


def test_entry_knows_revision_and_time_left(client: Client) -> None:
    assert client.entry("a") is None
    revision = client.set("a", [1])
    assert client.entry("a") == ([1], revision, None)
    client.set("a", [2], ttl=1_000)
    entry = client.entry("a")
    assert entry is not None
    assert entry.value == [2]
    assert entry.revision == revision + 1
    assert entry.ttl is not None
    assert 900 < entry.ttl <= 1_000


def test_exists(client: Client) -> None:
    assert client.exists("a") is False
    client.set("a", 1)
    assert client.exists("a") is True


def test_get_many_leaves_out_what_is_absent(client: Client) -> None:
    client.set_many({"a": 1, "b": 2, "c": 3})
    assert client.get_many(["c", "x", "a"]) == {"c": 3, "a": 1}
    assert client.get_many(key for key in "ab") == {"a": 1, "b": 2}
    assert client.get_many([]) == {}


# --- writing ------------------------------------------------------------------------------------


def test_set_returns_the_revision(client: Client) -> None:
    before = client.revision()
    assert client.set("a", 1) == before + 1
    assert client.set("a", 1) == before + 2
    assert client.revision() == before + 2


def test_set_with_ttl_expires_and_without_it_stays(client: Client) -> None:
    with client.watch("**") as watch:
        client.set("lasting", 1, ttl=0.05)
        client.set("lasting", 2)
        client.set("brief", 3, ttl=0.05)
        assert client.get("brief") == 3
        changes = take(watch, lambda change: change.kind == "expired")
    assert changes[-1] == Change(changes[-2].revision + 1, "expired", "brief", None)
    assert not client.exists("brief")
    assert client.get("lasting") == 2
    assert client.ttl("lasting") is None


def test_set_if_revision(client: Client) -> None:
    first = client.set("a", 1, if_revision=0)
    second = client.set("a", 2, if_revision=first)
    with pytest.raises(Conflict, match=f"'a' is at revision {second}, not at revision {first}"):
        client.set("a", 3, if_revision=first)
    with pytest.raises(Conflict, match="not absent") as caught:
        client.set("a", 3, if_revision=0)
    assert caught.value.details == {"key": "a", "expected": 0, "revision": second}
    assert client.get("a") == 2


def test_set_if_changed_tells_nobody_of_the_same_value(client: Client) -> None:
    with client.watch("a") as watch:
        first = client.set("a", [1, 2], if_changed=True)
        assert client.set("a", [1, 2], if_changed=True) == first
        assert client.set("a", (1, 2), if_changed=True) == first + 1
        assert [change.value for change in take(watch, lambda c: c.revision > first)] == [
            [1, 2],
            (1, 2),
        ]


def test_set_many_is_one_revision(client: Client) -> None:
    revision = client.set_many({"a": 1, "b": 2})
    assert [client.entry(key) for key in "ab"] == [(1, revision, None), (2, revision, None)]
    client.set_many({"a": 3, "c": 4}, ttl=1_000)
    assert [client.ttl(key) is None for key in "abc"] == [False, True, False]
    assert client.set_many({}) == revision + 1


def test_delete(client: Client) -> None:
    assert client.delete("a") is False
    revision = client.set("a", 1)
    with pytest.raises(Conflict):
        client.delete("a", if_revision=revision + 1)
    assert client.delete("a", if_revision=revision) is True
    assert client.get("a") is None
    with pytest.raises(Conflict, match="'a' is absent"):
        client.delete("a", if_revision=revision)


def test_increment(client: Client) -> None:
    assert client.increment("a") == 1
    assert client.increment("a", 5) == 6
    assert client.increment("a", -10) == -4
    assert client.increment("a", 0.5) == -3.5
    assert client.get("a") == -3.5


def test_increment_stays_within_64_bits(client: Client) -> None:
    client.set("a", 2**64 - 1)
    with pytest.raises(LimitExceeded, match="beyond 64 bits"):
        client.increment("a")
    assert client.increment("a", -1) == 2**64 - 2


def test_increment_by_a_float_makes_a_float(client: Client) -> None:
    assert type(client.increment("a", 1.0)) is float
    assert type(client.increment("b", 0.0)) is float


@pytest.mark.parametrize("value", ["text", None, True, [1], b"1"])
def test_increment_refuses_what_is_no_number(client: Client, value: object) -> None:
    client.set("a", value)
    with pytest.raises(InvalidRequest, match="'a' does not hold a number"):
        client.increment("a")
    assert client.get("a") == value


# --- time to live -------------------------------------------------------------------------------


def test_expire_persist_and_ttl(client: Client) -> None:
    assert client.expire("a", 5) is False
    assert client.persist("a") is False
    assert client.ttl("a") is None
    revision = client.set("a", 1)
    assert client.ttl("a") is None
    assert client.persist("a") is False
    assert client.expire("a", 1_000) is True
    left = client.ttl("a")
    assert left is not None
    assert 900 < left <= 1_000
    assert client.persist("a") is True
    assert client.ttl("a") is None
    assert client.entry("a") == (1, revision, None)


def test_expire_lets_a_key_expire(client: Client) -> None:
    client.set("a", 1)
    with client.watch("a") as watch:
        client.expire("a", 0.02)
        assert [change.kind for change in take(watch, lambda change: True)] == ["expired"]


# --- update -------------------------------------------------------------------------------------


def test_update_replaces_the_value_by_the_function_of_it(client: Client) -> None:
    assert client.update("a", lambda value: [*value, 1], default=[]) == [1]
    assert client.update("a", lambda value: [*value, 2]) == [1, 2]
    assert client.get("a") == [1, 2]
    assert client.update("b", lambda value: value) is None


def test_update_keeps_the_time_to_live(client: Client) -> None:
    client.set("a", 1, ttl=1_000)
    client.update("a", lambda value: value + 1)
    assert client.get("a") == 2
    left = client.ttl("a")
    assert left is not None
    assert 900 < left <= 1_000


def test_update_keeps_what_others_say_of_its_time_to_live(
    client: Client, bus: BrokerProcess
) -> None:
    """Also what they say while the function is called."""
    client.set("a", 1, ttl=1_000)

    def look(expire: Callable[[], object], value: int) -> int:
        expire()
        return value + 1

    client.update("a", lambda value: look(lambda: client.persist("a"), value))
    assert client.ttl("a") is None
    client.update("a", lambda value: look(lambda: client.expire("a", 500), value))
    left = client.ttl("a")
    assert left is not None
    assert left < 501
    assert client.get("a") == 3


def test_update_leaves_an_ephemeral_key_to_its_client(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as other:
        other.set("theirs", 1, ephemeral=True)
        client.update("theirs", lambda value: value + 1)
        assert client.get("theirs") == 2
    assert not client.exists("theirs")


@pytest.mark.parametrize("meanwhile", [None, 10])
def test_update_starts_again_when_somebody_was_quicker(
    client: Client, meanwhile: int | None
) -> None:
    """Also when the key was deleted, or created, under its hands."""
    seen = []

    def function(value: int | None) -> int:
        seen.append(value)
        if len(seen) == 1 and meanwhile is None:
            client.delete("a")
        elif len(seen) == 1:
            client.set("a", meanwhile)
        return (value or 0) + 1

    if meanwhile is None:
        client.set("a", 5)
    assert client.update("a", function) == (meanwhile or 0) + 1
    assert seen == ([5, None] if meanwhile is None else [None, 10])


def test_update_does_not_try_for_ever(bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address, timeout=0.2) as client, udsbus.connect(bus.address) as other:
        with pytest.raises(RequestTimeout, match="'a' was not updated: others wrote it"):
            client.update("a", lambda _: other.increment("a") - 1)


def test_update_passes_the_functions_exception_on(client: Client) -> None:
    client.set("a", 1)
    with pytest.raises(Conflict, match="of the function"):
        client.update("a", lambda _: (_ for _ in ()).throw(Conflict("of the function")))
    assert client.get("a") == 1


def test_update_of_several_processes_loses_nothing(bus: BrokerProcess, client: Client) -> None:
    def work() -> int:
        with udsbus.connect(bus.address) as own:
            for _ in range(200):
                last: int = own.update("a", lambda value: value + 1, default=0)
            return last

    assert max(in_children(*[work] * 4)) == 800
    assert client.get("a") == 800


def test_increment_of_several_processes_is_exact(bus: BrokerProcess, client: Client) -> None:
    def work() -> list[int]:
        with udsbus.connect(bus.address) as own:
            return [own.increment("a") for _ in range(500)]

    sums = in_children(*[work] * 8)
    assert sorted(number for own in sums for number in own) == list(range(1, 4_001))
    assert all(own == sorted(own) for own in sums)


# --- many keys ----------------------------------------------------------------------------------


def test_keys_items_and_count_of_several_pages(client: Client) -> None:
    total = 2 * PAGE_KEYS + 600
    values = {f"many/{number:05}": number for number in range(total)}
    client.set_many(values | {"other": 0, "many": -1, "many-more": -2})
    assert client.keys("many/*") == sorted(values)
    assert client.items("many/*") == sorted(values.items())
    assert client.count("many/*") == total
    assert client.count() == total + 3
    assert client.keys()[:2] == ["many", "many-more"]
    assert client.keys("many/**")[:2] == ["many", "many/00000"]
    assert client.keys("none/*") == []
    assert client.items("none/*") == []
    assert client.count("none/*") == 0


def test_a_page_may_end_before_anything_matched(client: Client) -> None:
    """The broker looks at so many keys a page and no more."""
    client.set_many({f"a/{number}": 0 for number in range(PAGE_SCAN + 500)} | {"z/wanted": 1})
    assert client.keys("*/wanted") == ["z/wanted"]
    assert client.items("*/wanted") == [("z/wanted", 1)]
    assert client.count("*/wanted") == 1


def test_items_of_more_bytes_than_a_page(client: Client) -> None:
    values = {f"big/{number}": os.urandom(300_000) for number in range(8)}
    for key, value in values.items():
        client.set(key, value)
    assert dict(client.items("big/*")) == values


def test_get_many_of_more_bytes_than_one_send(client: Client) -> None:
    value = os.urandom(3_000_000)
    client.set_many({"a": value, "b": value})
    assert client.get_many(["a", "b"]) == {"a": value, "b": value}


# --- about --------------------------------------------------------------------------------------


def test_ping_takes_time(client: Client) -> None:
    assert 0 < client.ping() < 10


def test_info_is_of_the_broker(client: Client, bus: BrokerProcess) -> None:
    info = client.info()
    assert info["pid"] == bus.pid
    assert info["address"] == bus.address
    assert info["version"] == udsbus.__version__
    assert info["connections"] >= 1
    client.set("a", 1)
    assert client.info()["revision"] == client.revision() == info["revision"] + 1


def test_repr_tells_address_and_state(client: Client, bus: BrokerProcess) -> None:
    assert repr(client) == f"<udsbus.Client {bus.address} (open)>"
    client.close()
    assert repr(client) == f"<udsbus.Client {bus.address} (closed)>"


def test_the_address_comes_from_the_environment(
    bus: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UDSBUS_SOCKET", bus.address)
    with udsbus.connect(name="ours", timeout=7) as client:
        assert client.info()["pid"] == bus.pid
        assert (client.address, client.name, client.timeout) == (bus.address, "ours", 7)


def test_a_closed_client_refuses(bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as client:
        client.set("a", 1)
        transaction, pipeline = client.transaction(), client.pipeline()
    client.close()  # twice is fine
    attempts: list[Callable[[], Any]] = [
        lambda: client.get("a"),
        lambda: client.set("a", 2),
        lambda: client.keys(),
        lambda: client.update("a", lambda value: value),
        lambda: client.publish("a", 1),
        lambda: client.ping(),
        lambda: client.watch("a"),
        lambda: client.on_change("a", print),
        lambda: client.subscribe("a"),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidRequest, match="this client is closed"):
            attempt()
    with pytest.raises(InvalidRequest, match="this client is closed"), transaction as t:
        t.set("a", 2)
    with pytest.raises(InvalidRequest, match="this client is closed"), pipeline as p:
        p.set("a", 2)
    with udsbus.connect(bus.address) as another:
        assert another.get("a") == 1
        another.delete("a")


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b"])
def test_malformed_keys(client: Client, key: str) -> None:
    for attempt in (client.get, client.exists, client.delete, client.ttl, client.watch):
        with pytest.raises(InvalidRequest, match="empty"):
            attempt(key)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda c: c.get("a/*"), InvalidRequest, "only patterns do"),
        (lambda c: c.get("k" * 2_000), LimitExceeded, "key of 2000 bytes; the limit is 1024"),
        (lambda c: c.get(5), InvalidRequest, "key must be a string, not 5"),
        (lambda c: c.set("$sys/a", 1), AccessDenied, "the broker's own"),
        (lambda c: c.set("a", 1, ttl=0), InvalidRequest, "ttl must be a number of seconds above 0"),
        (lambda c: c.set("a", 1, ttl=math.inf), InvalidRequest, "ttl must be a number of seconds"),
        (lambda c: c.set("a", 1, ttl="5"), InvalidRequest, "ttl must be a number of seconds"),
        (lambda c: c.set("a", 1, if_revision=-1), InvalidRequest, "if_revision must be a whole"),
        (lambda c: c.set("a", object()), UnsupportedValue, "type object cannot be sent"),
        (lambda c: c.set_many({"a": {"b": [1j, open]}}), UnsupportedValue, r"value\['b'\]\[1\]"),
        (lambda c: c.set_many({"a": 1, "b*/*": 1}), InvalidRequest, "only patterns do"),
        (lambda c: c.set("a", bytes(34_000_000)), LimitExceeded, "a value of 34\\d{6} bytes"),
        (lambda c: c.expire("a", -1), InvalidRequest, "ttl must be a number of seconds above 0"),
        (lambda c: c.keys("a*"), InvalidRequest, "stand for whole segments"),
        (lambda c: c.watch("a*"), InvalidRequest, "stand for whole segments"),
        (lambda c: c.watch("a", from_revision=-1), InvalidRequest, "from_revision must be"),
        (lambda c: c.watch("a", from_revision=1, initial=True), InvalidRequest, "or from a rev"),
        (lambda c: c.subscribe(), InvalidRequest, "at least one pattern"),
        (lambda c: c.subscribe("a", "b*"), InvalidRequest, "stand for whole segments"),
        (lambda c: c.publish("a/*", 1), InvalidRequest, "only patterns do"),
        (lambda c: c.publish("a", object()), UnsupportedValue, "type object cannot be sent"),
    ],
)
def test_refusals_say_what_is_wrong(
    client: Client, attempt: Callable[[Client], Any], error: type[udsbus.Error], message: str
) -> None:
    revision = client.revision()
    with pytest.raises(error, match=message) as caught:
        attempt(client)
    assert type(caught.value) is error
    assert client.revision() == revision, "refused, and still something was written"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda c: c.get("\ud800"),
        lambda c: c.set("\ud800", 1),
        lambda c: c.get(object()),
        lambda c: c.get_many(["a", open]),
        lambda c: c.set("a", 1, if_revision=2**70),
        lambda c: c.keys("\ud800/*"),
        lambda c: c.publish("\ud800", 1),
    ],
)
def test_what_cannot_be_sent_is_an_invalid_request(
    client: Client, attempt: Callable[[Client], Any]
) -> None:
    """Not whatever msgpack raises; and it costs no connection."""
    accepted = client.info()["counters"]["accepted"]
    with pytest.raises(InvalidRequest):
        attempt(client)
    assert client.info()["counters"]["accepted"] == accepted


@pytest.mark.parametrize(
    "attempt",
    [
        lambda c: c.set("a", bytes(FRAME_BYTES)),
        lambda c: c.set_many({f"a/{number}": bytes(30_000_000) for number in range(3)}),
    ],
    ids=["one value", "several values"],
)
def test_a_request_above_the_limit_of_a_frame_says_so(
    client: Client, attempt: Callable[[Client], Any]
) -> None:
    with pytest.raises(LimitExceeded):
        attempt(client)
    assert client.count() == 0


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_timeout_must_be_positive(bus: BrokerProcess, timeout: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds above 0"):
        udsbus.connect(bus.address, timeout=timeout)


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_a_timeout_may_be_long(bus: BrokerProcess, timeout: float) -> None:
    with udsbus.connect(bus.address, timeout=timeout) as client:
        assert client.get("absent") is None
        with client.pipeline() as p:
            absent = p.get("absent")
        assert absent.value is None
        with client.watch("a") as watch:
            assert watch.get(timeout=0) is None


def test_a_client_name_has_a_limit(bus: BrokerProcess) -> None:
    with pytest.raises(LimitExceeded, match="a client name of 300 bytes; the limit is 256"):
        udsbus.connect(bus.address, name="n" * 300)


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.watch(5),
        lambda c: c.subscribe(5),
        lambda c: c.get_many(5),
        lambda c: c.get_many("abc"),
        lambda c: c.set("a", 1, ttl="3"),
        lambda c: c.set_many({"a": 1}, ttl=timedelta(seconds=3)),
        lambda c: c.expire("a", True),
        lambda c: c.increment("a", Decimal(1)),
        lambda c: c.pipeline().set("a", 1),
        lambda c: c.pipeline().get("a"),
        lambda c: c.transaction().check("a", 0),
        lambda c: c.transaction().set("a", 1),
        lambda c: c.set_many([1]),
        lambda c: c.subscribe("a").get("a"),
        lambda c: udsbus.connect(c.address, timeout=None),  # type: ignore[arg-type]
        lambda c: udsbus.connect(c.address, timeout="3"),  # type: ignore[arg-type]
        lambda c: udsbus.connect(5),  # type: ignore[arg-type]
        lambda c: c.on_change("a", 5),
    ],
)
def test_arguments_of_a_wrong_type_are_invalid_requests(
    client: Client, ask: Callable[[Client], Any]
) -> None:
    with pytest.raises(InvalidRequest):
        ask(client)

"""Who is told what of changes: together, in short or in detail, and no more than is wanted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.harness import BrokerProcess, RawClient, running_broker
from udsbus import messages as m
from udsbus.broker.fanout import Revision
from udsbus.engine.wants import Want
from udsbus.limits import MIB
from udsbus.terms import GONE
from udsbus.version import PROTOCOL_VERSION
from udsbus.wire import encoding

from .stepped import SteppedBroker


def change(kind: str, key: str, session: str | None = None) -> m.Change:
    value = None if kind in GONE else b"\x01"
    return m.Change(7, kind, key, value, origin=1, before=b"\x00", session=session)


CHANGES: list[m.Change] = [
    change("created", "a", "me"), change("updated", "b", "me"), change("deleted", "c", "you"),
]  # fmt: skip
SHORT: list[list[Any]] = [
    ["created", "a", b"\x01"],
    ["updated", "b", b"\x01"],
    ["deleted", "c", None],
]
DETAILED: list[list[Any]] = [
    [*part, b"\x00", session] for part, session in zip(SHORT, ("me", "me", "you"), strict=True)
]


def told(
    subscribers: list[tuple[int, ...]], wants: dict[int, Want], sessions: dict[int, str]
) -> dict[int, list[Any]]:
    """What each connection receives."""
    together = Revision(7)
    for each, watched_by in zip(CHANGES, subscribers, strict=True):
        together.add(each, watched_by)
    found: dict[int, list[Any]] = {}
    for notification in together.notifications(wants, sessions):
        for connection in notification.connections:
            assert connection not in found, "it is told once"
            found[connection] = [msgpack.unpackb(frame)[1:] for frame in notification.frames]
            keys = [one.key for one in notification.changes]
            (_, params), *_ = found[connection]
            parts = params[1] if isinstance(params[1], list) else [params[1:]]
            assert keys == [part[1] for part in parts]
    return found


def test_all_that_concerns_a_connection_in_one_notification() -> None:
    assert told([(1, 2), (1,), (1, 2)], {}, {}) == {
        1: [["changes", [7, SHORT]]],
        2: [["changes", [7, [SHORT[0], SHORT[2]]]]],
    }
    assert told([(1,), (2,), (2,)], {}, {}) == {
        1: [["change", [7, *SHORT[0]]]],
        2: [["changes", [7, SHORT[1:]]]],
    }


def test_in_detail_for_those_who_want_it() -> None:
    everybody = (1, 2, 3)
    wants = {2: Want(detail=True), 3: Want(detail=True)}
    assert told([everybody] * 3, wants, {}) == {
        1: [["changes", [7, SHORT]]],
        2: [["changes", [7, DETAILED]]],
        3: [["changes", [7, DETAILED]]],
    }
    assert told([(2,), (3,), (1,)], wants, {}) == {
        2: [["change", [7, *DETAILED[0]]]],
        3: [["change", [7, *DETAILED[1]]]],
        1: [["change", [7, *SHORT[2]]]],
    }


def test_no_more_than_is_wanted() -> None:
    wants = {
        1: Want(kinds=frozenset(["updated", "deleted"])),
        2: Want(ignore_own=True, detail=True),
        3: Want(kinds=frozenset(["expired"])),
    }
    assert told([(1, 2, 3)] * 3, wants, {2: "me", 1: "me"}) == {
        1: [["changes", [7, SHORT[1:]]]],
        2: [["change", [7, *DETAILED[2]]]],
    }


def test_each_change_is_encoded_at_most_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many want it, and with however many others."""
    packed: list[Any] = []
    pack = encoding._pack

    def noted(each: Any) -> bytes:
        packed.append(each)
        return pack(each)  # type: ignore[no-any-return]

    monkeypatch.setattr(encoding, "_pack", noted)
    wants = {number: Want(detail=True) for number in (2, 4, 6)}
    told([tuple(range(8)), (1, 2, 3, 4), (1, 2, 5, 6, 7)], wants, {})
    parts = [each for each in packed if isinstance(each, tuple) and each[0] != 2]
    assert len(parts) == len(set(parts)) == 6


def test_what_is_too_much_for_one_notification(any_broker: BrokerProcess) -> None:
    """Comes in several, which say so, and others see nothing in between."""
    values = {f"a/{number}": bytes([number]) * (12 * MIB) for number in range(1, 4)}
    with any_broker.connect() as watcher, any_broker.connect() as writer:
        watcher.call("watch", "**")
        watcher.call("subscribe", ["t"])
        writer.send([0, 1, "set_many", [values]])
        first, second = watcher.receive(), watcher.receive()
        writer.send([0, 2, "publish", ["t", b"\x01"]])
        last = watcher.receive()
    assert (first[1], first[2][0], first[2][2:]) == ("changes", 1, [True])
    assert (second[1], second[2][0], second[2][2:]) == ("changes", 1, [])
    assert {key: value for _, key, value in first[2][1] + second[2][1]} == values
    assert last[1] == "message"


def test_a_session_is_needed_to_ignore_what_it_does(any_broker: BrokerProcess) -> None:
    with any_broker.connect() as client:
        number, message, _ = client.refused("watch", "a", {"ignore_own": True})
        assert number == 2
        assert "hello" in message
        assert client.call("info")["watches"] == 0


def test_what_a_connection_wants_is_what_its_watches_want(stepped: SteppedBroker) -> None:
    """From one request to the next, within a turn too."""
    client, _ = stepped.accepted()
    client.send(
        [0, 1, "watch", ["**", {"kinds": ["deleted"]}]],
        [2, "set", ["a", b"\x01"]],
        [0, 2, "watch", ["**", {"kinds": ["created"], "previous": True}]],
        [2, "set", ["b", b"\x01"]],
        [2, "set", ["b", b"\x02"]],
        [0, 3, "watch", ["**"]],
        [2, "set", ["b", b"\x03"]],
    )
    assert [stepped.receive(client) for _ in range(5)] == [
        [1, 1, None, [1, 0, []]],
        [1, 2, None, [2, 1, []]],
        [2, "change", [2, "created", "b", b"\x01", None, None]],
        [1, 3, None, [3, 3, []]],
        [2, "change", [4, "updated", "b", b"\x03", b"\x02", None]],
    ]
    client.send([0, 4, "unwatch", [3]], [0, 5, "unwatch", [2]])
    assert [stepped.receive(client)[3] for _ in range(2)] == [True, True]
    client.send([2, "set", ["c", b"\x01"]], [2, "delete", ["c"]])
    assert stepped.receive(client) == [2, "change", [6, "deleted", "c", None]]
    client.send([0, 6, "unwatch", [1]], [0, 7, "watch", ["**"]], [2, "set", ["c", b"\x01"]])
    assert stepped.receive(client)[3] is True
    stepped.receive(client)
    assert stepped.receive(client) == [2, "change", [7, "created", "c", b"\x01"]]


lanes = itertools.count(1)


def greeted(broker: BrokerProcess, session: str) -> RawClient:
    client = broker.connect()
    client.call("hello", PROTOCOL_VERSION, {"session": session, "lane": next(lanes)})
    return client


def test_whose_a_change_was_is_known_after_everything(runtime: Path) -> None:
    """Its connection is gone, another has its number; the broker is another, which has read the
    journal; and then one for which that was folded away."""
    address, state = runtime / "bus.sock", runtime / "state"
    options: dict[str, Any] = {"durability": "process", "state": state}

    def changes(broker: BrokerProcess, since: int) -> list[list[Any]]:
        with greeted(broker, "me") as me:
            detailed = {"from_revision": since, "previous": True}
            everything = me.call("watch", "a", detailed)[2]
            others = me.call("watch", "a", {"from_revision": since, "ignore_own": True})[2]
        assert others == [each for each in everything if each[5] != "me"]
        return [each[4:] for each in everything]

    expected = [[None, "me"], [b"\x01", "you"], [b"\x02", None]]
    with running_broker(address, **options) as broker:
        with greeted(broker, "me") as me:
            since = me.call("ping")
            me.call("set", "a", b"\x01")
        with greeted(broker, "you") as you:
            you.call("set", "a", b"\x02")
        with broker.connect() as nobody:
            nobody.call("set", "a", b"\x03")
        assert changes(broker, since) == expected
        broker.kill()
    with running_broker(address, **options) as broker:
        assert changes(broker, since) == expected
        broker.kill()
    from udsbus.journal.folding import fold

    assert fold(str(state), all_of_it=True)
    with running_broker(address, **options) as broker:
        assert changes(broker, since) == expected

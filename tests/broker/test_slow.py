"""Who does not keep up is told less, in order, and hears that it is so; it costs the others
nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from udsbus import messages as m
from udsbus.hub import best_hub
from udsbus.limits import OUTPUT_SOFT_SECONDS
from udsbus.patterns import SLOW_KEYS
from udsbus.terms import CloseReason

from .slow import HARD, LOW, PIECE, SOFT, VALUE, FailingJournal, Reader, fall_behind, tighten, write
from .stepped import SteppedBroker, stepped_broker


@pytest.fixture(autouse=True)
def _tight(monkeypatch: pytest.MonkeyPatch) -> None:
    tighten(monkeypatch)


@pytest.fixture
def disk() -> FailingJournal:
    return FailingJournal()


@pytest.fixture
def durable(
    address: str, disk: FailingJournal, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SteppedBroker]:
    """A broker whose turns can be taken back."""
    yield from stepped_broker(address, best_hub(), monkeypatch, disk)


def changes(told: list[list[Any]]) -> list[list[Any]]:
    """[revision, kind, key, value] each."""
    found = []
    for one in told:
        if one[0] == "change":
            found.append(one[1:])
        elif one[0] == "changes":
            found += [[one[1], *part] for part in one[2]]
    return found


# --- falling behind -------------------------------------------------------------------------


def test_above_the_hard_limit_at_once(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    fall_behind(stepped, reader)
    assert HARD < reader.connection.waiting_bytes < HARD + 2 * len(VALUE) + LOW
    write(stepped, *("more" for _ in range(100)))
    assert reader.connection.waiting_bytes < HARD + 2 * len(VALUE) + LOW


def test_above_the_hard_limit_within_a_turn(stepped: SteppedBroker) -> None:
    """What one turn changes may be much."""
    reader = Reader(stepped, watch="**")
    many = [f"a/{n:04}" for n in range(1_000)]
    for key in many:
        stepped.engine.execute(0, m.Set(key, VALUE), stepped.now)
    stepped.step()
    assert reader.is_behind
    assert reader.connection.waiting_bytes < HARD + 2 * len(VALUE)
    told = reader.everything()
    assert [key for _, _, key, _ in changes(told)] == many
    assert [one[0] for one in told if one[0] != "change"] == ["behind", "in_step"]
    assert [one[2:] for one in told if one[0] == "behind"] == [[0, 0]]


def test_above_the_soft_limit_for_a_while(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    while reader.connection.waiting_bytes <= SOFT:
        write(stepped, "fill")
    write(stepped, "fill")
    stepped.now += OUTPUT_SOFT_SECONDS - 1
    write(stepped, "fill")
    assert not reader.is_behind
    stepped.now += 1.5
    write(stepped, "fill")
    assert reader.is_behind
    assert reader.connection.waiting_bytes < HARD


def test_who_takes_something_meanwhile_keeps_up(stepped: SteppedBroker) -> None:
    """Nothing but the soft limit, again and again, is no state of ten seconds."""
    reader = Reader(stepped, watch="**")
    for _ in range(4):
        while reader.connection.waiting_bytes <= SOFT:
            write(stepped, "fill")
        write(stepped, "fill")
        stepped.now += OUTPUT_SOFT_SECONDS - 1
        write(stepped, "fill")
        assert all(one[0] == "change" for one in reader.everything())
    assert not stepped.statistics.fell_behind


def test_a_burst_that_is_taken_at_once_does_not_count_later(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    reader.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    many = {f"a/{n:04}": VALUE for n in range((SOFT + HARD) // 2 // len(VALUE))}
    for _ in range(3):
        stepped.engine.execute(0, m.SetMany(many), stepped.now)
        stepped.step()
        assert reader.connection.waiting_bytes == 0
        assert len(changes(reader.everything())) == len(many)
        stepped.now += OUTPUT_SOFT_SECONDS + 1
    assert not stepped.statistics.fell_behind


def test_the_largest_change_alone_is_not_too_much(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    write(stepped, "large", value=bytes(10 * HARD))
    assert not reader.is_behind
    assert [key for _, _, key, _ in changes(reader.everything())] == ["large"]


# --- catching up ----------------------------------------------------------------------------


def test_the_newest_of_each_key_in_the_order_of_revisions(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    last = fall_behind(stepped, reader)
    write(stepped, "a", "b", "c", "b", "a", "d")
    stepped.engine.execute(0, m.Delete("c"), stepped.now)
    stepped.engine.execute(0, m.Set("d", b"\x01", ttl=1.0), stepped.now)
    stepped.step()
    stepped.now += 2.0
    stepped.step()
    told = reader.everything()
    before = [one for one in changes(told) if one[0] <= last]
    assert [one[0] for one in before] == list(range(1, last + 1))
    after = told[len(before) :]
    # `fill` once before, `a` twice, `b` twice, `c` and `d` too, and `d` once more.
    assert after[0] == ["behind", last + 11, 5, 0]
    assert [one[1:] for one in after[1:-1]] == [
        [last + 1, "updated", "fill", VALUE],
        [last + 6, "updated", "b", VALUE],
        [last + 7, "updated", "a", VALUE],
        [last + 9, "deleted", "c", None],
        [last + 11, "expired", "d", None],
    ]
    assert after[-1] == ["in_step", last + 11]
    assert stepped.statistics.as_dict(0) | {
        "fell_behind": 1, "left_out": 5, "dropped": 0
    } == stepped.statistics.as_dict(0)  # fmt: skip


def test_it_goes_on_as_before_afterwards(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    for _ in range(2):
        fall_behind(stepped, reader)
        assert reader.everything()[-1][0] == "in_step"
        assert not reader.is_behind
        write(stepped, "a", "a", "a")
        assert [key for _, _, key, _ in changes(reader.everything())] == ["a"] * 3
    assert stepped.statistics.fell_behind == 2
    assert not stepped.turn.slow.behind
    assert not stepped.turn.slow.ready


def test_what_changes_while_it_catches_up_comes_after_that(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    last = fall_behind(stepped, reader)
    keys = [f"a/{n:03}" for n in range(100)]
    write(stepped, *keys)
    told: list[Any] = []
    while not told or told[-1][2][0] < last + 20:
        told.append(stepped.receive(reader.client))
    assert reader.is_behind
    write(stepped, *keys)  # some again, which it was told of, and the others for the first time
    told += [[2, one[0], one[1:]] for one in reader.everything()]
    found = [params for _, name, params in told if name == "change"]
    assert [one[0] for one in found] == sorted({one[0] for one in found})
    assert [one[2] for one in found[-100:]] == keys
    left_out = sum(params[1] for _, name, params in told if name == "behind")
    assert len(found) + left_out == last + 1 + 200
    assert left_out > 0
    assert told[-1][1] == "in_step"
    assert told[-1][2][0] >= found[-1][0]


def test_it_is_not_told_of_what_it_does_not_watch_any_more(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="fill")
    reader.ask("watch", "a/*")
    second = reader.ask("watch", "b/*")[0]
    fall_behind(stepped, reader)
    write(stepped, "a/1", "b/1")
    reader.client.send([0, 1, "unwatch", [second]])
    while reader.connection.paused:
        stepped.step()
    stepped.step()
    write(stepped, "b/1", "a/1")
    stepped.engine.execute(0, m.Delete("b/1"), stepped.now)
    answers = []
    told: list[Any] = []
    for _ in range(3_000):
        message = stepped.receive(reader.client)
        if message[0] == 1:
            answers.append(message)
        else:
            told.append(message[1:])
        if message[1] == "in_step":
            break
    assert answers == [[1, 1, None, True]]
    keys = [params[2] for name, params in told if name == "change"]
    assert keys[-1] == "a/1"
    assert not [key for key in keys if key.startswith("b")]


def test_who_begins_to_watch_meanwhile_is_told_of_what_comes(stepped: SteppedBroker) -> None:
    """The answer is ahead of what is still to be told, as it may be."""
    reader = Reader(stepped, watch="**")
    fall_behind(stepped, reader)
    write(stepped, "a", "b")
    reader.client.send([0, 9, "watch", ["a", {"from_revision": 0}]])
    while reader.connection.paused:
        stepped.step()
    stepped.step()
    revision = stepped.engine.revision
    write(stepped, "a")
    answer: Any = None
    told: list[Any] = []
    while not told or told[-1][1] != "in_step":
        message = stepped.receive(reader.client)
        if message[0] == 1:
            answer = message[3]
        else:
            told.append(message)
    assert answer[1:] == [revision, [[revision - 1, "created", "a", VALUE]]]
    found = [params for _, name, params in told if name == "change" and params[2] == "a"]
    assert found[-1] == [revision + 1, "updated", "a", VALUE]


def test_the_others_have_their_turn_while_it_catches_up(stepped: SteppedBroker) -> None:
    """It is told a piece in a turn, even if it takes all at once."""
    reader, other = Reader(stepped, watch="**"), stepped.connect()
    fall_behind(stepped, reader)
    write(stepped, *(f"a/{n:03}" for n in range(100)))
    reader.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    told: list[Any] = []
    answers = 0
    reader.client.socket.settimeout(0)
    while reader.is_behind:
        other.send([0, 1, "ping", []])
        stepped.step()
        stepped.step()
        assert other.receive()[2] is None
        answers += 1
        before = len(told)
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(reader.client.receive())
        in_a_turn = 2 * (PIECE // len(VALUE) + 1)
        assert len(told) - before <= in_a_turn or not any(
            one[1] == "behind" for one in told[:before]
        )
    assert answers > 100 // in_a_turn
    assert len([one for one in told if one[1] == "change" and one[2][2].startswith("a/")]) == 100


# --- ends -----------------------------------------------------------------------------------


def test_more_keys_than_can_be_noted_end_it(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tighten(monkeypatch, BEHIND_KEYS=10)
    reader = Reader(stepped, watch="**")
    fall_behind(stepped, reader)
    write(stepped, *(f"a/{n}" for n in range(9)))
    assert reader.connection.ended is None
    write(stepped, "one more")
    assert reader.connection.ended is CloseReason.SLOW_READER
    assert not reader.is_behind
    told = reader.everything()
    assert told[-1][:2] == ["closing", "slow_reader"]
    assert "keys" in told[-1][2]
    assert stepped.closed(CloseReason.SLOW_READER) == 1
    assert not stepped.turn.slow.behind


def test_so_do_more_bytes_of_keys(stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    tighten(monkeypatch, BEHIND_KEY_BYTES=1_000)
    reader = Reader(stepped, watch="**")
    fall_behind(stepped, reader)
    write(stepped, "é" * 400)
    write(stepped, "é" * 400, "é" * 400)
    assert reader.connection.ended is None
    write(stepped, "x" * 400)
    assert reader.connection.ended is CloseReason.SLOW_READER


def test_one_who_goes_while_it_is_behind_leaves_nothing(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="**")
    fall_behind(stepped, reader)
    assert stepped.engine.keyspace.number_below(SLOW_KEYS) == 1
    reader.client.close()
    stepped.step_until(lambda: not stepped.turn.connections)
    stepped.step()
    stepped.step()
    assert stepped.engine.keyspace.number_below(SLOW_KEYS) == 0
    assert not stepped.turn.slow.behind
    assert not stepped.turn._due(stepped.now)


# --- who is behind, for all to see ----------------------------------------------------------


def test_it_is_there_for_all_to_see_as_long_as_it_lasts(stepped: SteppedBroker) -> None:
    reader, other = Reader(stepped, watch="fill"), Reader(stepped, watch="$sys/slow/*")
    reader.connection.name = "a tester"
    stepped.engine.sessions[reader.connection.number] = "s7"
    fall_behind(stepped, reader)
    ((kind, *change),) = other.everything()
    assert (kind, *change[1:3]) == (
        "change", "created", f"$sys/slow/s7.{reader.connection.number}",
    )  # fmt: skip
    about = msgpack.unpackb(change[3])
    assert about.keys() == {"since", "pid", "name"}
    assert (about["pid"], about["name"]) == (reader.connection.peer.pid, "a tester")
    assert stepped.engine.owners.sessions[change[2]] == "s7"
    reader.everything()
    ((_, *change),) = other.everything()
    assert change[1:] == ["deleted", f"$sys/slow/s7.{reader.connection.number}", None]


def test_it_goes_with_its_session(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, watch="fill")
    number = reader.connection.number
    stepped.engine.sessions[number] = "s7"
    fall_behind(stepped, reader)
    stepped.step()
    del stepped.engine.sessions[number]
    stepped.engine.release("s7", 10, stepped.now)
    assert stepped.engine.keyspace.number_below(SLOW_KEYS) == 0
    stepped.step()
    reader.client.close()
    stepped.step_until(lambda: not stepped.turn.connections)
    stepped.step()
    assert stepped.engine.keyspace.number_below(SLOW_KEYS) == 0


def test_it_is_not_written_while_nothing_can_be(
    durable: SteppedBroker, disk: FailingJournal
) -> None:
    reader = Reader(durable, watch="**", patterns=["**"])
    write(durable, "a")
    disk.full = True
    write(durable, "a")  # is refused, and from now on everything is
    while not reader.is_behind:
        durable.engine.execute(0, m.Publish("t", VALUE), durable.now)
        durable.step()
    for _ in range(3):
        durable.step()
    assert durable.engine.keyspace.number_below(SLOW_KEYS) == 0
    assert not durable.turn._due(durable.now)
    disk.full = False
    durable.turn.refuse_writes(None)
    durable.step()
    assert durable.engine.keyspace.number_below(SLOW_KEYS) == 1


# --- a turn that is taken back --------------------------------------------------------------


def test_what_never_happened_is_not_noted(durable: SteppedBroker, disk: FailingJournal) -> None:
    """A `watch` has changes told before they are in the journal, and they never come there."""
    reader = Reader(durable, watch="**")
    fall_behind(durable, reader)
    write(durable, "a", "b")
    revision = durable.engine.revision
    other, _ = durable.accepted()
    disk.full = True
    for key in ("a", "c", "b"):
        other.send([0, 1, "set", [key, b"\x01"]], [0, 2, "watch", [key]])
    other.send([0, 3, "delete", ["b"]])
    durable.step()
    assert durable.engine.revision == revision
    durable.step()  # carried out again, and refused
    told = reader.everything()
    assert [one[0] for one in changes(told)][-3:] == [revision - 3, revision - 1, revision]
    assert [one[2] for one in changes(told)][-3:] == ["fill", "a", "b"]
    assert all(value == VALUE for _, _, _, value in changes(told))
    assert told[-1] == ["in_step", revision]
    assert not durable.statistics.dropped


def test_a_message_of_a_turn_that_is_taken_back_comes_once(
    durable: SteppedBroker, disk: FailingJournal
) -> None:
    reader = Reader(durable, watch="fill", patterns=["**"])
    fall_behind(durable, reader)
    other, _ = durable.accepted()
    disk.full = True
    other.send(
        [0, 1, "publish", ["t", b"\x01"]], [0, 2, "watch", ["a"]], [0, 3, "set", ["a", b"\x01"]]
    )
    durable.step()
    durable.step()
    told = reader.everything()
    assert [one for one in told if one[0] == "message"] == [["message", "t", b"\x01"]]


def test_who_fell_behind_in_a_turn_that_is_taken_back_is_in_step_again(
    durable: SteppedBroker, disk: FailingJournal
) -> None:
    reader = Reader(durable, watch="**")
    other, _ = durable.accepted()
    disk.full = True
    sets = [[0, n, "set", [f"a/{n:03}", VALUE]] for n in range(100)]
    other.send(*sets, [0, 200, "watch", ["a/*"]])
    while not reader.is_behind:
        durable.step()
    told = reader.everything()
    assert [one[0] for one in told] == ["behind", "in_step"]
    disk.full = False
    durable.turn.refuse_writes(None)
    write(durable, "a")
    assert [key for _, _, key, _ in changes(reader.everything())] == ["a"]


def test_what_never_happened_takes_no_room(durable: SteppedBroker, disk: FailingJournal) -> None:
    reader = Reader(durable, watch="**")
    other, _ = durable.accepted()
    many = {f"a/{n:03}": VALUE for n in range(SOFT // len(VALUE))}
    for _ in range(5):
        disk.full = True
        other.send([0, 1, "set_many", [many]], [0, 2, "watch", ["a/*"]])
        durable.step()
        durable.step()
        disk.full = False
        durable.turn.refuse_writes(None)
    write(durable, "a")
    assert [one[0] for one in reader.everything()] == ["change"]
    assert not durable.statistics.fell_behind


# --- messages -------------------------------------------------------------------------------


def publish(broker: SteppedBroker, topic: str, number: int) -> None:
    broker.engine.execute(0, m.Publish(topic, bytes([number]) * 200), broker.now)
    broker.step()


def numbers(told: list[list[Any]]) -> list[int]:
    return [one[2][0] for one in told if one[0] == "message"]


def behind_on_messages(stepped: SteppedBroker, reader: Reader) -> int:
    """How many messages it took."""
    for number in range(200):
        publish(stepped, "t", number)
        if reader.is_behind:
            return number + 1
    pytest.fail("it does not fall behind")


def test_messages_that_can_be_kept_are(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, patterns=["t"])
    first = behind_on_messages(stepped, reader)
    for number in range(first, first + 10):
        publish(stepped, "t", number)
    told = reader.everything()
    assert numbers(told) == list(range(first + 10))
    assert [[one[0], *one[2:]] for one in told if one[0] != "message"] == [
        ["behind", 0, 0], ["in_step"],
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["drop_oldest", "block"])
def test_of_messages_that_cannot_be_kept_the_oldest_are_dropped_and_counted(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    tighten(monkeypatch, BEHIND_MESSAGE_BYTES=1_100)  # of five messages
    reader = Reader(stepped, patterns=["t"], policy=policy)
    first = behind_on_messages(stepped, reader)
    for number in range(first, first + 10):
        publish(stepped, "t", number)
    told = reader.everything()
    assert numbers(told) == [*range(first - 1), *range(first + 5, first + 10)]
    assert [one[2:] for one in told if one[0] == "behind"] == [[0, 6]]
    assert stepped.statistics.dropped == 6


def test_a_message_that_is_larger_than_all_that_is_kept_is(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tighten(monkeypatch, BEHIND_MESSAGE_BYTES=1_100)
    for policy in ("drop_oldest", "disconnect"):
        reader = Reader(stepped, watch="fill", patterns=["t"], policy=policy)
        fall_behind(stepped, reader)
        stepped.engine.execute(0, m.Publish("t", bytes(5_000)), stepped.now)
        stepped.step()
        assert [len(one[2]) for one in reader.everything() if one[0] == "message"] == [5_000]
        reader.client.close()


def test_rather_than_lose_a_message_it_loses_the_connection(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tighten(monkeypatch, BEHIND_MESSAGE_BYTES=1_100)
    reader = Reader(stepped, patterns=["t"], policy="disconnect")
    first = behind_on_messages(stepped, reader)
    for number in range(first, first + 4):
        publish(stepped, "t", number)
    assert reader.connection.ended is None
    publish(stepped, "t", 99)
    assert reader.connection.ended is CloseReason.SLOW_READER
    told = reader.everything()
    assert numbers(told) == list(range(first - 1))
    assert told[-1][:2] == ["closing", "slow_reader"]
    assert "messages" in told[-1][2]


def test_where_policies_differ_each_is_followed(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that must not be dropped stays where it is, whatever is dropped before and after it."""
    tighten(monkeypatch, BEHIND_MESSAGE_BYTES=1_100)
    reader = Reader(stepped, watch="fill", patterns=["**"])
    reader.ask("subscribe", ["precious/*"], {"policy": "disconnect"})
    fall_behind(stepped, reader)
    for number in range(3):
        publish(stepped, "t", number)
    publish(stepped, "precious/a", 3)
    for number in range(4, 9):
        publish(stepped, "t", number)
    told = reader.everything()
    assert numbers(told) == [3, 5, 6, 7, 8]
    assert [one[3] for one in told if one[0] == "behind"] == [4]


# --- publishers who wait --------------------------------------------------------------------


def session(broker: SteppedBroker, name: str) -> Any:
    client, connection = broker.accepted()
    broker.engine.sessions[connection.number] = name
    return client


def test_a_publisher_waits_until_the_subscriber_has_caught_up(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, patterns=["t"], policy="block")
    first = behind_on_messages(stepped, reader)
    publisher = session(stepped, "p")
    publisher.send([0, 1, "publish", ["t", b"\x01", {"wait": 5}]], [0, 2, "ping", []])
    stepped.step()
    assert stepped.receive(publisher)[1] == 2  # only what waits waits
    told = reader.everything()
    assert numbers(told) == [*range(first), 1]
    assert [one[0] for one in told[-2:]] == ["in_step", "message"]
    assert stepped.receive(publisher) == [1, 1, None, 1]


def test_it_is_sent_to_nobody_when_that_takes_too_long(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, patterns=["t"], policy="block")
    other = Reader(stepped, patterns=["**"])
    behind_on_messages(stepped, reader)
    other.everything()
    publisher = session(stepped, "p")
    publisher.send([0, 1, "publish", ["t", b"\xfa", {"wait": 5}]])
    stepped.step()
    stepped.now += 5.1
    stepped.step()
    answer = stepped.receive(publisher)
    assert answer[2][0] == 5
    assert "5 s" in answer[2][1]
    assert answer[3] == {"error": "conflict", "topic": "t"}
    publisher.send([0, 2, "publish", ["t", b"\xfa", {"wait": 0}]])
    stepped.step()
    assert stepped.receive(publisher)[3] == {"error": "conflict", "topic": "t"}
    assert other.everything() == []
    assert 250 not in numbers(reader.everything())


@pytest.mark.parametrize("how", ["goes", "unsubscribes"])
def test_a_subscriber_who_is_not_there_any_more_blocks_nobody(
    stepped: SteppedBroker, how: str
) -> None:
    reader = Reader(stepped, patterns=["t"], policy="block")
    behind_on_messages(stepped, reader)
    publisher = session(stepped, "p")
    publisher.send([0, 1, "publish", ["t", b"\x01", {"wait": 5}]])
    stepped.step()
    if how == "goes":
        reader.client.close()
    else:
        stepped.engine.execute(reader.connection.number, m.Unsubscribe(1), stepped.now)
    assert stepped.receive(publisher) == [1, 1, None, 0]


def test_only_block_blocks_and_only_those_who_wait(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, patterns=["t"])
    behind_on_messages(stepped, reader)
    blocking = Reader(stepped, watch="fill", patterns=["u"], policy="block")
    fall_behind(stepped, blocking)
    publisher = session(stepped, "p")
    publisher.send([0, 1, "publish", ["t", b"\x01", {"wait": 5}]])
    publisher.send([0, 2, "publish", ["u", b"\x01"]])
    publisher.send([0, 3, "publish", ["nobody", b"\x01", {"wait": 5}]])
    stepped.step()
    assert [stepped.receive(publisher)[1:] for _ in range(3)] == [
        [1, None, 1], [2, None, 1], [3, None, 0],
    ]  # fmt: skip


def test_what_was_waited_for_is_never_dropped(
    stepped: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many publishers there are that have waited."""
    tighten(monkeypatch, BEHIND_MESSAGE_BYTES=1_100)
    monkeypatch.setattr("udsbus.engine.publishing.OUTPUT_PAUSE_BYTES", 1_000)
    reader = Reader(stepped, patterns=["t"], policy="block")
    first = behind_on_messages(stepped, reader)
    publishers = [session(stepped, f"p{n}") for n in range(100)]
    for n, publisher in enumerate(publishers):
        publisher.send([0, 1, "publish", ["t", bytes([first + n]) * 200, {"wait": 5}]])
        stepped.step()
    told: list[Any] = []
    for _ in range(20):
        told += reader.everything()
        assert len(reader.connection.output) < 20
    assert numbers(told) == list(range(first + 100))
    assert not stepped.statistics.dropped
    assert {stepped.receive(publisher)[3] for publisher in publishers} == {1}


def test_a_publisher_without_a_session_cannot_wait(stepped: SteppedBroker) -> None:
    reader = Reader(stepped, patterns=["t"], policy="block")
    publisher, _ = stepped.accepted()
    publisher.send([0, 1, "publish", ["t", b"\x01", {"wait": 5}]])
    assert stepped.receive(publisher) == [1, 1, None, 1]
    behind_on_messages(stepped, reader)
    publisher.send([0, 2, "publish", ["t", b"\x01", {"wait": 5}]])
    answer = stepped.receive(publisher)
    assert answer[3] == {"error": "invalid_request"}
    assert "session" in answer[2][1]


def test_in_a_batch_nothing_waits(stepped: SteppedBroker) -> None:
    client = session(stepped, "p")
    asked = [["publish", ["t", b"\x01", {"wait": 5}]], ["publish", ["t", b"\x01", {"wait": None}]]]
    client.send([0, 1, "batch", [asked]])
    results, refusals = stepped.receive(client)[3]
    assert results == [None, 0]
    assert refusals[0][1] == {"error": "invalid_request"}


def test_a_publisher_still_waits_after_an_undo(
    durable: SteppedBroker, disk: FailingJournal
) -> None:
    """Whoever was let go in a turn that is taken back waits on; the message is sent once."""
    reader = Reader(durable, patterns=["t"], policy="block")
    first = behind_on_messages(durable, reader)
    publisher, writer = session(durable, "p"), session(durable, "w")
    publisher.send([0, 1, "publish", ["t", b"\x01", {"wait": 5}]])
    durable.step()
    told = []
    while reader.is_behind:
        told.append(durable.receive(reader.client)[1:])
    assert durable.engine.publishing.unsettled
    disk.full = True
    writer.send([0, 1, "set", ["a", b"\x01"]])
    durable.step()
    assert len(durable.engine.waiting.waiters) == 1
    told += [[name, params] for name, *params in reader.everything()]
    sent = [params[1][0] for name, params in told if name == "message"]
    assert sent == [*range(first), 1]
    assert durable.receive(publisher) == [1, 1, None, 1]


def test_a_revision_of_which_no_more_follows_is_concluded_before_it_is_in_step(
    stepped: SteppedBroker,
) -> None:
    """The rest of it has given way to a change that this one does not want to be told of."""
    reader = Reader(stepped)
    stepped.engine.sessions[reader.connection.number] = "s"
    reader.ask("watch", "**", {"ignore_own": True})
    fall_behind(stepped, reader)
    number, value = reader.connection.number, bytes(2 * PIECE)
    stepped.engine.execute(0, m.SetMany({"large/a": value, "large/b": value}), stepped.now)
    reader.client.socket.settimeout(0)
    for _ in range(10_000):  # until the first half is on its way
        stepped.step()
        behind = reader.connection.behind
        assert behind is not None
        if behind._open is not None:
            break
        with contextlib.suppress(BlockingIOError):
            reader.client.receive()
    stepped.engine.execute(number, m.Set("large/b", b"own"), stepped.now)
    told = reader.everything()
    pieces = [one for one in told if one[0] == "changes"]
    assert pieces
    assert len(pieces[-1]) == 3, "no more follows"

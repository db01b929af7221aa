"""What was acknowledged is there again, whatever ended the broker; and disks that take no more."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, RawClient, running_broker, wait_until
from udsbus.errors import BrokerUnavailable
from udsbus.journal import Recovery, StateDirectory
from udsbus.journal.folding import fold
from udsbus.journal.repair import check, repair
from udsbus.messages import Recorded
from udsbus.version import PROTOCOL_VERSION


@pytest.fixture
def state(runtime: Path) -> Path:
    return runtime / "state"


@contextlib.contextmanager
def keeping(address: str, state: Path, durability: str = "process", **more: Any) -> Iterator[Any]:
    with running_broker(address, durability=durability, state=state, **more) as broker:
        yield broker


def everything(client: RawClient) -> dict[str, tuple[bytes, int]]:
    items, after = client.call("items", "**")
    assert after is None
    return {key: (value, revision) for key, value, revision in items}


ENDS = {
    "kill": lambda broker: broker.kill(),
    "SIGTERM": lambda broker: broker.stop(),
    "its program": lambda broker: broker.cut_lifeline(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("durability", ["process", "disk"])
def test_what_was_acknowledged_is_there_again(
    address: str, state: Path, durability: str, end: str
) -> None:
    with keeping(address, state, durability) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
        client.call("set_many", {"b": b"\x02", "c/d": b"\x03", "gone": b"\x04"})
        client.call("delete", "gone")
        client.call("increment", "number", {"by": 41})
        client.call("increment", "number")
        client.call("transaction", [["a", 1]], [["set", "a", b"\x05"], ["delete", "b"]])
        client.call("set", "lease", b"\x06", {"ttl": 1000})
        client.call("set", "lasting", b"\x07", {"ttl": 1000})
        client.call("persist", "lasting")
        client.call("expire", "c/d", 2000.0)
        before, revision = everything(client), client.call("ping")
        ENDS[end](broker)
        assert client.rest() is not None
    with keeping(address, state, durability) as broker, broker.connect() as client:
        assert everything(client) == before
        assert client.call("ping") == revision
        assert client.call("get", "number") == b"\x2a"
        assert 990 < client.call("ttl", "lease") < 1000
        assert 1990 < client.call("ttl", "c/d") < 2000
        assert client.call("ttl", "lasting") is None
        assert client.call("set", "a", b"\x08") == revision + 1


def test_what_expired_meanwhile_is_gone(address: str, state: Path) -> None:
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set", "short", b"\x01", {"ttl": 0.01})
        client.call("set", "long", b"\x01", {"ttl": 1000})
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("get", "short") is None
        wait_until(lambda: client.call("info")["keys"] == 1, "the expiry of what was due")
        assert client.call("get", "long") == b"\x01"


def test_many_ends(address: str, state: Path) -> None:
    """Nothing is lost or doubled over many lives, each of which begins a segment."""
    for number in range(1, 9):
        with keeping(address, state) as broker, broker.connect() as client:
            assert client.call("increment", "lives") == number
            broker.kill()
    assert len(list(state.glob("journal-*.log"))) == 8


def test_a_watch_goes_on_over_the_end(address: str, state: Path) -> None:
    with keeping(address, state) as broker, broker.connect() as client:
        for value in (b"\x01", b"\x02", b"\x03"):
            client.call("set", "a", value)
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        _, revision, missed = client.call("watch", "a", {"from_revision": 1})
        assert revision == 3
        assert missed == [[2, "updated", "a", b"\x02"], [3, "updated", "a", b"\x03"]]
        assert client.call("watch", "a", {"from_revision": 0})[2][0][:2] == [1, "created"]


def test_it_is_kept_who_wrote(address: str, state: Path) -> None:
    with keeping(address, state) as broker:
        with broker.connect() as named, broker.connect() as other:
            named.call("hello", PROTOCOL_VERSION, {"name": "somebody"})
            named.call("set", "a", b"\x01")
            other.call("set", "a", b"\x02")
            named.call("set", "a", b"\x03", {"ttl": 0.01})
            wait_until(lambda: other.call("info")["keys"] == 0, "the expiry")
    me = os.getpid(), os.getuid()
    assert writers_of(state) == [(*me, "somebody"), (*me, None), (*me, "somebody"), None]


def test_who_wrote_is_kept_when_the_first_attempt_failed(address: str, state: Path) -> None:
    """They are introduced with their first change, which is cut off again."""
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
        with broker.connect() as late:
            late.call("hello", PROTOCOL_VERSION, {"name": "late"})
            with full_disk(broker, state):
                late.refused("set", "a", b"\x02")
            wait_until(lambda: writable(late), "room again")
        client.call("set", "a", b"\x03")
    me = os.getpid(), os.getuid()
    assert writers_of(state) == [(*me, None), (*me, "late"), (*me, None)]


def writers_of(state: Path) -> list[Any]:
    """Who made each change in a journal."""
    directory = StateDirectory(str(state))
    writers: dict[int, Any] = {}
    told = []
    for _, turn in Recovery(directory):
        writers |= turn.writers
        for change in turn.changes:
            assert isinstance(change, Recorded)
            writer = writers.get(change.origin)
            told.append(writer and writer[:3])
    directory.close()
    return told


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_when_it_is_on_the_disk(address: str, state: Path, durability: str) -> None:
    with keeping(address, state, durability) as broker, broker.connect() as client:
        for number in range(3):
            client.call("set", "a", bytes([number]))
            journal = client.call("info")["journal"]
            if durability == "disk":
                assert journal["synced"] == journal["position"]

        written = client.call("info")["journal"]["position"]
        wait_until(
            lambda: client.call("info")["journal"]["synced"] >= written, "the journal on the disk"
        )


def test_without_durability_nothing_is_kept(address: str, state: Path) -> None:
    with running_broker(address) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
        info = client.call("info")
        assert (info["durability"], info["state"], info["journal"]) == ("none", None, None)
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("get", "a") is None
        assert client.call("info")["state"] == str(state)


def test_it_is_private(address: str, state: Path) -> None:
    with keeping(address, state):
        assert state.stat().st_mode & 0o777 == 0o700
        for path in state.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600


def test_two_brokers_never_have_the_same_state(address: str, state: Path, runtime: Path) -> None:
    with keeping(address, state) as broker:
        with pytest.raises(RuntimeError, match=f"belongs to a living broker, pid {broker.pid}"):
            BrokerProcess(runtime / "other.sock", durability="process", state=state)
        assert not (runtime / "other.sock").exists()
        with pytest.raises(BrokerUnavailable):
            StateDirectory(str(state))
        broker.kill()
        with keeping(str(runtime / "other.sock"), state):
            pass


def test_a_place_that_will_not_do(address: str, runtime: Path) -> None:
    (runtime / "file").write_text("")
    for place in (runtime / "file", runtime / "file" / "below", Path("/proc/udsbus")):
        with pytest.raises(RuntimeError) as caught:
            BrokerProcess(address, durability="process", state=place)
        last = str(caught.value).strip().splitlines()[-1]
        assert "AccessDenied" in last
        assert str(place) in last or "not a directory" in last.lower()
        assert not os.path.exists(address)


def test_a_damaged_journal_stops_the_start(address: str, state: Path) -> None:
    with keeping(address, state) as broker, broker.connect() as client:
        for number in range(10):
            client.call("set", f"key/{number}", b"\x01")
    segment = state / "journal-00000001.log"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"JournalDamaged.*journal-00000001.log, offset \d+"):
        BrokerProcess(address, durability="process", state=state)
    assert not os.path.exists(address)
    assert segment.read_bytes() == data


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["idle", "started again"])
def test_what_is_on_the_disk_is_known_to_be(address: str, state: Path, how: str) -> None:
    """Damage of it is no torn tail, though nothing was written after it."""
    with keeping(address, state) as broker, broker.connect() as client:
        for number in range(20):
            client.call("set", f"key/{number}", b"\x01")
        written = client.call("info")["journal"]["position"]
        if how == "idle":
            wait_until(
                lambda: client.call("info")["journal"]["synced"] >= written, "the disk to have it"
            )
        broker.kill()
    if how == "started again":
        with keeping(address, state) as broker:
            broker.kill()
    first = state / "journal-00000001.log"
    whole = first.read_bytes()
    flip(first, len(whole) // 2)
    with pytest.raises(RuntimeError, match="JournalDamaged"):
        BrokerProcess(address, durability="process", state=state)
    if how == "started again":
        first.unlink()
        with pytest.raises(RuntimeError, match=r"JournalDamaged.*missing"):
            BrokerProcess(address, durability="process", state=state)


def test_a_transaction_that_only_reads_changes_nothing_on_a_full_disk(
    address: str, state: Path
) -> None:
    """Not even what is due expires, which the journal could not take."""
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01", {"ttl": 0.2})
        client.call("set", "b", b"\x01")
        with full_disk(broker, state):
            assert not writable(client)
            wait_until(lambda: client.call("get", "a") is None, "the end of its time")
            reads = [["get", "a"], ["get", "b"]]
            assert client.call("transaction", [["a", 0]], reads) == [2, [None, b"\x01"]]
            assert client.call("ping") == 2
        wait_until(lambda: writable(client), "room again")


def test_after_a_repair_nobody_goes_on_as_if_nothing_was(address: str, state: Path) -> None:
    """Clients have seen what is no more: for them it is another bus, with later revisions."""
    with keeping(address, state) as broker, broker.connect() as client:
        for number in range(20):
            client.call("set", f"key/{number}", b"\x01")
        before = client.call("hello", PROTOCOL_VERSION)
        broker.stop()
    flip(state / "journal-00000001.log", 600)
    directory = StateDirectory(str(state))
    assert len(repair(directory)) == 1
    directory.close()
    for _ in range(2):
        with keeping(address, state) as broker, broker.connect() as client:
            after = client.call("hello", PROTOCOL_VERSION)
            assert after["bus"] != before["bus"]
            assert after["revision"] >= before["revision"] > 0
            if after["revision"] != before["revision"]:
                watch = client.call("watch", "**", {"from_revision": before["revision"]})
                assert watch[2] is None
            assert 0 < client.call("info")["keys"] < 20
            fold(str(state))
        before["revision"] = after["revision"]


def test_a_large_turn_is_more_than_one_record(address: str, state: Path) -> None:
    """Five values of 30 MiB are more than one record should hold."""
    big = b"\xc6" + (30 << 20).to_bytes(4, "big") + bytes(30 << 20)
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set_many", {"a": big, "b": big})
        client.call("set", "c", big)
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("count", "**") == [3, None]
        assert client.call("get", "c") == big


def test_segments_are_closed_when_they_are_long(address: str, state: Path) -> None:
    value = b"\xc6" + (3 << 20).to_bytes(4, "big") + bytes(3 << 20)
    with keeping(address, state) as broker, broker.connect() as client:
        for number in range(14):
            client.call("set", f"key/{number}", value)
        assert client.call("info")["journal"]["segment"] == 3
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("count", "**") == [14, None]


# --- a disk that takes no more --------------------------------------------------------------


@contextlib.contextmanager
def full_disk(broker: BrokerProcess, state: Path, room: int = 0) -> Iterator[None]:
    """The system lets no file of the broker's grow, but by `room` bytes."""
    size = max(path.stat().st_size for path in state.glob("journal-*.log"))
    before = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size + room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, before)


def writable(client: RawClient) -> bool:
    return client.request("set", "probe", b"\x01")[2] is None


WRITES: dict[str, list[Any]] = {
    "set": ["a", b"\x02"],
    "set_many": [{"a": b"\x02"}],
    "delete": ["a"],
    "increment": ["a"],
    "expire": ["a", 5.0],
    "persist": ["lease"],
    "transaction": [[], [["get", "a"], ["set", "a", b"\x02"]]],
    "publish": ["a", b"\x02", {"retain": True}],
    "unretain": ["a"],
}


@pytest.mark.parametrize("durability", ["process", "disk"])
@pytest.mark.parametrize("room", [0, 30], ids=["nothing", "a part"])
def test_writes_are_refused_while_the_disk_is_full(
    address: str, state: Path, durability: str, room: int
) -> None:
    with keeping(address, state, durability) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
        client.call("set", "lease", b"\x01", {"ttl": 1000})
        before = everything(client)
        with full_disk(broker, state, room):
            for method, params in WRITES.items():
                number, message, details = client.refused(method, *params)
                assert number == 12
                assert details == {"error": "storage_failed", "reason": "File too large"}
                assert str(state) in message
                assert "nothing has been changed" in message
            results, refusals = client.call("batch", [["set", ["a", b"\x02"]], ["get", ["a"]]])
            assert results == [None, b"\x01"]
            assert refusals[0][1]["error"] == "storage_failed"
            assert client.call("transaction", [["a", 1]], [["get", "a"]]) == [2, [b"\x01"]]
            assert everything(client) == before
            assert client.call("ping") == 2
            assert client.call("publish", "a", b"\x02") == 0  # which changes nothing
            assert client.call("publish", "a", b"\x02", {"retain": False}) == 0
            assert client.call("info")["journal"]["failure"] == "File too large"
        wait_until(lambda: writable(client), "room again")
        assert client.call("info")["journal"]["failure"] is None
        assert client.call("set", "a", b"\x03") == 4
        broker.kill()
    assert check(str(state)).fault is None, "no half record is left"
    with keeping(address, state, durability) as broker, broker.connect() as client:
        assert client.call("get", "a") == b"\x03"
        assert client.call("get", "probe") == b"\x01"
        assert client.call("ping") == 4


def test_the_turn_that_meets_a_full_disk_is_carried_out_without_its_writes(
    address: str, state: Path
) -> None:
    """All that came in one turn: reads see what was before it, and what has nothing to do with
    the journal is done once."""
    with keeping(address, state) as broker, broker.connect() as client, broker.connect() as other:
        client.call("set", "a", b"\x01")
        other.call("watch", "**")
        other.call("subscribe", ["**"])
        with full_disk(broker, state):
            client.send(
                [0, 1, "get", ["a"]],
                [0, 2, "watch", ["a"]],
                [0, 3, "set", ["a", b"\x02"]],
                [0, 4, "get", ["a"]],
                [0, 5, "watch", ["b"]],
                [0, 6, "publish", ["topic", b"\x05"]],
                [2, "set", ["a", b"\x02"]],
                [0, 7, "entry", ["a"]],
            )
            replies = {reply[1]: reply for reply in (client.receive() for _ in range(7))}
            assert replies[1][3] == replies[4][3] == b"\x01"
            assert replies[3][2][0] == 12
            assert replies[7][3] == [b"\x01", 1, None]
            assert replies[6][3] == 1
            info = client.call("info")
            assert (info["watches"], info["subscriptions"]) == (3, 1)
            assert info["counters"]["changes"] == 1
        with broker.connect() as probing:
            wait_until(lambda: writable(probing), "room again")
        assert client.call("set", "a", b"\x04") == 3
        assert client.receive() == [2, "change", [3, "updated", "a", b"\x04"]]
        assert [other.receive() for _ in range(3)] == [
            [2, "message", ["topic", b"\x05"]],
            [2, "change", [2, "created", "probe", b"\x01"]],
            [2, "change", [3, "updated", "a", b"\x04"]],
        ]


def test_a_lock_is_not_passed_on_while_the_disk_is_full(address: str, state: Path) -> None:
    """The release of it is undone with its turn, and so is that the next had it."""
    with (
        keeping(address, state) as broker,
        broker.connect() as holder,
        broker.connect() as waiter,
        broker.connect() as hasty,
    ):
        for number, client in enumerate((holder, waiter, hasty)):
            client.call("hello", 1, {"session": f"session {number}", "lane": 1, "unanswered": 9})
        token = holder.call("acquire", "a", 1, 0)
        waiter.send([0, 50, "acquire", ["a", 1, 0]])
        wait_until(lambda: len(holder.call("waiting")[0]) == 1, "one that waits")
        hasty.send([0, 60, "acquire", ["a", 1, 0, {"timeout": 0.5}]])
        wait_until(lambda: len(holder.call("waiting")[0]) == 2, "another that waits")
        with full_disk(broker, state):
            for _ in range(2):  # the turn that fails, and one that is refused from the outset
                assert holder.refused("release", "a", 1)[0] == 12
            assert hasty.receive() == [1, 60, None, None], "time goes on"
            ((key, _, revision),) = holder.call("items", "$sys/locks/**")[0]
            assert (key, revision) == ("$sys/locks/a/session 0.1", token)
            assert [row[2] for row in holder.call("waiting")[0]] == ["session 1"]
        with broker.connect() as probing:
            wait_until(lambda: writable(probing), "room again")
        assert holder.call("release", "a", 1) is True
        kind, msgid, error, token = waiter.receive()
        assert (kind, msgid, error) == (1, 50, None)
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        ((key, _, revision),) = client.call("items", "$sys/locks/**")[0]
        assert (key, revision) == ("$sys/locks/a/session 1.1", token)
        client.call("hello", 1, {"session": "session 1", "lane": 1, "unanswered": 9})
        client.send([0, 50, "acquire", ["a", 1, 0]])
        assert client.receive() == [1, 50, None, token], "the answer is kept, like that of a write"
        assert client.call("release", "a", 1) is True


def test_an_item_is_not_passed_on_while_the_disk_is_full(address: str, state: Path) -> None:
    """Who takes it, and that the next had room, is undone with its turn."""
    with (
        keeping(address, state) as broker,
        broker.connect() as taker,
        broker.connect() as putter,
        broker.connect() as hasty,
    ):
        for number, client in enumerate((taker, putter, hasty)):
            client.call("hello", 1, {"session": f"session {number}", "lane": 1, "unanswered": 9})
        taker.call("put", "q", b"\x01")
        taker.call("put", "r", b"\x07")
        putter.send([0, 50, "put", ["q", b"\x02", {"maxsize": 1}]])
        wait_until(lambda: taker.call("queue", "q")["putters"] == 1, "one that waits")
        hasty.send([0, 60, "put", ["q", b"\x03", {"maxsize": 1, "timeout": 0.5}]])
        wait_until(lambda: taker.call("queue", "q")["putters"] == 2, "another that waits")
        with full_disk(broker, state):
            for _ in range(2):  # the turn that fails, and one that is refused from the outset
                for method, *params in (("take", "q"), ("take", "r", {"claim": 1}), ("done", "r")):
                    assert taker.refused(method, *params)[0] == 12
            assert hasty.receive() == [1, 60, None, None], "time goes on"
            about = taker.call("queue", "q")
            assert (about["items"], about["putters"], about["unfinished"]) == (1, 1, 1)
            assert taker.call("queue", "r")["taken"] == 0
        with broker.connect() as probing:
            wait_until(lambda: writable(probing), "room again")
        assert taker.call("take", "q")[1] == b"\x01"
        kind, msgid, error, revision = putter.receive()
        assert (kind, msgid, error) == (1, 50, None)
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("hello", 1, {"session": "session 1", "lane": 1, "unanswered": 9})
        client.send([0, 50, "put", ["q", b"\x02", {"maxsize": 1}]])
        assert client.receive() == [1, 50, None, revision], "the answer is kept"
        assert client.call("take", "q") == [f"{revision:020}", b"\x02"]


def test_an_interrupted_get_is_put_right_when_there_is_room(address: str, state: Path) -> None:
    """It was answered, and before it could be put back the disk was full."""
    with keeping(address, state) as broker, udsbus.connect(address) as client:
        client.queue("q").put("item")
        client._stay()
        with contextlib.ExitStack() as stack:

            def fill(taken: bytes) -> None:
                stack.enter_context(full_disk(broker, state))
                raise KeyboardInterrupt

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("udsbus.primitives.queues.decode", fill)
                with pytest.raises(KeyboardInterrupt):
                    client.queue("q").get()
            with broker.connect() as probing:
                assert not writable(probing)
                assert client.queue("q").qsize() == 0
        wait_until(lambda: client.queue("q").qsize() == 1, "it to be in the queue again", 60)
        assert client.queue("q").get() == "item"


def test_who_is_gone_in_the_turn_that_has_served_him_is_answered_by_the_next_broker(
    address: str, state: Path
) -> None:
    """The answer is in the journal, under his lane, though his connection is there no more."""
    lane = {"session": "taker", "lane": 1, "unanswered": 2}
    with keeping(address, state) as broker, broker.connect() as taker, broker.connect() as putter:
        taker.call("hello", 1, lane)
        taker.send([0, 70, "take", ["q"]])
        wait_until(lambda: putter.call("queue", "q")["takers"] == 1, "it to wait")
        os.kill(broker.pid, signal.SIGSTOP)
        putter.send([0, 71, "put", ["q", b"\x07"]])
        taker.socket.close()
        os.kill(broker.pid, signal.SIGCONT)
        assert putter.receive()[:3] == [1, 71, None]
        served = putter.call("queue", "q")["items"] == 0
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as taker:
        taker.call("hello", 1, lane)
        taker.send([0, 70, "take", ["q", {"timeout": 0}]])
        answer = taker.receive()
        assert answer[:3] == [1, 70, None]
        assert answer[3] is not None
        assert answer[3][1] == b"\x07", served


def test_what_is_due_while_the_disk_is_full_expires_afterwards(address: str, state: Path) -> None:
    with keeping(address, state) as broker, broker.connect() as client, broker.connect() as other:
        client.call("set", "a", b"\x01", {"ttl": 0.3})
        other.call("watch", "a")
        with full_disk(broker, state):
            wait_until(lambda: client.call("get", "a") is None, "the end of its time")
            assert not writable(client)
            began = broker.cpu_seconds()
            assert other.socket.gettimeout()
            other.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                other.receive()
            assert broker.cpu_seconds() - began < 0.25, "it does not try all the time"
        other.socket.settimeout(20)
        assert other.receive() == [2, "change", [2, "expired", "a", None]]


def test_a_mark_of_being_on_the_disk_that_does_not_fit(address: str, state: Path) -> None:
    """It is written by the broker itself, after a second without a write; a part of it must not
    come between the records before and after."""
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
        with full_disk(broker, state, room=10):
            wait_until(
                lambda: client.call("info")["journal"]["failure"] is not None, "the failing mark"
            )
        wait_until(lambda: writable(client), "room again")
        client.call("set", "a", b"\x02")
        broker.kill()
    assert check(str(state)).fault is None
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("get", "a") == b"\x02"


def test_a_broker_that_starts_on_a_full_disk_serves_reads(address: str, state: Path) -> None:
    with keeping(address, state) as broker, broker.connect() as client:
        client.call("set", "a", b"\x01")
    # Not even the header of a new segment fits. (The pid in the lock does.)
    with (
        keeping(address, state, under=("prlimit", "--fsize=20:unlimited", "--")) as broker,
        broker.connect() as client,
    ):
        assert client.call("get", "a") == b"\x01"
        assert client.refused("set", "a", b"\x02")[0] == 12
        pid = client.call("info")["pid"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_until(lambda: writable(client), "room again")
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("get", "probe") == b"\x01"


STRACE = "strace fails system calls of a broker from outside: apt-get install strace"


def failing(call: str, when: str, error: str = "EIO") -> tuple[str, ...]:
    """What runs a broker so that some calls of `call` fail."""
    return (
        *("strace", "-f", "-qq", "-o", "/dev/null"),
        *("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}", "--"),
    )


def strace_works() -> bool:
    try:
        done = subprocess.run(
            [*failing("fdatasync", "1"), "true"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


needs_strace = pytest.mark.skipif(not os.environ.get("CI") and not strace_works(), reason=STRACE)


@needs_strace
@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_disk_that_fails_to_sync(address: str, state: Path, durability: str) -> None:
    under = failing("fdatasync", "2..3" if durability == "disk" else "1..2")
    with keeping(address, state, durability, under=under) as broker, broker.connect() as client:
        if durability == "disk":
            assert client.call("set", "a", b"\x01") == 1
            assert client.refused("set", "a", b"\x02")[2]["reason"] == "Input/output error"
        else:
            client.call("set", "a", b"\x01")
            wait_until(lambda: not writable(client), "the sync that fails")
        assert client.call("get", "a") == b"\x01"
        wait_until(lambda: writable(client), "the sync that does not")
        revision = client.call("set", "a", b"\x03")
        os.kill(client.call("info")["pid"], signal.SIGKILL)
        client.rest()
    with keeping(address, state) as broker, broker.connect() as client:
        assert client.call("get", "a") == b"\x03"
        assert client.call("ping") == revision


@needs_strace
def test_what_cannot_even_be_cut_off_counts_for_nothing(address: str, state: Path) -> None:
    """A write that got through in part, and a disk that does not let it be taken back."""
    with (
        keeping(
            address,
            state,
            under=failing("ftruncate", "3+"),  # the first two are those of the locks
        ) as broker,
        broker.connect() as client,
    ):
        client.call("set", "a", b"\x01")
        pid = client.call("info")["pid"]
        size = (state / "journal-00000001.log").stat().st_size
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 30, limits[1]))
        assert client.refused("set", "a", b"\x02")[0] == 12
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        wait_until(lambda: writable(client), "room again")
        assert (state / "journal-00000001.log").stat().st_size == size + 30
        assert client.call("info")["journal"]["segment"] == 2
        os.kill(pid, signal.SIGKILL)
        client.rest()
    assert check(str(state)).fault is None
    with keeping(address, state) as broker, broker.connect() as client:
        assert everything(client) == {"a": (b"\x01", 1), "probe": (b"\x01", 2)}


def test_clients_that_come_and_go_while_the_disk_is_full(address: str, state: Path) -> None:
    """They are let in; what is to be written of it is written when there is room."""

    def clients(raw: RawClient) -> list[str]:
        keys, _ = raw.call("keys", "$sys/clients/*")
        return [key.rpartition("/")[2] for key in keys]

    with keeping(address, state) as broker, broker.connect() as client:
        with broker.connect() as leaver:
            leaver.call("hello", PROTOCOL_VERSION, {"session": "leaver"})
            leaver.call("set", "its", b"\x01", {"ephemeral": True})
            with full_disk(broker, state):
                assert client.refused("set", "a", b"\x01")[0] == 12
                assert client.refused("kick", "leaver")[0] == 12
                assert leaver.call("goodbye")
                with broker.connect() as comer:
                    comer.call("hello", PROTOCOL_VERSION, {"session": "comer"})
                    assert client.refused("set", "a", b"\x01")[0] == 12
                    assert client.call("get", "its") == b"\x01"
                    assert clients(client) == ["leaver"]
                    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (-1, -1))
                    wait_until(lambda: clients(client) == ["comer"], "room again")
                    assert client.call("get", "its") is None
        broker.kill()
    with keeping(address, state) as broker, broker.connect() as client:
        assert clients(client) == ["comer"], "it has a while to come back"
        assert client.call("get", "its") is None

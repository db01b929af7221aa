"""The version page: when in a turn it tells of a change, and that it tells of the broker's end."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgpack
import pytest

from tests.client.support import in_child
from tests.harness import RawClient
from udsbus.broker import versionpage
from udsbus.broker.versionpage import (
    FIRST,
    NOWHERE,
    RECORDS_AHEAD,
    RECORDS_AT,
    REVISION,
    VersionedReads,
    VersionPage,
    version_page,
    word_of,
)
from udsbus.errors import StorageFailed
from udsbus.hub import best_hub
from udsbus.limits import VERSION_RECORDS
from udsbus.messages import Answered, Effect, Read
from udsbus.records import RECORD_BYTES, ROOM, read_record, write_record
from udsbus.terms import CloseReason
from udsbus.wire.methods import METHODS

from .stepped import SteppedBroker, stepped_broker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the version page needs Linux")


ANOTHER = next(key for key in ("b", "c") if word_of(key) != word_of("a"))
"""A key that does not share its word with `a`, by chance."""


class Disk:
    """A journal that says when it is written."""

    durable = wants_answers = True

    def __init__(self) -> None:
        self.written: Callable[[], None] = lambda: None

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        self.written()
        return True

    def close(self) -> None:
        pass


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def broker(address: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedBroker]:
    yield from stepped_broker(address, best_hub(), monkeypatch, disk)


def says(broker: SteppedBroker, key: str) -> int:
    assert broker.page is not None
    return broker.page.words[word_of(key)]


# --- within a turn --------------------------------------------------------------------------------


def test_it_tells_of_a_change_when_that_is_safe_and_nobody_knows_of_it(
    broker: SteppedBroker, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    page = broker.page
    assert page is not None
    expose = page.expose
    writer, _ = broker.accepted()
    watcher, _ = broker.accepted()
    watcher.send((0, 1, "watch", ["**"]))
    broker.step()
    assert broker.receive(watcher)[:2] == [1, 1]

    def written() -> None:
        assert says(broker, "a") == 0
        happened.append("written")

    def exposed(*arguments: Any) -> None:
        for client in (writer, watcher):
            client.socket.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.receive()
        assert says(broker, "a") == 0
        expose(*arguments)
        happened.append("exposed")

    disk.written = written
    monkeypatch.setattr(page, "expose", exposed)
    writer.send((0, 1, "set", ["a", b"\x01"]))
    broker.step()
    assert happened == ["written", "exposed"]
    assert broker.receive(writer) == [1, 1, None, 1]
    assert broker.receive(watcher) == [2, "change", [1, "created", "a", b"\x01"]]
    assert says(broker, "a") == 1
    assert page.words[REVISION] == 1


def test_what_is_read_in_the_turn_of_a_change_is_not_taken_for_known(broker: SteppedBroker) -> None:
    """Whether it was read before the change or after it: the number is that of before."""
    client, _ = broker.accepted()
    client.send(
        (0, 1, "read", ["a"]), (0, 2, "set", ["a", b"\x01"]), (0, 3, "read_many", [["a", "b"]])
    )
    broker.step()
    word = word_of("a")
    assert broker.receive(client) == [1, 1, None, [word, 0]]
    assert broker.receive(client) == [1, 2, None, 1]
    assert broker.receive(client) == [1, 3, None, [[word, 0, b"\x01", 1], [word_of("b"), 0]]]
    assert says(broker, "a") == 1
    client.send((0, 4, "read", ["a"]), (0, 5, "read", ["a", {"bare": True}]))
    broker.step()
    assert broker.receive(client) == [1, 4, None, [word, 1, b"\x01", 1]]
    assert broker.receive(client) == [1, 5, None, [word, 1, None, 1]]


def test_a_change_that_never_happened(broker: SteppedBroker, disk: Disk) -> None:
    client, _ = broker.accepted()

    def full() -> None:
        raise StorageFailed("the disk is full", reason="no room")

    disk.written = full
    client.send((0, 1, "set", ["a", b"\x01"]))
    broker.step()
    assert says(broker, "a") == 0
    assert broker.page is not None
    assert broker.page.words[REVISION] == 0
    broker.step()
    assert broker.receive(client)[2][1] == "the disk is full"


@pytest.mark.parametrize(
    ("requests", "number"),
    [
        ([("set", "a", b"\x02")], 1),
        ([("set", "a", b"\x02"), ("set", "a", b"\x03")], 2),
        ([("delete", "a")], 1),
        ([("increment", "a")], 1),
        ([("expire", "a", 5.0)], 1),
        ([("expire", "a", 5.0), ("persist", "a")], 2),
        ([("set_many", {"a": b"\x02", "z": b"\x02"})], 1),
        ([("transaction", [], [["set", "a", b"\x02"], ["delete", "a"]])], 1),
        ([("batch", [["set", ["a", b"\x02"]], ["get", ["a"]]])], 1),
        ([("get", "a"), ("entry", "a"), ("keys", "**"), ("read", "a")], 0),
        ([("set", "a", b"\x01", {"if_changed": True})], 0),
        ([("set", ANOTHER, b"\x01"), ("publish", "a", b"\x01")], 0),
    ],
)  # fmt: skip
def test_what_changes_it(
    broker: SteppedBroker, requests: list[tuple[Any, ...]], number: int
) -> None:
    client, _ = broker.accepted()
    client.send((0, 1, "set", ["a", b"\x01"]))
    broker.step()
    before = says(broker, "a")
    client.send(*((0, 2, name, list(params)) for name, *params in requests))
    broker.step()
    assert (says(broker, "a") > before) is (number > 0)
    assert broker.page is not None
    assert broker.page.words[REVISION] == broker.engine.revision


def test_what_expires(broker: SteppedBroker) -> None:
    client, _ = broker.accepted()
    client.send((0, 1, "set", ["a", b"\x01", {"ttl": 1.0}]))
    broker.step()
    before = says(broker, "a")
    broker.now += 1.0
    broker.step()
    assert says(broker, "a") == before + 1


def test_what_belonged_to_a_session_is_gone_when_its_goodbye_is_answered(
    broker: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = broker.turn.sessions
    goodbye = partial(sessions.end, reason=CloseReason.PEER_CLOSED, why="it says goodbye")

    def end(number: int, now: float) -> bool:
        return goodbye(broker.engine.sessions[number], now=now, keep=number)

    broker.turn._answering.routes["goodbye"] = 0, end, METHODS["goodbye"]
    client, connection = broker.accepted()
    sessions.join(
        connection.number, "s", connection.peer, connection.socket, None, None, broker.now
    )
    ask(broker, client, ("set", "a", b"\x01", {"ephemeral": True}))
    before = says(broker, "a")
    client.send((0, 2, "goodbye", []))
    broker.step()
    assert "a" not in broker.engine.keyspace.entries
    assert says(broker, "a") == before + 1
    assert broker.receive(client)[:2] == [1, 1]
    assert broker.receive(client) == [1, 2, None, True]


# --- records --------------------------------------------------------------------------------------


def record(broker: SteppedBroker, key: str) -> tuple[bytes | None, int] | None:
    assert broker.page is not None
    at = RECORDS_AT + (word_of(key) - FIRST) % VERSION_RECORDS * RECORD_BYTES
    return read_record(broker.page._memory, at, says(broker, key), key.encode())


def ask(broker: SteppedBroker, client: RawClient, *requests: tuple[Any, ...]) -> None:
    """All in one turn."""
    client.send(*((0, 1, name, list(params)) for name, *params in requests))
    broker.step()


def test_what_clients_have_asked_for_gets_a_record(broker: SteppedBroker) -> None:
    client, _ = broker.accepted()
    ask(broker, client, ("set", "a", b"\x01"))
    assert record(broker, "a") is None, "nobody wants it"
    ask(broker, client, ("get", "a"), ("entry", "a"), ("set", "a", b"\x02"))
    assert record(broker, "a") is None, "nor is that what a client asks who reads from memory"
    ask(broker, client, ("read", "a"))
    assert record(broker, "a") is None, "it is for what comes next"
    for number in range(RECORDS_AHEAD - 3):
        ask(broker, client, ("set", "a", bytes([number & 0x7F])))
        assert record(broker, "a") == (bytes([number & 0x7F]), broker.engine.revision)
    ask(broker, client, ("set", "a", b"\x03"), ("set", "a", b"\x04"), ("set", "b", b"\x05"))
    assert record(broker, "a") == (b"\x04", broker.engine.revision - 1), "the newest of a turn"
    ask(broker, client, ("delete", "a"))
    assert record(broker, "a") == (None, 0)
    ask(broker, client, ("set", "a", b"\x01"))
    assert record(broker, "a") == (b"\x01", broker.engine.revision)
    ask(broker, client, ("set", "a", b"\x02"))
    assert record(broker, "a") is None, "nobody has asked for so long"
    ask(broker, client, ("read_many", ["b", "a"]), ("set", "a", b"\x07"))
    assert record(broker, "a") == (b"\x07", broker.engine.revision)


@pytest.mark.parametrize(
    "requests",
    [
        [("set", "a", b"\x02", {"ttl": 5.0})],
        [("set", "a", b"\x02"), ("expire", "a", 5.0)],
        [("expire", "a", 5.0)],
        [("expire", "a", 5.0), ("increment", "a")],
        [("set", "a", b"\xc4" * ROOM)],
    ],
)  # fmt: skip
def test_what_gets_none(broker: SteppedBroker, requests: list[tuple[Any, ...]]) -> None:
    client, _ = broker.accepted()
    ask(broker, client, ("set", "a", b"\x01"), ("read", "a"))
    ask(broker, client, *requests)
    assert record(broker, "a") is None
    ask(broker, client, ("read", "a"), ("set", "a", b"\xc4" * (ROOM - 1)))
    assert record(broker, "a") == (b"\xc4" * (ROOM - 1), broker.engine.revision)


def test_no_record_is_written_before_all_words_of_the_turn_tell_of_it(
    broker: SteppedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would see a part of a transaction."""
    client, _ = broker.accepted()
    ask(broker, client, ("read_many", ["a", ANOTHER]))
    seen = []

    def written(*arguments: Any) -> None:
        assert broker.page is not None
        seen.append((says(broker, "a"), says(broker, ANOTHER), broker.page.words[REVISION]))
        write_record(*arguments)

    monkeypatch.setattr(versionpage, "write_record", written)
    ask(broker, client, ("set_many", {"a": b"\x01", ANOTHER: b"\x01"}))
    assert seen == [(1, 1, 1), (1, 1, 1)]
    assert record(broker, "a") == record(broker, ANOTHER) == (b"\x01", 1)


def test_only_so_many_are_noted(broker: SteppedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versionpage, "VERSION_RECORDS", 10)
    client, _ = broker.accepted()
    ask(broker, client, ("read_many", [f"k{number}" for number in range(95)]))
    assert broker.page is not None
    assert len(broker.page._read) == 0
    ask(broker, client, ("read_many", ["a", "b"]))
    assert len(broker.page._read) == 2


# --- the end of a broker --------------------------------------------------------------------------


ENDS: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "ended": lambda: os._exit(0),
    "became another": lambda: os.execv("/bin/true", ["true"]),
}


@pytest.mark.parametrize("how", ENDS)
def test_it_tells_of_the_end_of_its_process_before_anything_else_does(how: str) -> None:
    """Often, for it is about which comes first: the word, or the end of a connection."""
    for _ in range(50 if how == "killed" else 5):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            page = VersionPage(7)
            socket.send_fds(theirs, [msgpack.packb(page.about())], [page.fd])
            theirs.recv(1)
            ENDS[how]()
            os._exit(1)
        theirs.close()
        with ours:
            about, descriptors, _, _ = socket.recv_fds(ours, 100, 1)
            life, alive = msgpack.unpackb(about)["life"]
            words = memoryview(mmap.mmap(descriptors[0], 0, prot=mmap.PROT_READ)).cast("Q")
            os.close(descriptors[0])
            assert (words[REVISION], words[life]) == (7, alive)
            ours.send(b"x")
            assert ours.recv(1) == b"", "its sockets are closed"
            assert words[life] != alive
        os.waitpid(pid, 0)


ENDS_OF_INTERPRETERS = ("", "raise ValueError", "sys.exit(3)", "del page; import gc; gc.collect()")


@pytest.mark.parametrize("end", ENDS_OF_INTERPRETERS)
def test_an_interpreter_that_ends_as_usual(end: str) -> None:
    """It lets go of all that it has, the page among it, before its process ends."""
    ours, theirs = socket.socketpair()
    source = (
        "import socket, sys, msgpack; from udsbus.broker.versionpage import VersionPage\n"
        "page = VersionPage(7); told = msgpack.packb(page.about())\n"
        f"socket.send_fds(socket.socket(fileno={theirs.fileno()}), [told], [page.fd])\n{end}\n"
    )
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", source], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
        )
        about, (descriptor,), _, _ = socket.recv_fds(ours, 200, 1)
    words = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)).cast("Q")
    os.close(descriptor)
    life, alive = msgpack.unpackb(about)["life"]
    assert words[REVISION] == 7
    assert words[life] != alive


def test_a_page_that_is_retired() -> None:
    def work() -> list[bool]:
        page = VersionPage(7)
        seen = [page.words[page.life] == page.alive, page.words[REVISION] == 7]
        page.retire()
        os.fstat(page.fd)  # which may be on its way out with a `hello`
        page.close()
        seen.append(page.words[page.life] == page.alive)
        another = VersionPage(8)
        seen.append(another.words[another.life] == another.alive)
        return seen

    assert in_child(work) == [True, True, False, True]


# --- where there is none --------------------------------------------------------------------------


def test_a_system_without_memfds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert version_page(1) is None
    assert "no memfd" in caplog.text


@pytest.mark.parametrize("failing", ["pthread_mutexattr_setrobust", "pthread_mutex_lock"])
def test_a_system_without_robust_locks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    library = ctypes.CDLL(None)

    class Poor:
        def __getattr__(self, name: str) -> Any:
            if name == failing and "set" in name:
                raise AttributeError(name)
            return (lambda *_: 95) if name == failing else getattr(library, name)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Poor())
    before = len(os.listdir("/proc/self/fd"))
    assert version_page(1) is None
    assert "robust" in caplog.text or "not supported" in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= before


def test_reads_without_a_page() -> None:
    reads = VersionedReads({"a": (b"\x01", 5, None)}, None).handlers[Read]
    assert reads(1, 0.0, "a") == (NOWHERE, 0, b"\x01", 5)
    assert reads(1, 0.0, "b") == (NOWHERE, 0)

"""What a client remembers, when brokers end, stop and follow each other; and pages that will not
do."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import BrokerUnavailable, CacheInfo, Client, LocalBroker, RequestTimeout
from udsbus.client import cache as cache_module
from udsbus.client.cache import Page

from .support import PATIENCE, FakeBroker, in_child, in_threads, stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the version page needs Linux")


def remembers(client: Client, key: str, value: object) -> None:
    """It does not ask for what it has read."""
    client.get(key)
    before = client.cache_info()
    assert client.get(key) == value
    assert client.cache_info().hits == before.hits + 1


# --- one broker after the other -------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_a_broker_nothing_is_known(address: str, end: str) -> None:
    with (
        running_broker(address) as broker,
        udsbus.connect(address, timeout=0.3) as client,
        udsbus.connect(address, timeout=0.3) as reader,
    ):
        client.set("a", 1)
        remembers(client, "a", 1)
        remembers(reader, "a", 1)
        getattr(broker, end)()
        for each in (client, reader):
            assert not each.cache_info().active
            for read in (each.get, each.exists, each.entry):
                with pytest.raises(BrokerUnavailable):
                    read("a")
            with pytest.raises(BrokerUnavailable):
                each.get_many(["a"])
            with pytest.raises(BrokerUnavailable):
                each.revision()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_next_broker_begins_anew(address: str, end: str) -> None:
    """It has nothing of what the first had, and the same numbers stand in its page."""
    with contextlib.ExitStack() as clients:
        with running_broker(address) as broker:
            client = clients.enter_context(udsbus.connect(address, timeout=PATIENCE))
            client.set("a", "of the first")
            remembers(client, "a", "of the first")
            remembers(client, "b", None)
            getattr(broker, end)()
        with running_broker(address), udsbus.connect(address) as other:
            other.set("b", "of the second")
            assert client.get("a") is None
            assert client.get("b") == "of the second"
            remembers(client, "b", "of the second")
            other.set("b", 2)
            assert client.get("b") == 2


def test_a_takeover(runtime: Path) -> None:
    with LocalBroker(state=str(runtime / "state")) as broker:
        with broker.connect(timeout=PATIENCE) as client, broker.connect() as other:
            client.set("a", 0)
            for number in range(1, 4):
                remembers(client, "a", number - 1)
                with broker.connect() as waits:
                    wait_until(lambda: waits.info()["standby"], "a standby")
                os.kill(broker.pid, signal.SIGKILL)
                other.set("a", number)
                assert client.get("a") == number
                assert client.cache_info().active


def test_a_broker_that_stands_still_changes_nothing(address: str) -> None:
    with running_broker(address) as broker, udsbus.connect(address, timeout=0.3) as client:
        client.set("a", 1)
        remembers(client, "a", 1)
        with stopped(broker.pid):
            remembers(client, "a", 1)
            with pytest.raises(RequestTimeout):
                client.get("b")
            with pytest.raises(RequestTimeout):
                client.get("a", fresh=True)
            remembers(client, "a", 1)


def test_a_time_to_live_ends_while_the_broker_stands_still(address: str) -> None:
    with running_broker(address) as broker, udsbus.connect(address, timeout=0.2) as client:
        client.set("a", 1, ttl=2)
        remembers(client, "a", 1)
        with stopped(broker.pid):
            time.sleep(2.1)  # longer than its time to live
            with pytest.raises(RequestTimeout):
                client.get("a")


def test_a_broker_that_still_says_goodbye_knows_nothing_any_more(address: str) -> None:
    """It waits for a peer that takes its reply late, and has let go of the address already."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_broker(address))
        client = stack.enter_context(udsbus.connect(address, timeout=PATIENCE))
        late = stack.enter_context(broker.connect())
        client.set("a", "old")
        remembers(client, "a", "old")
        late.call("set", "large", b"\xc6" + (1 << 20).to_bytes(4, "big") + bytes(1 << 20))
        late.send((0, 1, "get", ["large"]))
        wait_until(lambda: select.select([late.socket], [], [], 0)[0], "its reply to begin")
        witness = stack.enter_context(broker.connect())
        assert witness.call("get", "a")
        os.kill(broker.pid, signal.SIGTERM)
        assert witness.receive()[1] == "closing"
        with pytest.raises(EOFError):  # as for the client, whose connection is an earlier one
            witness.receive()
        with stopped(broker.pid):  # so that it is not gone before its time
            stack.enter_context(running_broker(address))
            with udsbus.connect(address) as other:
                other.set("a", "new")
                assert client.get("a") == "new"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_two_brokers_at_one_address(address: str, runtime: Path, kind: str) -> None:
    """Somebody has removed the socket and its lock. All of a client go to the one that answers."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running_broker(address))
        client = stack.enter_context(udsbus.connect(address, timeout=PATIENCE))
        client.set("a", 1)
        remembers(client, "a", 1)

        async def work() -> None:
            async with udsbus.connect_async(address, timeout=PATIENCE) as mine:
                assert await mine.get("a") == 1
                begin_another()
                client.kick(mine.session)
                with contextlib.suppress(BrokerUnavailable):  # it may have come just before
                    await mine.set("b", 2)
                await check_async(mine)

        async def check_async(mine: udsbus.AsyncClient) -> None:
            for number in range(3):
                await mine.set("a", number)
                assert await mine.get("a") == number
            assert (await mine.info())["pid"] == second[0].pid

        def begin_another() -> None:
            for name in os.listdir(runtime):
                os.unlink(runtime / name)
            second.append(stack.enter_context(running_broker(address, first_revision=1_000)))

        second: list[BrokerProcess] = []
        if kind == "async":
            anyio.run(work)
            return
        begin_another()
        remembers(client, "a", 1)  # this thread is with the first

        def in_thread() -> int:
            assert client.get("a") is None or client.get("a") == 1
            revision = client.set("a", 2)
            assert client.get("a") == 2
            assert client.revision() == revision
            return 1

        in_threads(in_thread)
        assert client.get("a") == 2, "and is with the second now"
        assert client.info()["pid"] == second[0].pid != first.pid


def test_a_page_of_the_next_broker_is_found_by_a_connection_that_waited(address: str) -> None:
    """It asked for no page, because there was one, and a broker that has another answered."""
    with running_broker(address) as broker, udsbus.connect(address, timeout=PATIENCE) as client:
        client.set("a", 1)
        greet = client._hello
        ended: list[bool] = []

        def hello(*arguments: Any, **options: Any) -> Any:
            call = greet(*arguments, **options)
            if not ended:  # it is on its way now
                ended.append(options["page"])
                broker.kill()
                following.enter_context(running_broker(address))
            return call

        with contextlib.ExitStack() as following:
            client._hello = hello  # type: ignore[method-assign]
            client._own.connection = None  # as in another thread
            client.set("a", 2)
            assert ended == [False]
            remembers(client, "a", 2)


# --- processes and threads ------------------------------------------------------------------------


def test_a_child_after_a_fork(client: Client, bus: BrokerProcess) -> None:
    with udsbus.connect(bus.address) as other:
        other.set("a", 1)
        remembers(client, "a", 1)

        def work() -> list[int]:
            seen = [client.get("a")]
            client.set("a", 2)
            seen.append(client.get("a"))
            remembers(client, "a", 2)
            return seen

        assert in_child(lambda: client.cache_info()[2:4] if client.ping() else ()) == (0, 0)
        assert in_child(work) == [1, 2]
        assert client.get("a") == 2
        remembers(client, "a", 2)
        other.set("a", 3)
        assert client.get("a") == 3


def test_threads_share_what_is_remembered(client: Client, bus: BrokerProcess) -> None:
    client.set("a", 0)
    done = threading.Event()

    def read() -> int:
        last = looked = 0
        while not done.is_set() or not looked:
            value = client.get("a")
            assert value >= last
            entry = client.entry("a")
            assert entry is not None
            assert entry.value >= value
            last, looked = entry.value, looked + 1
        return looked

    def write() -> int:
        with udsbus.connect(bus.address) as other:
            for number in range(1, 101):
                other.set("a", number)
                assert client.get("a") == number
            done.set()
        return 1

    assert all(in_threads(read, read, read, write))


def write_and_say(address: str, said: Any, seconds: float) -> None:
    with udsbus.connect(address) as client:
        until = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until:
            number += 1
            client.set_many({"a": number, "b": number})
            said.value = number
        said.value = -1


def read_and_compare(address: str, said: Any, found: Any) -> None:
    with udsbus.connect(address) as client:
        last = reads = 0
        while (known := said.value) >= 0:
            which = reads % 4
            if which == 0:
                value = client.get("a")
            elif which == 1:
                both = client.get_many(["a", "b"])
                assert both["a"] == both["b"], both
                value = both["a"]
            elif which == 2:
                first = client.get("a")
                value = client.get("b")
                assert value >= first, "they are written together"
            else:
                entry = client.entry("b")
                assert entry is not None
                value = entry.value
            assert value >= known, f"{value} was read after {known} had been written"
            assert value >= last, f"{value} was read after {last}"
            last, reads = value, reads + 1
        found.put((reads, client.cache_info().hits))


def test_no_read_is_older_than_what_its_process_can_know(bus: BrokerProcess) -> None:
    """The writer says in memory that all share what was acknowledged to it, which is no message of
    the broker's."""
    context = multiprocessing.get_context("spawn")
    said, found = context.Value("q", 0, lock=False), context.SimpleQueue()
    with udsbus.connect(bus.address) as client:
        client.set_many({"a": 0, "b": 0})
        readers = [
            context.Process(target=read_and_compare, args=(bus.address, said, found))
            for _ in range(3)
        ]
        for each in readers:
            each.start()
        write_and_say(bus.address, said, 2)
        for each in readers:
            each.join()
            assert each.exitcode == 0
        for _ in readers:
            reads, hits = found.get()
            assert reads > 100
            assert hits > 100
        client.delete("a")
        client.delete("b")


# --- how much is remembered -----------------------------------------------------------------------


def test_what_nobody_can_change_is_not_made_anew(client: Client) -> None:
    constants: list[Any] = ["a text of some length", b"\x00" * 100, 2**40, 0.5, (1, "a")]
    for value in [*constants, datetime.date.today()]:
        client.set("a", value)
        assert client.get("a") is client.get("a")
        assert client.get("a") == value
    others: list[Any] = [[1], {"a": 1}, {1}, (1, [2]), ("ab",) * 1_000]
    for value in others:
        client.set("a", value)
        assert client.get("a") == client.get("a") == value
        assert client.get("a") is not client.get("a")


def test_what_comes_back_from_the_older_generation_is_as_quick(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CACHE_ENTRIES", 4)
    client.set("a", "a text of some length")
    client.get("a")
    client.get("b")
    client.get("c")
    assert client.get("a") is client.get("a")
    assert client.cache_info().misses == 3


def test_more_keys_than_it_could_remember(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CACHE_ENTRIES", 20)
    keys = [f"k/{number}" for number in range(11)]
    client.set_many(dict.fromkeys(keys, 1))
    for _ in range(2):
        assert client.get_many(keys) == dict.fromkeys(keys, 1)
    assert client.cache_info() == CacheInfo(0, 0, 0, 0, True)
    for _ in range(2):
        assert client.get_many(keys[1:]) == dict.fromkeys(keys[1:], 1)
    assert client.cache_info()[:3] == (10, 10, 10)


def test_names_take_memory_too(client: Client) -> None:
    for number in range(10):
        client.get(f"{number}" * 1_000)
    assert 20_000 < client.cache_info().bytes < 30_000


def test_what_was_not_used_for_long_is_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CACHE_ENTRIES", 100)
    with client.pipeline() as pipeline:
        for number in range(1_000):
            pipeline.set(f"k/{number}", number)
    for number in range(1_000):
        assert client.get(f"k/{number}") == number
        assert client.get("k/0") == 0
        assert client.cache_info().entries <= 101
    info = client.cache_info()
    assert info.hits == 1_000, "k/0 was used all the time"
    assert info.bytes < 101 * 400


def test_large_values_do_not_take_all_memory(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "CACHE_BYTES", 1_000_000)
    for number in range(100):
        client.set(f"k/{number}", "x" * 20_000)
        client.get(f"k/{number}")
        assert client.cache_info().bytes <= 1_000_000
    assert client.cache_info().bytes > 400_000
    client.set("large", "x" * 100_000)
    before = client.cache_info()
    for _ in range(3):
        assert len(client.get("large")) == 100_000
    assert client.cache_info().hits == before.hits, "an eighth of it all is too much for one"
    client.set("k/0", "x" * 100_000)
    assert len(client.get("k/0")) == 100_000


# --- pages that will not do -----------------------------------------------------------------------


@contextlib.contextmanager
def memfd(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> Iterator[int]:
    fd = os.memfd_create("page", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def plain_file(directory: Path) -> Iterator[int]:
    with (directory / "page").open("w+b") as file:
        file.truncate(4096)
        yield file.fileno()


def about(**other: Any) -> dict[str, Any]:
    """What a broker might say of a page of 4,096 bytes."""
    return {"life": [8, 0], "words": [16, 112], "records": [1024, 12]} | other


BAD: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[int]], Any]] = {
    "a file that could be cut short": (plain_file, about()),
    "not sealed": (lambda _: memfd(4096, 0), about()),
    "empty": (lambda _: memfd(0), about()),
    "too short": (lambda _: memfd(4088), about()),
    "no multiple of a word": (lambda _: memfd(4095), about()),
    "life before it": (lambda _: memfd(4096), about(life=[-1, 0])),
    "life behind it": (lambda _: memfd(4096), about(life=[512, 0])),
    "words behind it": (lambda _: memfd(4096), about(words=[16, 1000])),
    "words before it": (lambda _: memfd(4096), about(words=[-16, 10])),
    "records behind it": (lambda _: memfd(4096), about(records=[1024, 13])),
    "records before it": (lambda _: memfd(4096), about(records=[-1024, 1])),
    "no records": (lambda _: memfd(4096), about(records=[1024, 0])),
    "no whole number": (lambda _: memfd(4096), about(life=[8.0, 0])),
    "no number": (lambda _: memfd(4096), about(life=["x", 0])),
    "nothing told": (lambda _: memfd(4096), None),
    "too little told": (lambda _: memfd(4096), {"life": [8, 0]}),
    "too much told": (lambda _: memfd(4096), about(life=[8, 0, 0])),
    "another thing told": (lambda _: memfd(4096), 7),
}


@pytest.mark.parametrize("which", BAD)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_page_that_will_not_do(address: str, runtime: Path, which: str, kind: str) -> None:
    make, told = BAD[which]
    before = len(os.listdir("/proc/self/fd"))
    with (
        make(runtime) as file,
        FakeBroker(address, lambda method, params: None) as broker,
    ):
        broker.page, broker.files = told, [file, file]
        if kind == "sync":
            with udsbus.connect(address) as client:
                assert [client.get("a"), client.get("a")] == [None, None]
                assert not client.cache_info().active
        else:

            async def work() -> None:
                async with udsbus.connect_async(address) as client:
                    assert [await client.get("a"), await client.get("a")] == [None, None]
                    assert not client.cache_info().active

            anyio.run(work)
        assert broker.requests[:2] == ["get", "get"]
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors to be closed")


def test_a_broker_that_tells_of_words_that_are_not_there(address: str) -> None:
    answers = [[10**9, 0, b"\x01", 5], [-1, 0, b"\x02", 6], [20.0, 0, b"\x03", 7]]
    with memfd(4096) as file, FakeBroker(address, lambda *_: answers.pop(0)) as broker:
        broker.page, broker.files = about(), [file]
        with udsbus.connect(address) as client:
            assert [client.get("a") for _ in range(3)] == [1, 2, 3]
            assert client.cache_info() == CacheInfo(0, 3, 0, 0, True)


def test_a_broker_without_a_page(address: str) -> None:
    """One that may write no file, not even in memory; another, with a page, has its place later."""
    limit = ["prlimit", "--fsize=100000"]
    with contextlib.ExitStack() as stack:
        with running_broker(address, under=limit) as broker:
            client = stack.enter_context(udsbus.connect(address, timeout=PATIENCE))
            client.set("a", 1)
            for _ in range(3):
                assert client.get("a") == 1
                assert client.get_many(["a"]) == {"a": 1}
            assert client.cache_info() == CacheInfo(0, 0, 0, 0, False)
            assert client.info()["page"] is False
            broker.kill()
            assert "there is no version page" in broker.log()
        with running_broker(address):
            client.set("a", 2)
            remembers(client, "a", 2)
        with running_broker(address, under=limit):
            assert client.get("a") is None, "`read`, which was for a page, is answered without one"
            assert not client.cache_info().active


WRITING = """
import mmap, os, re, sys, udsbus
client = udsbus.connect(sys.argv[1])
assert client._cache.words.readonly
maps = [line.split() for line in open("/proc/self/maps") if "memfd:udsbus versions" in line]
assert [line[1] for line in maps] == ["r--s"], maps
(path,) = [
    path
    for path in map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd"))
    if os.path.lexists(path) and "memfd:udsbus versions" in os.readlink(path)
]
fd = os.open(path, os.O_RDWR)
for attempt in (
    lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 8), lambda: os.ftruncate(fd, 1 << 30),
    lambda: mmap.mmap(fd, 4096),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
"""


def test_nobody_else_can_write_to_it(bus: BrokerProcess) -> None:
    """Nor cut it short, which would kill every process that has it mapped."""
    command = [sys.executable, "-c", WRITING, bus.address]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.split() == [b"refused"] * 4


def test_a_page_that_is_dropped_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with memfd(4096) as file:
        page = Page(file, about())
        assert page.words[8] == 0
        assert page.record(20, "a") is None
        with pytest.raises(ValueError, match="4096 bytes"):
            Page(file, about(records=[1024, 13]))
        del page
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_command_does_not_take_longer_for_it() -> None:
    """ctypes is for the broker alone."""
    command = "import sys, udsbus.client.sync, udsbus.cli; print('ctypes' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert found.stdout == b"False\n"

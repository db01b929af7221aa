"""Brokers that a program starts for itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import wait_until
from udsbus import AccessDenied, BrokerUnavailable, Conflict, LocalBroker
from udsbus.client.spawning import _start
from udsbus.filelock import take_lock

from ..harness import running_broker
from .support import PATIENCE, Child, in_child, in_children, wait_for_end

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def autostarted(address: str) -> Iterator[udsbus.Client]:
    """A client of an autostarted broker, which is ended afterwards."""
    with udsbus.connect(address, autostart=True) as client:
        pid = client.info()["pid"]
        try:
            yield client
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_for_end(pid)


# --- a private broker ---------------------------------------------------------------------------


def test_a_local_broker_lives_as_long_as_its_block() -> None:
    with LocalBroker() as broker:
        with broker.connect(name="ours", timeout=7) as client:
            client.set("a", 1)
            assert client.info()["pid"] == broker.pid
            assert (client.name, client.timeout) == ("ours", 7)
        directory, pid = Path(broker.address).parent, broker.pid
        assert directory.stat().st_mode & 0o777 == 0o700
    wait_for_end(pid)
    assert not directory.exists()
    with pytest.raises(BrokerUnavailable, match="is not running"):
        broker.pid  # noqa: B018


def test_local_brokers_are_private() -> None:
    with LocalBroker() as one, LocalBroker() as other:
        assert one.address != other.address
        with one.connect() as client, other.connect() as stranger:
            client.set("a", 1)
            assert stranger.count() == 0


def test_a_local_broker_may_be_started_again() -> None:
    broker = LocalBroker()
    for _ in range(2):
        with broker, broker.connect() as client:
            assert client.count() == 0
            client.set("a", 1)
    broker.stop()  # once more does no harm


def test_a_local_broker_is_started_once() -> None:
    """To start it while it runs would leave the first one to nobody."""
    with LocalBroker() as broker:
        first = broker.pid
        with pytest.raises(udsbus.Error):
            broker.start()
        assert broker.pid == first
    wait_for_end(first)


def test_a_child_uses_a_local_broker_and_leaves_it_alone() -> None:
    with LocalBroker() as broker, broker.connect() as client:

        def work() -> int:
            with broker.connect() as own:
                own.set("a", 1)
            broker.stop()
            return client.increment("a")

        assert in_child(work) == 2
        assert client.get("a") == 2


def start_and_tell(pipe: int, more: bool) -> None:
    broker = LocalBroker().start()
    with broker.connect() as client:
        client.set("a", 1)
    os.write(pipe, f"{broker.pid}\n".encode())
    if more:
        with contextlib.suppress(AssertionError):
            in_child(signal.pause)
    signal.pause()


def test_a_local_broker_ends_when_its_program_is_killed() -> None:
    receive, send = os.pipe()
    with Child(lambda: start_and_tell(send, more=False)) as program:
        broker = int(os.read(receive, 100))
        os.kill(broker, 0)
        os.kill(program.pid, signal.SIGKILL)
        wait_for_end(broker)
    os.close(receive)
    os.close(send)


def test_a_local_broker_lives_while_a_fork_of_its_program_does() -> None:
    receive, send = os.pipe()
    ours, theirs = os.pipe()

    def work() -> None:
        broker = LocalBroker().start()
        with broker.connect() as client:

            def outlive() -> None:
                os.read(ours, 1)
                os.write(send, b"%d" % client.increment("a"))

            child = Child(outlive)
            os.write(send, f"{broker.pid} {child.pid}".encode())
            os._exit(0)

    with Child(work) as program:
        broker, grandchild = map(int, os.read(receive, 100).split())
        wait_for_end(program.pid)
        os.write(theirs, b"!")
        assert os.read(receive, 100) == b"1"
        wait_for_end(grandchild)
        wait_for_end(broker)
    for fd in (receive, send, ours, theirs):
        os.close(fd)


def test_ctrl_c_does_not_reach_a_local_broker() -> None:
    """It belongs to another session than the program at the terminal."""
    with LocalBroker() as broker:
        assert os.getsid(broker.pid) != os.getsid(0)


def test_what_a_broker_says_when_it_does_not_start(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runtime / "python"
    script.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    monkeypatch.setattr(sys, "executable", str(script))
    broker = LocalBroker()
    with pytest.raises(BrokerUnavailable, match=r"did not start: the disk is on fire$"):
        broker.start()
    assert list(runtime.iterdir()) == [script], "its directory is left behind"
    with pytest.raises(BrokerUnavailable, match=r"did not start: the disk is on fire$"):
        udsbus.connect(runtime / "bus.sock", autostart=True)


def test_a_broker_that_cannot_even_be_executed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(BrokerUnavailable, match="did not start"):
        udsbus.connect(address, autostart=True)
    with pytest.raises(BrokerUnavailable, match="did not start"):
        LocalBroker().start()


def test_a_temporary_directory_that_is_too_deep(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(udsbus.Error, match="the kernel takes 107"):
        LocalBroker().start()
    assert list(deep.iterdir()) == []


# --- a broker on demand -------------------------------------------------------------------------


def test_autostart_starts_one_broker_for_many_processes(address: str) -> None:
    def start() -> int:
        with udsbus.connect(address, autostart=True) as client:
            client.increment("started")
            return int(client.info()["pid"])

    pids = set(in_children(*[start] * 20))
    assert len(pids) == 1
    with autostarted(address) as client:
        assert {client.info()["pid"]} == pids
        assert client.get("started") == 20


def test_autostart_in_many_threads(address: str) -> None:
    gate = threading.Barrier(8)
    pids = []

    def start() -> None:
        gate.wait()
        with udsbus.connect(address, autostart=True) as client:
            pids.append(client.info()["pid"])

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with autostarted(address) as client:
        assert set(pids) == {client.info()["pid"]}


def test_an_autostarted_broker_is_nobodys_child_and_survives_its_starter(address: str) -> None:
    def start() -> int:
        return int(udsbus.connect(address, autostart=True).info()["pid"])

    with Child(start) as starter:
        pid = starter.result()
        with autostarted(address) as client:
            assert client.info()["pid"] == pid
            assert parent_of(pid) not in (os.getpid(), starter.pid)
            assert os.getsid(pid) != os.getsid(0)
            with pytest.raises(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def test_autostart_leaves_a_running_broker_alone(address: str) -> None:
    with autostarted(address) as first, udsbus.connect(address, autostart=True) as second:
        assert first.info()["pid"] == second.info()["pid"]


def test_autostart_works_again_when_the_broker_has_died(address: str) -> None:
    """At the next use, by itself."""
    with udsbus.connect(address, autostart=True) as client:
        first = client.info()["pid"]
        os.kill(first, signal.SIGKILL)
        wait_for_end(first)
        with autostarted(address) as other:
            second = other.info()["pid"]
            assert client.increment("a") == 1
            assert client.info()["pid"] == second != first
            os.kill(second, signal.SIGKILL)
            wait_for_end(second)
            try:
                assert client.get("a") == 1
                assert client.info()["pid"] not in (first, second)
            finally:
                with autostarted(address):
                    pass  # the third is ended by whoever finds it


def test_a_watch_of_an_autostarting_client_finds_the_new_broker(address: str) -> None:
    """Though nobody asks for anything but the watch."""
    with udsbus.connect(address, autostart=True) as client, client.watch("a") as watch:
        first = client.info()["pid"]
        os.kill(first, signal.SIGKILL)
        wait_for_end(first)
        with autostarted(address) as other:
            wait_until(lambda: other.info()["watches"] == 1, "the watch to come back")
            other.set("a", 1)
            change = watch.get(timeout=20)
            assert change is not None
            assert change.value == 1


def test_a_broker_is_not_made_of_what_lies_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program may be in any directory, with modules of any name."""
    (tmp_path / "click.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    with LocalBroker() as broker, broker.connect() as client:
        assert client.ping() > 0


def test_autostart_makes_the_directory(runtime: Path) -> None:
    address = runtime / "new" / "bus.sock"
    with autostarted(str(address)):
        assert address.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["file/bus.sock", "file/deeper/bus.sock"])
def test_autostart_where_there_can_be_no_directory(runtime: Path, place: str) -> None:
    (runtime / "file").touch()
    with pytest.raises(udsbus.Error, match="file"):
        udsbus.connect(runtime / place, autostart=True)


def test_autostart_in_a_directory_that_others_can_write_to(runtime: Path) -> None:
    runtime.chmod(0o777)
    with pytest.raises(AccessDenied, match="run: chmod go-w"):
        udsbus.connect(runtime / "bus.sock", autostart=True)


@as_root
def test_autostart_in_a_directory_of_another_user(runtime: Path) -> None:
    def attempt() -> str:
        os.setuid(NOBODY)
        with pytest.raises(AccessDenied) as caught:
            udsbus.connect(runtime / "bus.sock", autostart=True)
        return str(caught.value)

    runtime.chmod(0o755)
    assert str(runtime) in in_child(attempt)
    runtime.chmod(0o700)
    assert str(runtime) in in_child(attempt)


# --- one broker after another -------------------------------------------------------------------


def test_no_revision_is_used_by_two_brokers_that_keep_nothing(address: str) -> None:
    """What was read from a broker that is gone must not be taken for what its successor has."""
    with running_broker(address, first_revision=None):
        client = udsbus.connect(address)
        client.set("a", "ours")
        read = client.entry("a")
        assert read is not None
    with client:
        with running_broker(address, first_revision=None):
            client.set("a", "theirs")
            with pytest.raises(Conflict):
                client.set("a", "lost", if_revision=read.revision)
            with pytest.raises(Conflict):
                client.delete("a", if_revision=read.revision)
            assert client.get("a") == "theirs"
            with client.watch("a", from_revision=read.revision) as watch:
                change = watch.get(timeout=PATIENCE)
                assert change is not None
                assert (change.kind, change.value) == ("present", "theirs")
                assert watch.started_over == 1


# --- private brokers that are not used as meant -------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")
def test_a_local_broker_with_a_state(tmp_path: Path) -> None:
    """It has a standby, and its successor goes on with what it kept; nothing stays behind."""
    ended = []
    for number in (1, 2):
        with LocalBroker(state=tmp_path / "state") as broker, broker.connect() as client:
            assert client.increment("lives") == number
            wait_until(lambda: client.info()["standby"], "a standby")
            standby, first = client.info()["standby"], broker.pid
            if number == 2:
                os.kill(first, signal.SIGKILL)
                assert client.get("lives") == 2
                assert broker.pid == standby
                wait_until(lambda: client.info()["standby"], "another standby")
                ended.append(client.info()["standby"])
                os.kill(standby, signal.SIGUSR2)  # as `udsbus takeover` does
                wait_until(lambda seen=ended: broker.pid not in seen, "the takeover")
                assert client.get("lives") == 2
                ended.append(broker.pid)
                with pytest.raises(BrokerUnavailable, match="did not start"):
                    _start(broker.address, "--durability", "none", "--ready-fd")
            ended += [first, standby]
            directory = Path(broker.address).parent
        assert not directory.exists()
    for pid in ended:
        wait_for_end(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")
def test_a_standby_that_took_over_is_gone_when_its_block_ends(tmp_path: Path) -> None:
    """Nobody's child, and waited for nevertheless: what it had is free for the next. Even while a
    fork of this program goes on."""
    for number in range(1, 4):
        with LocalBroker(state=tmp_path) as broker, broker.connect(timeout=PATIENCE) as client:
            assert client.increment("lives") == number
            wait_until(lambda: client.info()["standby"], "a standby")
            os.kill(broker.pid, signal.SIGKILL)
            assert client.get("lives") == number
            pid = broker.pid
            with Child(signal.pause) as fork:
                broker.stop()
                assert not has_memory(pid)
                os.close(take_lock(str(tmp_path / "lock")))
                os.kill(fork.pid, signal.SIGKILL)


def has_memory(pid: int) -> bool:
    """Whether this process has not ended; one that has, and was not waited for yet, is listed."""
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_local_broker_that_does_not_run_is_nobodys_bus() -> None:
    """An empty address must not mean the user's default bus."""
    broker = LocalBroker()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="not running"):
            broker.connect()
        with pytest.raises(udsbus.InvalidRequest, match="empty"):
            udsbus.connect("")
        with broker:
            broker.connect().close()


def test_a_local_broker_leaves_no_files_when_its_program_is_killed() -> None:
    read, write = os.pipe()

    def work() -> None:
        broker = LocalBroker().start()
        os.write(write, broker.address.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    with Child(work), open(read, "rb") as pipe:
        os.close(write)
        address = pipe.read().decode()
    assert address
    wait_until(lambda: not os.path.exists(os.path.dirname(address)), "its directory to go")

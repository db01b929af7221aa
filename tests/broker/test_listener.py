"""Who may own an address, and who may connect to it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, RawClient, running_broker
from udsbus.broker.listener import Claim, Listener
from udsbus.errors import AccessDenied, BrokerUnavailable, Error
from udsbus.paths import lock_path
from udsbus.terms import CloseReason

NOBODY = 65_534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    listener = Listener(address)
    yield listener
    listener.close()


@contextlib.contextmanager
def other_user() -> Iterator[None]:
    """Run a block as another user. What a socket tells of its peer is settled at `connect`."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# --- access ---------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_socket_and_its_directory_are_for_the_owner_only(runtime: Path, umask: int) -> None:
    address = runtime / "new" / "bus.sock"
    before = os.umask(umask)
    try:
        listener = Listener(str(address))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert mode(address) == 0o600
    assert mode(address.parent) == 0o700
    assert mode(lock_path(str(address))) == 0o600
    assert stat.S_ISSOCK(os.lstat(address).st_mode)
    listener.close()


def test_a_broker_makes_the_directories_it_needs(runtime: Path) -> None:
    address = runtime / "a" / "b" / "bus.sock"
    with running_broker(address) as broker, broker.connect() as client:
        assert client.call("ping") == 0
        assert mode(address) == 0o600
        assert mode(address.parent) == 0o700


@pytest.mark.parametrize("loose", [0o777, 0o770, 0o702])
def test_a_directory_that_others_can_write_to_will_not_do(runtime: Path, loose: int) -> None:
    runtime.chmod(loose)
    with pytest.raises(AccessDenied, match="chmod go-w"):
        Listener(str(runtime / "bus.sock"))
    assert list(runtime.iterdir()) == []


def test_it_knows_who_connects(listener: Listener) -> None:
    assert listener.accept() is None
    with RawClient(listener.address):
        accepted = listener.accept()
        assert isinstance(accepted, tuple)
        sock, peer = accepted
        with sock:
            assert peer == (os.getpid(), os.getuid(), os.getgid())
            assert not sock.getblocking()
            assert not os.get_inheritable(sock.fileno())
    assert listener.accept() is None


def test_who_has_gone_before_it_was_accepted_is_no_trouble(listener: Listener) -> None:
    RawClient(listener.address).close()
    accepted = listener.accept()
    assert isinstance(accepted, tuple)
    accepted[0].close()


@as_root
def test_another_user_is_turned_away_by_name(any_broker: BrokerProcess) -> None:
    os.chmod(any_broker.address, 0o666)
    os.chmod(os.path.dirname(any_broker.address), 0o711)
    with any_broker.connect() as ours:
        with other_user():
            for _ in range(5):
                with any_broker.connect() as theirs:
                    kind, name, (reason, message) = theirs.receive()
                    assert (kind, name, reason) == (2, "closing", "wrong_user")
                    assert message == f"this bus belongs to uid 0; you are uid {NOBODY}"
                    assert theirs.rest() == []
        info = ours.call("info")
        assert info["connections"] == info["counters"]["accepted"] == 1
        assert info["counters"]["closed"] == {"wrong_user": 5}


@as_root
def test_another_user_has_nothing_carried_out(broker: BrokerProcess) -> None:
    os.chmod(broker.address, 0o666)
    os.chmod(os.path.dirname(broker.address), 0o711)
    with broker.connect() as ours:
        with other_user(), broker.connect() as theirs:
            with contextlib.suppress(BrokenPipeError):
                theirs.send([2, "set", ["a", b"\x01"]], [0, 1, "set", ["a", b"\x01"]])
            assert [message[1] for message in theirs.rest()] == ["closing"]
        assert ours.call("get", "a") is None
        assert ours.call("ping") == 0


@as_root
def test_another_user_cannot_even_connect_as_things_are(broker: BrokerProcess) -> None:
    with other_user(), pytest.raises(PermissionError):
        broker.connect()


# --- one broker an address ------------------------------------------------------------------


def test_a_living_claim_is_respected_and_named(address: str) -> None:
    claim = Claim(address)
    with pytest.raises(BrokerUnavailable, match=f"pid {os.getpid()};") as caught:
        Claim(address)
    assert caught.value.details == {"pid": os.getpid()}
    claim.release()
    Claim(address).release()


def test_a_second_broker_is_refused_and_told_who_serves(broker: BrokerProcess) -> None:
    with broker.connect() as client:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"living broker, pid {broker.pid};"):
                BrokerProcess(broker.address)
        assert client.call("ping") == 0
        with broker.connect() as newcomer:
            assert newcomer.call("ping") == 0


def test_a_living_broker_whose_socket_was_removed_is_not_replaced(broker: BrokerProcess) -> None:
    os.unlink(broker.address)
    with pytest.raises(RuntimeError, match=f"living broker, pid {broker.pid};"):
        BrokerProcess(broker.address)


def test_what_a_killed_broker_left_is_taken_over(broker: BrokerProcess) -> None:
    broker.kill()
    assert os.path.exists(broker.address)
    with pytest.raises(ConnectionRefusedError):
        broker.connect()
    with running_broker(broker.address) as successor, successor.connect() as client:
        assert client.call("info")["pid"] == successor.pid


def test_of_two_brokers_that_race_one_serves(address: str) -> None:
    def start(_: int) -> BrokerProcess | str:
        try:
            return BrokerProcess(address)
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            started = list(pool.map(start, range(2)))
            brokers = [one for one in started if isinstance(one, BrokerProcess)]
            refusals = [one for one in started if isinstance(one, str)]
            try:
                assert len(brokers) == 1, refusals
                assert "is served by a living broker" in refusals[0]
                with brokers[0].connect() as client:
                    assert client.call("info")["pid"] == brokers[0].pid
            finally:
                for broker in brokers:
                    broker.stop(signal.SIGKILL)


def test_the_address_is_free_once_the_broker_has_stopped(address: str) -> None:
    for _ in range(3):
        with running_broker(address) as broker, broker.connect() as client:
            assert client.call("ping") == 0
        assert not os.path.exists(address)
        assert os.path.exists(lock_path(address))


# --- what lies at the address ---------------------------------------------------------------


def test_a_socket_that_replaced_it_is_left_alone(broker: BrokerProcess) -> None:
    os.unlink(broker.address)
    with socket.socket(socket.AF_UNIX) as replacement:
        replacement.bind(broker.address)
        broker.stop()
        assert os.path.exists(broker.address)


def test_a_socket_that_is_gone_does_not_keep_it_from_stopping(broker: BrokerProcess) -> None:
    os.unlink(broker.address)
    broker.stop()
    assert broker.process.returncode == 0


def test_a_file_that_is_no_socket_is_not_destroyed(address: str) -> None:
    """`--socket notes.txt` is a mistake, and should not be a costly one."""
    Path(address).write_text("precious")
    with pytest.raises(Error):
        Listener(address).close()
    assert Path(address).read_text() == "precious"
    assert not Path(lock_path(address)).exists(), "nothing is left of the attempt"


def test_a_directory_at_the_address_is_refused_and_the_claim_given_back(address: str) -> None:
    os.mkdir(address)
    for _ in range(2):
        with pytest.raises(AccessDenied, match="cannot serve"):
            Listener(address)


def test_an_address_that_the_kernel_does_not_take_is_refused(runtime: Path) -> None:
    for _ in range(2):
        with pytest.raises(Error):
            Listener(str(runtime / ("x" * 120)))


def test_a_lock_that_is_a_link_is_not_followed(runtime: Path, address: str) -> None:
    target = runtime / "elsewhere"
    target.write_text("precious")
    os.symlink(target, lock_path(address))
    with pytest.raises(Error):
        Listener(address).close()
    assert target.read_text() == "precious"


# --- want ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.EPROTO])
def test_a_failing_accept_does_not_end_the_broker(listener: Listener, number: int) -> None:
    class FailingSocket(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            raise OSError(number, os.strerror(number))

    good, listener.socket = listener.socket, FailingSocket(socket.AF_UNIX)
    try:
        assert listener.accept() is None
    finally:
        listener.socket.close()
        listener.socket = good


def test_a_spare_descriptor_that_does_not_come_back_does_not_end_the_broker(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the whole machine has run out of them, another process may have taken it."""

    def none_left(*_: object) -> int:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    before = len(os.listdir("/dev/fd"))
    spare = os.dup(listener._spare)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        try:
            with RawClient(listener.address):
                assert listener._turn_away() is CloseReason.TOO_MANY
        except OSError:
            listener._spare = spare  # so that the end of this test does not close another's
            raise
    with RawClient(listener.address):
        assert listener._turn_away() is CloseReason.TOO_MANY
    os.close(spare)
    assert len(os.listdir("/dev/fd")) == before


# --- what it leaves behind ------------------------------------------------------------------


def test_it_leaves_no_descriptor_behind(address: str) -> None:
    before = os.listdir("/dev/fd")
    for _ in range(3):
        Listener(address).close()
        os.mkdir(address)
        with pytest.raises(AccessDenied):
            Listener(address)
        os.rmdir(address)
    assert os.listdir("/dev/fd") == before


def test_a_turned_away_connection_costs_no_descriptor(listener: Listener) -> None:
    before = len(os.listdir("/dev/fd"))
    with RawClient(listener.address) as client:
        assert listener._turn_away() is CloseReason.TOO_MANY
        assert client.receive()[2][0] == "too_many"
        assert listener._turn_away() is None
    assert len(os.listdir("/dev/fd")) == before

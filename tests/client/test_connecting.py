"""From an address to a connection: who gets in, who does not, and what people are told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until
from udsbus import AccessDenied, BrokerUnavailable, Error, InvalidRequest
from udsbus.client.connecting import open_socket

from .support import PATIENCE, Child, Task, Ticks, fill_queue, in_child

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def refusal(address: str | Path) -> Error:
    with pytest.raises(Error) as caught:
        udsbus.connect(address, timeout=PATIENCE)
    return caught.value


# --- nobody there -------------------------------------------------------------------------------


def test_no_socket(address: str) -> None:
    error = refusal(address)
    assert type(error) is BrokerUnavailable
    assert isinstance(error, ConnectionError)
    assert str(error) == (
        f"no broker at {address}: there is no such socket; start a broker with: "
        f"udsbus serve --socket {address}, or let the program do it with connect(autostart=True)"
    )


def test_no_directory(address: str) -> None:
    error = refusal(address + "/none/bus.sock")
    assert type(error) is BrokerUnavailable


def test_missing_directory(runtime: Path) -> None:
    error = refusal(runtime / "none" / "bus.sock")
    assert type(error) is BrokerUnavailable
    assert "there is no such socket" in str(error)


def test_dead_socket(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address)
        os.chmod(address, 0o600)
    error = refusal(address)
    assert type(error) is BrokerUnavailable
    assert str(error) == (
        f"no broker at {address}: nobody listens there any more (the file is a socket of uid "
        f"{os.getuid()}, mode 0600); start a broker with: udsbus serve --socket {address}, "
        "with the --state that it had if it was not the default"
    )


def test_not_a_socket(address: str) -> None:
    Path(address).touch(0o644)
    error = refusal(address)
    assert type(error) is BrokerUnavailable
    assert "not a socket but another kind of file" in str(error)
    assert "mode 0644" in str(error)


def test_a_directory_is_no_socket(runtime: Path) -> None:
    error = refusal(runtime)
    assert type(error) is BrokerUnavailable
    assert "not a socket" in str(error)


def test_another_kind_of_socket(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(address)
        error = refusal(address)
    assert type(error) is BrokerUnavailable
    assert address in str(error)


def test_an_address_that_is_too_long(runtime: Path) -> None:
    error = refusal(runtime / ("x" * 110))
    assert type(error) is InvalidRequest
    assert "the kernel takes 107" in str(error)


# --- another user -------------------------------------------------------------------------------


@as_root
def test_another_users_bus_is_out_of_reach(broker: BrokerProcess) -> None:
    def attempt() -> tuple[type[Error], str]:
        os.setuid(NOBODY)
        error = refusal(broker.address)
        return type(error), str(error)

    kind, message = in_child(attempt)
    assert kind is AccessDenied
    assert message.startswith(f"you (uid {NOBODY}) may not connect to {broker.address}")
    assert "a bus admits only the user who runs its broker" in message


@as_root
def test_another_user_is_told_even_if_the_files_would_let_it_in(broker: BrokerProcess) -> None:
    os.chmod(Path(broker.address).parent, 0o755)
    os.chmod(broker.address, 0o666)

    def attempt() -> tuple[type[Error], str]:
        os.setuid(NOBODY)
        error = refusal(broker.address)
        return type(error), str(error)

    kind, message = in_child(attempt)
    assert "this bus belongs to uid 0; you are uid 65534" in message
    assert kind is AccessDenied


# --- a full listen queue ------------------------------------------------------------------------


def test_signals_while_the_queue_is_full(address: str) -> None:
    """After a signal Python takes a Unix socket for connected that is not."""

    def connect() -> tuple[int, bytes]:
        accepted: list[socket.socket] = []

        def make_room(number: int) -> None:
            if number == 5:
                accepted.append(listener.accept()[0])

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(0)
            waiting = fill_queue(address)
            with Ticks(0.02, 1_000, make_room) as ticks:
                sock = open_socket(address, PATIENCE)
            with sock:
                sock.sendall(b"through")
                for _ in waiting:
                    accepted.append(listener.accept()[0])
                return ticks.number, accepted[-1].recv(100)

    ticks, received = in_child(connect)
    assert ticks >= 5
    assert received == b"through"


@pytest.mark.parametrize("interval", [1_000, 0.0005])
def test_a_queue_that_stays_full(address: str, interval: float) -> None:
    """However many signals come."""

    def attempt() -> str:
        with Ticks(interval, most=20_000), pytest.raises(BrokerUnavailable) as caught:
            udsbus.connect(address, timeout=0.3)
        return str(caught.value)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(0)
        waiting = fill_queue(address)
        assert in_child(attempt) == (
            f"the broker at {address} does not accept connections: its listen queue stayed full; "
            "it is stopped, or overloaded"
        )
        for sock in waiting:
            sock.close()


PROCESSES, THREADS = 8, 550
"""More at once than the longest listen queue that Linux has by default."""


@pytest.mark.slow
@pytest.mark.parametrize("still", [False, True], ids=["", "while the broker stands still"])
def test_thousands_connect_at_once(broker: BrokerProcess, still: bool) -> None:
    """All get in and stay in."""
    let_go, keep = os.pipe()

    def work(number: int) -> int:
        os.close(keep)
        ended = threading.Event()
        names = [f"a/{number}-{thread}" for thread in range(THREADS)]
        tasks = [Task(lambda name=name: hold(broker.address, name, ended)) for name in names]  # type: ignore[misc]
        os.read(let_go, 1)
        ended.set()
        return sum(task.result() for task in tasks)

    with contextlib.ExitStack() as stack:
        if still:
            os.kill(broker.pid, signal.SIGSTOP)
            stack.callback(os.kill, broker.pid, signal.SIGCONT)
        children = [
            stack.enter_context(Child(lambda number=number: work(number)))  # type: ignore[misc]
            for number in range(PROCESSES)
        ]
        if still:
            wait_until(lambda: queue_is_full(broker.address), "a full listen queue", PATIENCE)
            os.kill(broker.pid, signal.SIGCONT)
        client = stack.enter_context(udsbus.connect(broker.address, timeout=PATIENCE))
        total = PROCESSES * THREADS
        wait_until(lambda: client.count("a/*") == total, "all to get in", PATIENCE)
        assert client.info()["connections"] == total + 1
        os.close(keep)
        assert [child.result() for child in children] == [THREADS] * PROCESSES
    os.close(let_go)


def hold(address: str, key: str, ended: threading.Event) -> bool:
    """Connect, show that it works, and stay until the end."""
    with udsbus.connect(address, timeout=PATIENCE) as client:
        client.set(key, key)
        assert ended.wait(PATIENCE)
        return bool(client.get(key) == key)


def queue_is_full(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:
            return True
        return False

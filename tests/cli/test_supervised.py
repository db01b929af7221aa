"""Under a service manager that speaks the protocol of systemd."""

from __future__ import annotations

import configparser
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import wait_until

ROOT = Path(__file__).parents[2]
START = """
import os, sys
listening, *command = sys.argv[1:]
os.dup2(int(listening), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


class Manager:
    """What a service manager does for a service: a socket, and an ear for its notes."""

    def __init__(self, address: str, runtime: Path) -> None:
        self.address = address
        self.notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notes.bind(str(runtime / "notify"))
        self.notes.settimeout(20)
        self._environ = os.environ | {"NOTIFY_SOCKET": str(runtime / "notify")}
        self._state = runtime / "state"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, listening: socket.socket | None = None, fds: str = "1") -> None:
        command = [sys.executable, "-m", "udsbus", "serve", "--state", str(self._state), *options]
        if listening is not None:
            self._environ["LISTEN_FDS"] = fds
            command = [sys.executable, "-c", START, str(listening.fileno()), *command]
        self._started.append(
            subprocess.Popen(
                command,
                env=self._environ,
                pass_fds=[] if listening is None else [listening.fileno()],
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
        )

    def told(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.notes.recv(4096).decode().splitlines())

    def end(self) -> int:
        return self._started[-1].wait(20)

    def close(self) -> None:
        for each in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
        self.notes.close()


@pytest.fixture
def manager(address: str, runtime: Path) -> Iterator[Manager]:
    manager = Manager(address, runtime)
    yield manager
    manager.close()


def test_it_is_told_who_serves(manager: Manager) -> None:
    manager.start("--socket", manager.address)
    first = manager.told()
    assert first["READY"] == "1"
    assert first["STATUS"] == f"serving {manager.address}"
    with udsbus.connect(manager.address) as client:
        assert int(first["MAINPID"]) == client.info()["pid"]
        wait_until(lambda: client.info()["standby"], "a standby")
        standby = client.info()["standby"]
        os.kill(int(first["MAINPID"]), signal.SIGKILL)
        assert manager.told()["MAINPID"] == str(standby)
    os.kill(standby, signal.SIGTERM)
    assert manager.told() == {"STOPPING": "1"}


def test_a_socket_that_was_opened_for_it(manager: Manager) -> None:
    """Clients can connect before it runs; it serves that socket, and leaves it where it is."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(manager.address)
        os.chmod(manager.address, 0o600)
        listening.listen()
        manager.start(listening=listening)
        with udsbus.connect(manager.address) as client:
            client.set("a", 1)
            pid = int(manager.told()["MAINPID"])
            wait_until(lambda: client.info()["standby"], "a standby")
            os.kill(pid, signal.SIGKILL)
            assert client.get("a") == 1
            pid = int(manager.told()["MAINPID"])
            os.kill(pid, signal.SIGTERM)
            assert manager.told() == {"STOPPING": "1"}
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
        assert os.path.exists(manager.address), "the service manager still listens there"
        manager.start(listening=listening)
        with udsbus.connect(manager.address) as client:
            assert client.get("a") == 1


def test_sockets_that_will_not_do(manager: Manager) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(manager.address)
        listening.listen()
        manager.start(listening=listening, fds="2")
        assert manager.end() == 3
    with socket.socket(socket.AF_INET) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        manager.start(listening=other)
        assert manager.end() == 3


def test_the_units_are_well_formed() -> None:
    for name in ("udsbus.service", "udsbus.socket"):
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(ROOT / "examples" / "systemd" / name)
        assert unit["Unit"]["Description"]
    service = configparser.ConfigParser(interpolation=None)
    service.read(ROOT / "examples" / "systemd" / "udsbus.service")
    assert service["Service"]["type"] == "notify"
    assert service["Service"]["notifyaccess"] == "all"
    assert service["Service"]["execstart"].endswith("udsbus serve")

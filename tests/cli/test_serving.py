"""serve."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus

from ..harness import BrokerProcess
from .support import PATIENCE, Command, Running, is_one_complaint


@contextlib.contextmanager
def serving(command: Command, *args: str) -> Iterator[Running]:
    with command.running("serve", *args) as broker:
        assert f"serving {command.address}" in broker.line("stderr")
        yield broker


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_serves_until_told_to_stop(lonely: Command, how: signal.Signals, backend: str) -> None:
    with serving(lonely, "--backend", backend) as broker:
        assert lonely("set", "key", "1").code == 0
        assert lonely.lines("get", "key") == ["1"]
        rows = dict(line.split("\t") for line in lonely.lines("info"))
        assert (rows["pid"], rows["backend"]) == (str(broker.process.pid), backend)
        assert broker.signal(how) == 0
        assert broker.rest("stderr").count("\n") == 1  # why it stops
        assert broker.rest() == ""
    assert not os.path.exists(lonely.address)


def test_socket_option_before_and_after(lonely: Command, runtime: Path) -> None:
    here = str(runtime / "other.sock")
    with lonely.running("--socket", "/nowhere", "serve", "--socket", here) as broker:
        assert f"serving {here}" in broker.line("stderr")
        assert lonely("--socket", here, "set", "key", "1").code == 0
        assert lonely.lines("get", "--socket", here, "key") == ["1"]
        assert lonely.lines("--socket", "/nowhere", "get", "key", "--socket", here) == ["1"]
        assert lonely("get", "key").code == 69
        assert lonely("get", "key", UDSBUS_SOCKET=here).out == "1\n"
        assert lonely("get", "key", "--socket", "/nowhere", UDSBUS_SOCKET=here).code == 69


def test_refuses_a_living_socket_and_names_the_pid(lonely: Command) -> None:
    with serving(lonely) as broker:
        lonely("set", "key", "1")
        for detach in ([], ["--detach"]):
            code, out, err = lonely("serve", *detach)
            assert (code, out) == (3, "")
            assert is_one_complaint(err)
            assert f"pid {broker.process.pid};" in err
        assert lonely.lines("get", "key") == ["1"]


def test_takes_over_a_stale_socket(lonely: Command) -> None:
    broker = BrokerProcess(lonely.address)
    broker.kill()
    assert stat.S_ISSOCK(os.stat(lonely.address).st_mode)
    with serving(lonely):
        assert lonely("set", "key", "1").code == 0


def test_a_place_where_no_socket_can_be(lonely: Command, runtime: Path) -> None:
    (runtime / "file").touch()
    (runtime / "directory").mkdir()
    shared = runtime / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for path in ("file/bus.sock", "directory", "shared/bus.sock", "long" * 40):
        code, out, err = lonely("serve", "--socket", str(runtime / path))
        assert (code, out) == (3, ""), err
        assert is_one_complaint(err), err


def test_detach(lonely: Command) -> None:
    code, out, err = lonely("serve", "--detach")
    assert (code, err) == (0, "")
    pid = int(out.split(",")[0].removeprefix("pid "))
    with _end_of(pid):
        assert lonely("set", "key", "1").code == 0  # it served before the command ended
        assert os.getsid(pid) == pid
        for standard in ("0", "1", "2"):
            assert not os.readlink(f"/proc/{pid}/fd/{standard}").startswith(("pipe", "/dev/pts"))
        log = Path(lonely.address + ".log")
        assert f"log {log}" in out
        assert f"serving {lonely.address}" in log.read_text()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


@contextlib.contextmanager
def _end_of(pid: int) -> Iterator[None]:
    """Stop a process that is nobody's child, and wait for its end."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
    finally:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        ended, _, _ = select.select([descriptor], [], [], PATIENCE)
        os.close(descriptor)
    assert ended


def test_detach_without_standard_streams(lonely: Command) -> None:
    """Their numbers go to no socket, which the log would otherwise be written into."""
    script = '"$0" -m udsbus serve --detach --socket "$1" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", script, sys.executable, lonely.address], env=lonely.environ)
    pid = int(dict(line.split("\t") for line in lonely.lines("info"))["pid"])
    with _end_of(pid):
        assert lonely("set", "key", "1").code == 0
        assert os.readlink(f"/proc/{pid}/fd/2") == lonely.address + ".log"


def test_autostart_uses_detach(lonely: Command) -> None:
    with udsbus.connect(lonely.address, autostart=True) as client:
        pid = client.info()["pid"]
        with _end_of(pid):
            client.set("key", 1)
            assert lonely.lines("get", "key") == ["1"]
        assert f"serving {lonely.address}" in Path(lonely.address + ".log").read_text()


def test_lifeline_and_ready(lonely: Command) -> None:
    ours, theirs = socket.socketpair()
    ready, its_ready = socket.socketpair()
    with ours, ready:
        with theirs, its_ready:
            broker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "udsbus", "serve"),
                    *("--lifeline-fd", str(theirs.fileno())),
                    *("--ready-fd", str(its_ready.fileno())),
                ],
                env=lonely.environ,
                pass_fds=[theirs.fileno(), its_ready.fileno()],
                stderr=subprocess.DEVNULL,
            )
        for told in (ours, ready):
            told.settimeout(PATIENCE)
            assert told.recv(16) == b"ready\n"
    assert broker.wait(PATIENCE) == 0


def test_logs_of_clients_are_lines(lonely: Command) -> None:
    with serving(lonely, "-v") as broker:
        with contextlib.suppress(udsbus.Error), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(lonely.address)
            sock.sendall(b"\x1b[31mnot messagepack")
            sock.settimeout(PATIENCE)
            while sock.recv(4096):
                pass
        lines: list[str] = []
        while "ends: " not in (lines or [""])[-1]:
            lines.append(broker.line("stderr"))
        assert all(line.isprintable() for line in lines)

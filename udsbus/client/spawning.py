"""Brokers that a program starts for itself: a private one, or a shared one on demand."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from time import monotonic, sleep
from typing import TYPE_CHECKING, BinaryIO

from ..errors import AccessDenied, BrokerUnavailable, Error, InvalidRequest
from ..interpreter import environment, python
from ..limits import HEARTBEAT_SECONDS, REQUEST_TIMEOUT, START_SECONDS
from ..paths import ensure_private_directory, lock_path, log_path

if TYPE_CHECKING:
    from ..faults import Fault
    from .sync import Client

READY = b"ready\n"
NOT_RUNNING = "this local broker is not running; use it in a with block, or call start() first"


class LocalBroker:
    """A private broker for this program and its children, like `multiprocessing.Manager()`.

        with udsbus.LocalBroker() as broker:
            client = broker.connect()

    Hand `broker.address` to the children, or let them inherit a client through a fork. The broker
    ends with the block, and also when this program and all those forked from it are gone without
    a word.

    With `state`, a directory, it keeps there what it holds, as `udsbus serve` does, and has a
    standby that takes over when it dies; the next local broker with that directory goes on with it.

    `faults` go wrong in it on purpose, each once, to test how a program takes it; what comes after
    it, when it has died of them, has none.
    """

    def __init__(
        self, *, state: str | os.PathLike[str] | None = None, faults: Iterable[Fault] = ()
    ) -> None:
        from ..faults import as_plain

        plain = as_plain(faults)
        self._faulty = bool(plain)
        self._faults = json.dumps(plain)
        if state is not None and not isinstance(state, str | os.PathLike):
            raise InvalidRequest(f"state must be the path of a directory, not {state!r}")
        self._state = None if state is None else os.path.abspath(os.path.expanduser(state))
        self._directory: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: socket.socket | None = None
        self._owner = 0
        self.address = ""
        """The path of its socket, while it runs."""

    @property
    def pid(self) -> int:
        """The process id of the broker; of the one that serves now, if its standby took over."""
        if self._process is None:
            raise BrokerUnavailable(NOT_RUNNING)
        if self._state is None:
            return self._process.pid
        with open(lock_path(self.address)) as lock:
            return int(lock.read())

    def start(self) -> LocalBroker:
        """Start it. It answers when this returns.

        Raises BrokerUnavailable if it does not start, InvalidRequest if it has been started.
        """
        if self._process is not None:
            raise InvalidRequest(f"this local broker is running already, at {self.address}")
        self._directory = tempfile.mkdtemp(prefix="udsbus-")
        self.address = os.path.join(self._directory, "bus.sock")
        self._owner = os.getpid()
        try:
            keeping = ("--durability", "none") if self._state is None else ("--state", self._state)
            self._process, self._lifeline = _start(
                self.address, *keeping, "--faults", self._faults, "--lifeline-fd"
            )
            if self._state is not None and self._faulty:
                self._wait_for_standby()
        except BaseException:
            self.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        return self

    def _wait_for_standby(self) -> None:
        """A fault may be deadly, and shall not strike before there is somebody to take over."""
        from .sync import Client

        until = monotonic() + START_SECONDS
        with Client(self.address) as client:
            while client.info()["standby"] is None:
                if monotonic() > until:
                    raise BrokerUnavailable(f"no standby got ready within {START_SECONDS:g} s")
                sleep(0.01)

    def stop(self) -> None:
        """Stop it, as SIGTERM does. In a forked child it does nothing: the parent owns it."""
        if self._process is None or os.getpid() != self._owner:
            return
        process, self._process = self._process, None
        lifeline, self._lifeline = self._lifeline, None
        assert lifeline is not None
        with contextlib.suppress(OSError):
            lifeline.shutdown(socket.SHUT_WR)  # even if a forked child holds it too
        process.terminate()
        try:
            # One that a fault has stalled does not hear it.
            process.wait(1.0 if self._faulty else START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with lifeline, contextlib.suppress(OSError):
            if self._state is not None:
                # A standby that took over is not our child. It ends because the lifeline has; when
                # the last of its processes has let go of the other end, the state is free.
                lifeline.settimeout(START_SECONDS)
                lifeline.recv(1)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def connect(
        self,
        *,
        name: str | None = None,
        timeout: float = REQUEST_TIMEOUT,
        heartbeat: float | None = HEARTBEAT_SECONDS,
        cache: bool = True,
    ) -> Client:
        """A client of it: `udsbus.connect` with its address.

        Raises BrokerUnavailable if it is not running.
        """
        if self._process is None:
            raise BrokerUnavailable(NOT_RUNNING)
        from .sync import Client  # which imports this module, for autostart

        return Client(self.address, name=name, timeout=timeout, heartbeat=heartbeat, cache=cache)

    def __enter__(self) -> LocalBroker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def autostart_broker(address: str) -> None:
    """Start a shared broker unless one serves `address`. It stays when this process ends.

    Of many processes that do this at once, one starts it while the others wait. Raises
    BrokerUnavailable, with what the broker said, if it does not start.
    """
    if _answers(address):
        return
    try:
        ensure_private_directory(os.path.dirname(address))
        gate = os.open(address + ".starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if isinstance(error, Error):
            raise
        kind = AccessDenied if isinstance(error, PermissionError) else BrokerUnavailable
        raise kind(f"no broker can be started at {address}: {error}") from None
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not _answers(address):
            process, lifeline = _start(address, "--detach", "--ready-fd")
            lifeline.close()
            process.wait()  # it has left a broker behind that is nobody's child
    finally:
        os.close(gate)


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setblocking(False)
            sock.connect(address)
        except BlockingIOError:
            return True  # its listen queue is full: there is a broker, and a busy one
        except OSError:
            return False
        return True


def _log(address: str) -> BinaryIO:
    """The log beside the socket, for its owner's eyes only."""
    log = os.open(log_path(address), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return open(log, "ab")


def _start(address: str, *options: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Run `udsbus serve` with `options`, the last of which takes a descriptor.

    Out of reach of the terminal's Ctrl-C; its log goes to a file beside the socket. Returns when
    it serves, with our end of the descriptor.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs, _log(address) as output:
            said_before = output.tell()
            command = [*python(), "-m", "udsbus", "serve", "--socket", address, *options]
            process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        raise BrokerUnavailable(f"a broker for {address} did not start: {error}") from None
    ours.settimeout(START_SECONDS)
    reason = "it ended at once"
    try:
        if ours.recv(len(READY)) == READY:
            ours.setblocking(True)
            return process, ours
    except TimeoutError:
        reason = f"it did not answer within {START_SECONDS:g} s"
        process.kill()
    ours.close()
    process.wait()
    with open(log_path(address), "rb") as output:
        output.seek(said_before)
        reason = output.read().decode(errors="replace").strip() or reason
    raise BrokerUnavailable(f"a broker for {address} did not start: {reason}")

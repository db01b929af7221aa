"""Real brokers in real processes, and raw sockets to them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from udsbus.wire.framing import Decoder

SERVE = """
import logging, selectors, sys
from udsbus.broker import Settings, run
from udsbus.hub import SelectorHub, best_hub
logging.basicConfig(level=logging.INFO)
address, backend, hub, durability, state, first, snapshot, lifeline = sys.argv[1:]
hubs = {"best": best_hub, "selector": SelectorHub}
run(Settings(address, backend, int(lifeline), hubs[hub], eval(first), durability, state,
             snapshot=snapshot or None))
"""


class BrokerProcess:
    """A broker in a process of its own. Ready for clients when the constructor returns."""

    def __init__(
        self,
        address: str | Path,
        *,
        backend: str = "asyncio",
        hub: str = "best",
        durability: str = "none",
        state: str | Path = "",
        first_revision: int | None = 0,
        snapshot: str | Path = "",
        under: Sequence[str] = (),
        **popen: Any,
    ) -> None:
        """`under`: a command that runs it, `strace` perhaps."""
        self.address = str(address)
        options = (backend, hub, durability, str(state), str(first_revision), str(snapshot))
        self._lifeline, theirs = socket.socketpair()
        # Not a pipe, which fills up when nobody reads it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._whole_log: str | None = None
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(*under, sys.executable, "-c", SERVE, self.address),
                    *(*options, str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stderr=self._stderr,
                **popen,
            )
        self._lifeline.settimeout(20)
        if self._lifeline.recv(6) != b"ready\n":
            raise RuntimeError(f"the broker did not start: {self._end()}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> RawClient:
        return RawClient(self.address)

    @contextlib.contextmanager
    def crowd(self, number: int) -> Iterator[list[RawClient]]:
        """Many clients, all closed at the end."""
        with contextlib.ExitStack() as clients:
            yield [clients.enter_context(self.connect()) for _ in range(number)]

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it with a signal and return what it logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._end()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def cut_lifeline(self) -> None:
        """What happens when the program that started the broker is gone."""
        self._lifeline.close()

    def log(self) -> str:
        """What it has logged so far."""
        if self._whole_log is not None:
            return self._whole_log
        # Not seek and read: the broker writes at the offset that this descriptor shares with it.
        file = self._stderr.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def _end(self) -> str:
        try:
            # Popen.wait with a time-out sleeps up to 50 ms at a time.
            wait_until(lambda: self.process.poll() is not None, "the end of the broker")
        finally:
            self._lifeline.close()
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._whole_log = self.log()
            self._stderr.close()
        return self._whole_log

    def cpu_seconds(self) -> float:
        """User and system time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Memory that it has resident now."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class RawClient:
    """A socket that speaks the protocol frame by frame, without the client library."""

    def __init__(self, address: str, timeout: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._decoder = Decoder()
        self._messages: list[Any] = []
        self._msgid = 0

    def send(self, *messages: Any) -> None:
        self.socket.sendall(b"".join(map(msgpack.packb, messages)))

    def receive(self) -> Any:
        """The next message; EOFError when the broker has closed the connection."""
        while not self._messages:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the broker closed the connection")
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    def rest(self) -> list[Any]:
        """Every message until the broker closes the connection."""
        messages = []
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                messages.append(self.receive())
        return messages

    def request(self, method: str, *params: Any) -> Any:
        """Send a request and return its whole response, [1, msgid, error, result]."""
        self._msgid += 1
        self.send([0, self._msgid, method, list(params)])
        response = self.receive()
        assert response[:2] == [1, self._msgid], response
        return response

    def call(self, method: str, *params: Any) -> Any:
        """The result of a request that succeeds."""
        response = self.request(method, *params)
        assert response[2] is None, response
        return response[3]

    def refused(self, method: str, *params: Any) -> tuple[int, str, dict[str, Any]]:
        """(number, message, details) of a request that is refused."""
        response = self.request(method, *params)
        assert response[2] is not None, response
        return response[2][0], response[2][1], response[3]

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def running_broker(address: str | Path, **options: Any) -> Iterator[BrokerProcess]:
    broker = BrokerProcess(address, **options)
    try:
        yield broker
    finally:
        broker.stop()


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> None:
    """For what tells nobody when it happens (a process table, a log file): ask until it has."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.005)

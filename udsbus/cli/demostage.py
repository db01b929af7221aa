"""The processes on the demo's stage. Whatever happens, none stays and no file is left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from time import monotonic, sleep
from types import FrameType
from typing import Any

from ..client.spawning import LocalBroker
from ..client.sync import Client
from ..errors import Error
from ..interpreter import environment, python
from ..paths import log_path

PATIENCE_SECONDS = 15.0
"""A worker that says nothing for so long is taken to have failed."""


class DemoFailed(Error):
    """Something did not go as it must."""


class Worker:
    """A process in a role of demoworkers.py."""

    def __init__(self, role: str, address: str, name: str) -> None:
        self.name = name
        self._said = b""
        self._errors = log_path(f"{address}-{role}-{name}")
        with open(self._errors, "wb") as errors:
            self._process = _start(
                ["udsbus.cli.demoworkers", role, address, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.pid = self._process.pid

    def hear(self) -> list[str]:
        """The words of its next line. Raises DemoFailed when there is none."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        until = monotonic() + PATIENCE_SECONDS
        while b"\n" not in self._said:
            ready, _, _ = select.select([output], [], [], max(0, until - monotonic()))
            data = os.read(output, 65536) if ready else b""
            if not data:
                with open(self._errors, errors="replace") as errors:
                    reason = (errors.read().splitlines() or ["it just stopped"])[-1]
                raise DemoFailed(f"process {self.name} (pid {self.pid}) failed: {reason}")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode().split()

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # if it is gone, `hear` will say so
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()

    def kill(self) -> None:
        """With SIGKILL: it gets no chance to say goodbye."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stage:
    """A private broker and its workers, ended with the block.

    SIGINT, SIGTERM and SIGHUP end the block by an exception, except while a process is being
    started and not yet on the list of those to end: then a moment later.
    """

    def __init__(self) -> None:
        self.started = 0
        """Processes started so far."""
        self._cleanup = contextlib.ExitStack()
        state = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="udsbus-"))
        self.broker = LocalBroker(state=os.path.join(state, "state"))
        self._standbys: set[int] = set()
        self._starting = False
        self._signal: int | None = None

    def __enter__(self) -> Stage:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        finally:
            self._cleanup.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        if not self._starting:
            self._leave()

    def _leave(self) -> None:
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        """While a process is started and the way to end it noted down."""
        self._starting = True
        try:
            yield
        finally:
            self._starting = False
        self.started += 1
        self._leave()

    def start_broker(self) -> None:
        with self._one_more():
            self.broker.start()
            self._cleanup.callback(self.broker.stop)

    def connect(self, name: str) -> Client:
        client = self.broker.connect(name=name)
        self._cleanup.callback(client.close)
        return client

    def start(self, role: str, *names: str) -> list[Worker]:
        """Workers in the same role, one a name; all ready."""
        workers = []
        for name in names:
            with self._one_more():
                worker = Worker(role, self.broker.address, name)
                self._cleanup.callback(worker.end)
            workers.append(worker)
        for worker in workers:
            worker.hear()
        return workers

    def standby(self, client: Client) -> int:
        """The pid of the broker's standby, once it could take over."""
        until = monotonic() + PATIENCE_SECONDS
        while (pid := client.info()["standby"]) is None:
            if monotonic() > until:
                raise DemoFailed("no standby got ready")
            sleep(0.01)
        if pid not in self._standbys:
            self._standbys.add(pid)
            self.started += 1
        return int(pid)

    def kill_broker(self) -> int:
        """As `kill -9` does. Returns the pid that it had."""
        pid = self.broker.pid
        os.kill(pid, signal.SIGKILL)
        return pid


def _start(module_and_arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """A Python process in a session of its own, which the terminal's Ctrl-C does not reach."""
    command = [*python(), "-m", *module_and_arguments]
    return subprocess.Popen(command, env=environment(), start_new_session=True, **options)

"""The command as a real process: run to its end, or running beside the test."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

import pexpect

from ..harness import wait_until
from ..pairs import without_nohup

PATIENCE = 20.0
COMMAND = [sys.executable, "-m", "udsbus"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """`udsbus` for one bus."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.environ = os.environ | {"UDSBUS_SOCKET": address, "COLUMNS": "100", "LINES": "30"}
        self.environ |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}

    def __call__(self, *args: str, stdin: bytes = b"", **environ: str) -> Outcome:
        """Run it to its end, in pipes."""
        code, out, err = self.bytes(*args, stdin=stdin, **environ)
        return Outcome(code, out.decode(), err.decode())

    def bytes(self, *args: str, stdin: bytes = b"", **environ: str) -> tuple[int, bytes, bytes]:
        done = subprocess.run(
            [*COMMAND, *args],
            input=stdin,
            capture_output=True,
            env=self.environ | environ,
            timeout=2 * PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    def lines(self, *args: str) -> list[str]:
        """What it prints when it succeeds."""
        code, out, err = self(*args)
        assert (code, err) == (0, ""), (code, out, err)
        return out.splitlines()

    @contextlib.contextmanager
    def running(self, *args: str, **environ: str) -> Iterator[Running]:
        process = Running([*COMMAND, *args], self.environ | environ)
        try:
            yield process
        finally:
            process.close()

    @contextlib.contextmanager
    def shell(self) -> Iterator[Any]:
        """An interactive bash on a terminal of its own."""
        child = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "-i"],
            env=self.environ | {"PS1": "$ ", "TERM": "dumb"},
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(30, 200),
        )
        try:
            yield child
        finally:
            child.close(force=True)

    @contextlib.contextmanager
    def terminal(self, *args: str, **environ: str) -> Iterator[Any]:
        """It on a terminal of its own; see pexpect."""
        child = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], *args],
            env=self.environ | environ,
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(30, 100),
        )
        child.delayafterclose = child.ptyproc.delayafterclose = 0  # sleeps, by default
        try:
            yield child
        finally:
            child.close(force=True)

    def on_terminal(self, *args: str) -> tuple[int, str]:
        """Exit code and all that a terminal is sent, stderr too."""
        with self.terminal(*args) as child:
            text = str(child.read())
            child.wait()
            return child.exitstatus or 0, text


class Running:
    """A command in pipes, not ended yet."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            start_new_session=True,  # so that a standby can be ended with its broker
            preexec_fn=without_nohup,
        )
        self._buffers = {"stdout": b"", "stderr": b""}

    def line(self, stream: str = "stdout") -> str:
        """The next line, without its end; waits for it."""
        pipe = getattr(self.process, stream)
        until = monotonic() + PATIENCE
        while b"\n" not in self._buffers[stream]:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - monotonic()))
            data = os.read(pipe.fileno(), 65536) if ready else b""
            assert data, f"no line came on {stream}: {self._buffers}"
            self._buffers[stream] += data
        line, _, self._buffers[stream] = self._buffers[stream].partition(b"\n")
        return line.decode()

    def told(self, pattern: str) -> str:
        """The next line on stderr in which a regular expression is found; waits for it."""
        while not re.search(pattern, line := self.line("stderr")):
            pass
        return line

    def signal(self, number: signal.Signals) -> int:
        """Send it a signal, and return how it ended."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        wait_until(lambda: self.process.poll() is not None, "the end of the command")
        return self.process.returncode

    def rest(self, stream: str = "stdout") -> str:
        """All that is left to read, once it has ended."""
        pipe = getattr(self.process, stream)
        return str((self._buffers[stream] + pipe.read()).decode())

    def close(self) -> None:
        """Asked first: what a command has started in groups of its own ends with it only then."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signal.SIGTERM)
                os.killpg(self.process.pid, signal.SIGCONT)
                self.process.wait(3.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def is_one_complaint(err: str) -> bool:
    return err.startswith("udsbus: ") and err.endswith("\n") and err.count("\n") == 1

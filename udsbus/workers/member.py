"""One process of the pool, as the pool sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Literal

from .beats import Beats, new_beats
from .logs import Lines, Log
from .program import Configuration

State = Literal["starting", "ready", "leaving"]


class Member:
    """Owns the process, the socket that it tells over, and the pipe of its log."""

    def __init__(self, configuration: Configuration, log: Log) -> None:
        """Raises OSError when no process can be started."""
        self.state: State = "starting"
        self.since = monotonic()
        """When it was started."""
        self.why = ""
        """Why it leaves."""
        self.kill_at: float | None = None
        """When it has had its time to leave."""
        self.killed_for: str | None = None
        """Why it was killed, if it hung."""
        beats = new_beats()
        try:
            reading, writing = os.pipe()
        except OSError:
            os.close(beats)
            raise
        self.control, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "udsbus.workers.program",
                    configuration.packed(theirs.fileno(), beats),
                ],
                stdin=subprocess.DEVNULL, stdout=writing, stderr=writing,
                pass_fds=(theirs.fileno(), beats),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C at the terminal is for the pool
            )  # fmt: skip
        except BaseException:
            os.close(reading)
            os.close(beats)
            self.control.close()
            raise
        finally:
            os.close(writing)
            theirs.close()
        self.pid = self.process.pid
        self.control.setblocking(False)
        self.beats = Beats(beats)
        self.lines = Lines(reading, log, self.pid)
        self.pidfd = -1
        """Ready when it is dead; -1: the system has none."""
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.pidfd = os.pidfd_open(self.pid)
        self._begun = b""
        self._over = False
        """It is dead, and its number given back."""

    def told(self) -> Iterator[str]:
        """What it has told, line by line."""
        with contextlib.suppress(OSError):
            self._begun += self.control.recv(4096)
        while b"\n" in self._begun:
            line, _, self._begun = self._begun.partition(b"\n")
            yield line.decode(errors="replace")

    def leave(self, why: str, grace: float) -> None:
        """Let it finish what it has in hand, and end."""
        if self.kill_at is None:
            self.state, self.why = "leaving", self.why or why
            self.kill_at = monotonic() + grace
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def kill(self) -> None:
        """It, and what it has started."""
        if not self._over:  # else the number may be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has. What it has started and left ends then too."""
        if not self._over and self._is_dead():
            self.kill()
            self.process.wait()
            self._over = True
        return self._over

    def _is_dead(self) -> bool:
        """Without letting go of its number, where the system can do that."""
        if not hasattr(os, "waitid"):  # macOS
            return self.process.poll() is not None
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def how(self) -> str:
        """It has ended: how."""
        code = self.process.returncode
        if self.killed_for is not None:
            return f"was killed, since {self.killed_for}"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        self.lines.close()
        self.control.close()
        self.beats.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)

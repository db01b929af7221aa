"""A command that runs while something is the case: started when it is, stopped when it is not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Sequence
from time import monotonic

from .output import complain

PASSED_ON = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH")
NOT_FOUND = 127
NOT_EXECUTABLE = 126
STOP_SECONDS = 3.0
"""How long a command has to end after SIGTERM, before SIGKILL."""
SET_PARENT_DEATH_SIGNAL = 1
"""Of prctl."""


class Gated:
    """A command that has its process already, in a process group of its own, but waits to be let
    in. To be made before there are threads.

    On Linux it is killed when this process dies, at the same moment at which the broker learns of
    that. Its own children are not.
    """

    def __init__(self, command: Sequence[str]) -> None:
        waits, self._gate = os.pipe()
        self._failure, fails = os.pipe()
        self._command = command[0]
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _run(command, parent, waits, fails)
        os.close(waits)
        os.close(fails)
        with contextlib.suppress(OSError):  # the child does it too; whoever is first
            os.setpgid(self.pid, self.pid)
        self._awake, wakes = os.pipe()
        os.set_blocking(wakes, False)
        self._wakes = wakes
        self._ended: int | None = None
        self.stopped = False
        """Somebody has asked for its end."""

    def let_go(self, environ: dict[str, str]) -> int:
        """Let it run, with these variables, to its end. Returns its exit code, as a shell tells it;
        signals that come to this process meanwhile are passed on."""
        names = [name for name in (*PASSED_ON, "SIGCHLD") if hasattr(signal, name)]
        numbers = [getattr(signal, name) for name in names]
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN  # as `nohup` leaves it
        }
        woken = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            with _Terminal(self.pid) as terminal:
                os.write(self._gate, "\0".join(f"{k}={v}" for k, v in environ.items()).encode())
                os.close(self._gate)
                error = os.read(self._failure, 1)
                self._supervise(terminal)
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
        assert self._ended is not None
        if error:
            complain(f"{self._command}: {os.strerror(error[0])}")
        return self._ended

    def give_up(self) -> None:
        """Never let it run."""
        os.close(self._gate)
        os.waitpid(self.pid, 0)

    def stop(self) -> None:
        """Have it end; from any thread."""
        self.stopped = True
        with contextlib.suppress(OSError):
            os.write(self._wakes, b"\0")

    def _supervise(self, terminal: _Terminal) -> None:
        until: float | None = None
        while not self._look(terminal):
            left = None if until is None else max(0.0, until - monotonic())
            if not select.select([self._awake], [], [], left)[0]:
                self._signal(signal.SIGKILL)
                until = None
                continue
            for number in os.read(self._awake, 1024):
                if number == 0 and until is None:
                    self._signal(signal.SIGTERM)
                    self._signal(signal.SIGCONT)
                    until = monotonic() + STOP_SECONDS
                elif number not in (0, signal.SIGCHLD):
                    self._signal(number)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _look(self, terminal: _Terminal) -> bool:
        """Whether it has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):  # Ctrl-Z: the shell has to do with us
            terminal.take_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            terminal.hand_over()
            self._signal(signal.SIGCONT)
        elif pid:
            code = os.waitstatus_to_exitcode(status)
            self._ended = code if code >= 0 else 128 - code
        return self._ended is not None


class _Terminal:
    """The terminal that this process has in its hands, if it has; for a process group."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._ours = False
        with contextlib.suppress(OSError):
            self._ours = os.tcgetpgrp(0) == os.getpgrp()

    def hand_over(self) -> None:
        self._give(self._group)

    def take_back(self) -> None:
        self._give(os.getpgrp())

    def _give(self, group: int) -> None:
        if self._ours:
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            with contextlib.suppress(OSError):
                os.tcsetpgrp(0, group)
            signal.signal(signal.SIGTTOU, before)

    def __enter__(self) -> _Terminal:
        self.hand_over()
        return self

    def __exit__(self, *_: object) -> None:
        self.take_back()


def _run(command: Sequence[str], parent: int, waits: int, fails: int) -> None:
    """In the child: wait to be let in, and become the command."""
    code = NOT_EXECUTABLE
    try:
        os.setpgid(0, 0)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        told = os.read(waits, 65_536)
        if not told or os.getppid() != parent:
            os._exit(0)
        for variable in told.decode().split("\0"):
            name, _, value = variable.partition("=")
            os.environ[name] = value
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
        sys.stdout.flush()
        os.execvp(command[0], list(command))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            code = NOT_FOUND
        os.write(fails, bytes([min(error.errno or 255, 255)]))
    finally:
        os._exit(code)

"""A command that runs while something is the case: started when it is, stopped when it is not."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from time import monotonic

from .launching import NOT_EXECUTABLE, become, die_with_parent
from .programs import OF_TERMINALS, PASSED_ON, exit_code, has_terminal

STOP_SECONDS = 3.0
"""How long a command has to end after SIGTERM, before SIGKILL."""


class Gated:
    """A command that has its process already, but waits to be let in. To be made before there are
    threads.

    Where there is no terminal it has a process group of its own, which is stopped as a whole. At a
    terminal it stays in ours, as any command of a shell does: Ctrl-C and Ctrl-Z, pipes, `fg` and
    `bg` are then the shell's business, and what is stopped is the command's own process.

    On Linux it is killed when this process dies, at the same moment at which the broker learns of
    that. Its own children are not.
    """

    def __init__(self, command: Sequence[str]) -> None:
        waits, self._gate = os.pipe()
        self._error, fails = os.pipe()
        self._awake, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._command = command[0]
        self._has_group = not has_terminal()
        self._ended: int | None = None
        self.failure: str | None = None
        """Why it could not be run."""
        self.stopped = False
        """Somebody has asked for its end."""
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _run(command, parent, self._has_group, waits, fails)
        os.close(waits)
        os.close(fails)
        if self._has_group:
            with contextlib.suppress(OSError):  # the child does it too; whoever is first
                os.setpgid(self.pid, self.pid)

    def let_go(self, environ: dict[str, str]) -> int:
        """Let it run, with these variables, to its end. Returns its exit code, as a shell tells it;
        signals that come to this process meanwhile are passed on.

        Raises KeyboardInterrupt if it died of that, so that a shell ends its loop.
        """
        names = [name for name in (*PASSED_ON, *OF_TERMINALS) if hasattr(signal, name)]
        numbers = [signal.SIGCHLD, *(getattr(signal, name) for name in names)]
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN  # as `nohup` leaves it
        }
        before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        woken = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            with contextlib.suppress(BrokenPipeError):  # somebody has killed it already
                os.write(self._gate, "\0".join(f"{k}={v}" for k, v in environ.items()).encode())
            os.close(self._gate)
            error = os.read(self._error, 1)
            self._supervise()
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
        assert self._ended is not None
        if error:
            self.failure = f"{self._command}: {os.strerror(error[0])}"
        return exit_code(self._ended)

    def give_up(self) -> None:
        """Never let it run."""
        os.close(self._gate)
        os.waitpid(self.pid, 0)

    def stop(self) -> None:
        """Have it end; from any thread."""
        self.stopped = True
        with contextlib.suppress(OSError):
            os.write(self._wakes, b"\0")

    def _supervise(self) -> None:
        until: float | None = None
        while not self._has_ended():
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
                elif number not in (0, signal.SIGCHLD) and self._passes_on(number):
                    self._signal(number)

    def _passes_on(self, number: int) -> bool:
        return self._has_group or signal.Signals(number).name not in OF_TERMINALS

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._has_group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def _has_ended(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._ended = os.waitstatus_to_exitcode(status)
        return pid != 0


def _run(command: Sequence[str], parent: int, own_group: bool, waits: int, fails: int) -> None:
    """In the child: wait to be let in, and become the command."""
    try:
        if own_group:
            os.setpgid(0, 0)
        die_with_parent()
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        told = os.read(waits, 65_536)
        if not told or os.getppid() != parent:
            os._exit(0)
        for variable in told.decode().split("\0"):
            name, _, value = variable.partition("=")
            os.environ[name] = value
        become(command, fails, os.get_exec_path())
    finally:
        os._exit(NOT_EXECUTABLE)

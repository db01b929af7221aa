"""Commands as processes with a group of their own, and how their ends are told.

The process that starts them adopts what they leave behind (`launching.adopt_orphans`), so that the
end of the last of a group is told too, and it does not stay as a zombie where nobody collects them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from . import launching
from .launching import NOT_EXECUTABLE, NOT_FOUND


class CannotStart(Exception):
    """The command cannot be run. `code`: the exit code by which a shell tells that."""

    def __init__(self, command: str, number: int) -> None:
        super().__init__(f"{command}: {os.strerror(number)}")
        missing = isinstance(OSError(number, ""), FileNotFoundError)
        self.code = NOT_FOUND if missing else NOT_EXECUTABLE


class Process:
    """A command that has been started, and the process group of which it is the first."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: int | None = None
        """Its exit code, or the number of the signal that killed it, negative; None: it runs."""
        self._asked = False
        self._gone = False

    @property
    def gone(self) -> bool:
        """It has ended, and nothing of its group is left."""
        if self.ended is None or self._gone:  # for good: the number may be another's by now
            return self._gone
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):  # what we may not signal, nobody can end
            self._gone = True
        return self._gone

    def signal(self, number: int) -> None:
        """To the command alone, unless it has ended."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """To whatever is left of its group."""
        self._asked |= number == signal.SIGTERM
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def ask_to_end(self) -> None:
        """SIGTERM to its group, which is not told twice: some take that for a sign of haste."""
        if not self._asked:
            self.signal_group(signal.SIGTERM)
        self.signal_group(signal.SIGCONT)


class Processes:
    """All that have been started and have not ended."""

    def __init__(self) -> None:
        self._running: dict[int, Process] = {}

    def start(
        self, command: Sequence[str], environ: Mapping[bytes, bytes], stdin: int | None = None
    ) -> Process:
        """Start a command; returns when it runs. `stdin`: a descriptor; None: ours.

        It is found by our own PATH, whatever that in `environ` is. It is killed when this thread
        ends, on Linux. Raises CannotStart.
        """
        reads, fails = os.pipe()
        try:
            os.set_inheritable(fails, True)
            launcher = [sys.executable, "-I", "-S", launching.__file__, str(fails)]
            actions = [] if stdin is None else [(os.POSIX_SPAWN_DUP2, stdin, 0)]
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            pid = os.posix_spawn(
                sys.executable,
                [*launcher, str(os.getpid()), os.pathsep.join(os.get_exec_path()), *command],
                environ,
                file_actions=actions,
                setpgroup=0,
                setsigmask={*mask, signal.SIGINT},  # until the launcher has seen to it
            )
        except OSError as error:
            os.close(reads)
            raise CannotStart(command[0], error.errno or 0) from None
        finally:
            os.close(fails)
        with open(reads, "rb") as pipe:
            number = pipe.read(1)  # nothing, when it has become the command
        if number:
            os.waitpid(pid, 0)
            raise CannotStart(command[0], number[0])
        process = self._running[pid] = Process(pid)
        return process

    def collect(self) -> None:
        """Note which have ended, and let go of what they have left behind and has ended too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                process = self._running.pop(pid, None)
                if process is not None:
                    process.ended = os.waitstatus_to_exitcode(status)

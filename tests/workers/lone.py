"""A worker without a pool, so that it can be seen how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.harness import wait_until
from udsbus.workers.beats import new_beats
from udsbus.workers.program import Configuration

from .conftest import PATIENCE


class Lone:
    """Serves `tasks`, which `command` carries out. Is ready when it is made."""

    def __init__(
        self, address: str, log: Path, *command: str, form: str = "json", grace: float = 10.0,
        max_bytes: int | None = None,
    ) -> None:  # fmt: skip
        configuration = Configuration(
            address=address, name="lone", app=None, command=list(command), format=form,
            service="tasks", retry=0, concurrency=1, max_calls=None, max_bytes=max_bytes,
            grace=grace,
        )  # fmt: skip
        self.log = log
        self.control, theirs = socket.socketpair()
        beats = new_beats()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "udsbus.workers.program",
                    configuration.packed(theirs.fileno(), beats),
                ],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                pass_fds=(theirs.fileno(), beats), start_new_session=True,
            )  # fmt: skip
        theirs.close()
        os.close(beats)
        self.control.settimeout(PATIENCE)
        assert self.control.recv(6, socket.MSG_PEEK) == b"ready\n", log.read_text()

    def told(self, what: str) -> None:
        wait_until(lambda: what in self.log.read_text(), f"{what!r} in the log", PATIENCE)

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def end(self) -> int:
        self.process.terminate()
        return self.ended()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.control.close()


def processes_of(group: int) -> list[int]:
    """The pids of what a worker has started, and is not gone. It is the first of the group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != group]

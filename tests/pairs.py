"""A broker with its standby, as `udsbus serve` runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from udsbus import Client

from .harness import wait_until


def without_nohup() -> None:
    """The tests may run under it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Pair:
    """`udsbus serve` with its standby, in a process group of their own."""

    def __init__(self, address: str, state: Path, *options: str) -> None:
        self.address = address
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "udsbus", "serve", "--state", str(state), *options],
            env=os.environ | {"UDSBUS_SOCKET": address},
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=without_nohup,
        )
        self.told("serving")

    def log(self) -> str:
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def told(self, what: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(what) >= times, f"{what!r} in the log")

    def ready(self, client: Client) -> tuple[int, int]:
        """(broker's pid, standby's), once that could take over."""
        found: list[Any] = []

        def both() -> bool:
            info = client.info()
            found[:] = [info["pid"], info["standby"]]
            return found[1] is not None

        wait_until(both, "a standby that is ready", 60.0)
        return found[0], found[1]

    def members(self) -> list[int]:
        """The processes of its group that live, but for those that fold for it."""
        living = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    folds = b"folding" in (entry / "cmdline").read_bytes()
                    if int(fields[2]) == self.process.pid and fields[0] != "Z" and not folds:
                        living.append(int(entry.name))
        return living

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.members(), "the end of the pair")
        self._log.close()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter in the midst of it
        return True

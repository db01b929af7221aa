"""What workers print, line by line, each with a label; or each in a file of its own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from .printing import Printer

LINE_BYTES = 64 * 1024
"""A longer line is broken."""


class Log:
    """Of one place in the pool. Owns the reading end of the pipe of its process, one at a time."""

    def __init__(self, label: str, directory: Path | None, printer: Printer) -> None:
        """Raises OSError when a file cannot be written."""
        self.label = label
        self._printer = printer
        self._file: BinaryIO | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            name = label.replace("/", ".")
            self._file = open(directory / f"{name}.log", "ab", buffering=0)  # noqa: SIM115

    def write(self, pid: int, data: bytes) -> None:
        """Whole lines, without a newline at the end."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # there is nobody to tell
                self._file.write(data + b"\n")
        else:
            label = f"[{self.label} {pid}] ".encode()
            self._printer.put(label + data.replace(b"\n", b"\n" + label) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Lines:
    """The pipe of one process."""

    def __init__(self, descriptor: int, log: Log, pid: int) -> None:
        os.set_blocking(descriptor, False)
        self.fd = descriptor
        self._log = log
        self._pid = pid
        self._begun = b""

    def read(self) -> bool:
        """Pass on some of what has come, for a process may print more and more. False: that was
        the end."""
        try:
            data = os.read(self.fd, LINE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        whole, newline, rest = (self._begun + data).rpartition(b"\n")
        if newline:
            self._log.write(self._pid, whole)
        self._begun = rest
        if (not data or len(rest) > LINE_BYTES) and rest:
            self._log.write(self._pid, rest)
            self._begun = b""
        return bool(data)

    def read_last(self) -> None:
        """What its process has printed last, which is dead: no more than a pipe holds, for others
        may have it too."""
        for _ in range(16):
            if not self.read():
                break

    def close(self) -> None:
        os.close(self.fd)

"""What the pool prints, in a thread: whoever reads its stderr may stop, or be slow, and the pool
has its workers to look after."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from time import monotonic

WAITING_BYTES = 8 * 1024 * 1024
"""So much waits for whoever reads; what comes beyond that is left out."""


class Printer:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._left_out = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="udsbus printer", daemon=True)
        self._thread.start()

    def put(self, lines: bytes) -> None:
        """Print whole lines, some time. Never waits for whoever reads."""
        with self._changed:
            if self._bytes > WAITING_BYTES:
                self._left_out += lines.count(b"\n")
                return
            if self._left_out:
                lines = b"(%d lines were left out: nobody read)\n" % self._left_out + lines
                self._left_out = 0
            self._lines.append(lines)
            self._bytes += len(lines)
            self._changed.notify()

    def write(self, text: str) -> None:
        """For `logging`."""
        self.put(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        pass

    def close(self, seconds: float = 1.0) -> None:
        """Wait until all is printed, but not for ever."""
        until = monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, until - monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    return
                lines = self._lines.popleft()
            rest = memoryview(lines)
            with contextlib.suppress(OSError):  # there is nobody to tell
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            with self._changed:
                self._bytes -= len(lines)

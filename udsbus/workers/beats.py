"""How a worker shows that it does not hang: two numbers in memory that it shares with the pool.

    beat    when it was last seen to go on
    since   when the oldest call in hand began; 0.0: there is none

Both are times of the monotonic clock, which is the same for all processes. Each of a worker's
services has such a pair; what is written is eight bytes at a time, so none is seen half.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from time import monotonic

SERVICES = 64
"""Pairs: services that are watched in one worker."""
_BYTES = 16 * SERVICES


def new_beats() -> int:
    """The descriptor of a file for one worker."""
    with tempfile.TemporaryFile(prefix="udsbus-beats-") as file:
        file.truncate(_BYTES)
        return os.dup(file.fileno())


class Beats:
    def __init__(self, descriptor: int) -> None:
        """Maps it, and closes the descriptor."""
        try:
            self._memory = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._memory).cast("d")

    def beat(self, service: int, since: float | None) -> None:
        """For the worker."""
        if service < SERVICES:
            self._numbers[2 * service + 1] = since or 0.0
            self._numbers[2 * service] = monotonic()

    def hangs(self, now: float, seconds: float, silence: float, since: float) -> str | None:
        """For the pool: why the worker seems to hang; None: it does not.

        `seconds`: how long a call may take; `silence`: how long without a beat one may have none;
        `since`: what was before then does not count.
        """
        for service in range(SERVICES):
            beat, began = self._numbers[2 * service : 2 * service + 2]
            if not beat:
                return None  # there are no more services
            if began and now - max(began, since) > seconds:
                return f"a call has taken {now - began:.3g} s"
            if not began and now - max(beat, since) > silence:
                return f"it was not seen to go on for {now - beat:.3g} s"
        return None

    def close(self) -> None:
        self._numbers.release()
        self._memory.close()

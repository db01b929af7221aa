"""Working beside others that must not wait for it.

Who computes for long has a core until the next tick of the scheduler, some milliseconds, even if it
gives way to others in all that it is told to: whoever wakes up meanwhile, and finds the other core
taken too, waits for so long. Who sleeps for a moment after each millisecond of work holds nobody up
for longer than that, and where a core is free loses little by it.
"""

from __future__ import annotations

from time import monotonic, sleep

BURST_SECONDS = 0.001
PAUSE_SECONDS = 0.0001


class Bursts:
    def __init__(self) -> None:
        self._until = monotonic() + BURST_SECONDS

    def pause(self) -> None:
        """To be called often; sleeps for a moment when it is time."""
        if monotonic() >= self._until:
            sleep(PAUSE_SECONDS)
            self._until = monotonic() + BURST_SECONDS

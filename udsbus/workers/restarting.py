"""When to start again a process that has ended by itself. Pure."""

from __future__ import annotations

STEADY_SECONDS = 10.0
"""One that has run for so long was well; what has ended it is something else."""
FIRST_SECONDS = 0.1
"""Before the second start after one that was not well; doubles each time."""
MOST_SECONDS = 30.0
FLAPPING = 5
"""Ends in a row, each soon after its start, by which a process is called flapping."""


class Restarting:
    """Of one place in the pool, whichever process has it."""

    def __init__(self) -> None:
        self.failures = 0
        """Ends in a row that came soon."""
        self.restarts = 0
        """Ends in all that were not asked for."""

    @property
    def flapping(self) -> bool:
        return self.failures >= FLAPPING

    def ended(self, seconds: float) -> float:
        """A process that has run for so long has ended. Returns how long to wait."""
        self.restarts += 1
        self.failures = 1 if seconds >= STEADY_SECONDS else self.failures + 1
        if self.failures == 1:
            return 0.0
        return min(FIRST_SECONDS * 2.0 ** (self.failures - 2), MOST_SECONDS)

    def steady(self) -> None:
        """The process that runs now has done so long enough."""
        self.failures = 0

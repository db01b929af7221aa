"""Adaptive busy polling: when it pays to poll a little before sleeping.

Waking a sleeping process costs 25 to 60 µs in a virtual machine, more than all the rest of a
request. Polling for that long instead saves it whenever the other side answers in time. It is
wasted when the other side is slow, and worse than wasted when somebody else needs the core. So
each side keeps count: after a few polls in vain it stops, and then tries now and then whether
times have changed.
"""

from __future__ import annotations

TRIES = 4
"""Polls in vain, in a row, before it stops."""
PROBE_EVERY = 64
"""While stopped, one wait in so many polls again. Costs at most SPIN_SECONDS / 64 a wait."""


class Spinning:
    __slots__ = ("_credit", "_skipped")

    def __init__(self) -> None:
        self._credit = TRIES
        self._skipped = 0

    def worthwhile(self) -> bool:
        """Whether to poll before this sleep."""
        if self._credit > 0:
            return True
        self._skipped += 1
        if self._skipped >= PROBE_EVERY:
            self._skipped = 0
            return True
        return False

    def hit(self) -> None:
        """Polling was rewarded."""
        if self._credit < TRIES:
            self._credit += 1

    def miss(self) -> None:
        """Polling was in vain."""
        if self._credit > 0:
            self._credit -= 1

"""Adaptive busy polling: when it pays to poll a little before sleeping.

Waking a sleeping process costs 25 to 60 µs in a virtual machine, more than all the rest of a
request. Polling for that long instead saves it whenever the other side answers in time. It is
wasted when the other side is slow, and worse than wasted when somebody else needs the core:
perhaps the very process that is waited for. So each side watches how its polls end:

- *in vain*: nothing came. When that happens more often than not it stops, and tries now and then
  whether times have changed.
- *late*: the poll took much longer than it may, because somebody else had the core meanwhile. When
  that happens often, and goes on, there are more busy processes than cores, and it rests for a
  while; for twice as long if that turns out to be still so. Now and then a few in a row mean
  nothing: it is the host of a virtual machine, say, and to rest for that costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

TRIES = 4
"""Polls in vain, more than rewarded ones, before it stops."""
PROBE_EVERY = 64
"""While stopped, one wait in so many polls again. Costs at most 1/64 of a poll each."""
LATE_SECONDS = 100e-6
"""A poll that ends so long after its time was interrupted by another process."""
OFTEN = 1_024
"""Late once in fewer polls than this is often. A core is shared in slices of about 3 ms, some
hundred polls."""
PATIENCE = 4
"""It rests after so many late polls in a row, or after more with good ones in between."""
STILL = 2
"""The same when it has just rested: to find out that it is still too crowded costs fewer."""
REST_FIRST = 8_192
"""Waits without a poll when it rests for the first time, in which it may be late some dozen times
if it polls."""
REST_MOST = 65_536


class Spinning:
    __slots__ = ("_credit", "_rest", "_seconds", "_skip", "_strain")

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long a poll goes on in vain."""
        self._seconds = seconds
        self._credit = TRIES
        self._skip = 0
        """Waits to come that do not poll."""
        self._rest = REST_FIRST
        self._strain = 0
        """Grows by OFTEN with each late poll, and falls by one with each that is rewarded."""

    def spin(self, poll: Callable[[float], list[Any]]) -> list[Any]:
        """What `poll(0)` gives, called until it gives something or its time is over.
        Nothing, at once, when that has not paid of late."""
        if self._skip:
            self._skip -= 1
            return []
        until = monotonic() + self._seconds
        now = 0.0
        while now < until:
            ready = poll(0)
            if ready:
                if self._strain:
                    self._strain -= 1
                    if not self._strain:
                        self._rest = REST_FIRST
                if self._credit < TRIES:
                    self._credit += 1
                return ready
            now = monotonic()
        if now > until + LATE_SECONDS:
            self._strain += OFTEN
            if self._strain > (PATIENCE - 1) * OFTEN:
                self._skip = self._rest
                self._rest = min(2 * self._rest, REST_MOST)
                self._strain = (PATIENCE - STILL) * OFTEN
        elif self._credit > 1:
            self._credit -= 1
        else:
            self._skip = PROBE_EVERY - 1
        return []

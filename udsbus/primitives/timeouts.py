"""Seconds to wait, as `queue` and most of `threading` understand them."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..limits import TIMEOUT_MOST


def seconds_at_most(timeout: float | None) -> float | None:
    """The same in seconds; None: for as long as it takes. Raises InvalidRequest (a ValueError)."""
    if timeout is None:
        return None
    if type(timeout) not in (int, float) or not timeout >= 0:
        raise InvalidRequest(f"timeout must be a number of seconds from 0, not {timeout!r}")
    return None if timeout > TIMEOUT_MOST else float(timeout)

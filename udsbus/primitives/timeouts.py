"""Seconds to wait, as `queue` and most of `threading` understand them."""

from __future__ import annotations

import threading

from ..errors import InvalidRequest
from ..limits import TIMEOUT_MOST


def seconds_at_most(timeout: float | None) -> float | None:
    """The same in seconds; None: for as long as it takes. Raises InvalidRequest (a ValueError)."""
    if timeout is None:
        return None
    if type(timeout) not in (int, float) or not timeout >= 0:
        raise InvalidRequest(f"timeout must be a number of seconds from 0, not {timeout!r}")
    return None if timeout > TIMEOUT_MOST else float(timeout)


def seconds_to_wait(blocking: bool, timeout: float) -> float | None:
    """As `threading` understands its arguments; None: for as long as it takes."""
    if type(timeout) not in (int, float):
        raise InvalidRequest(f"timeout must be a number of seconds, not {timeout!r}")
    if not blocking:
        if timeout != -1:
            raise InvalidRequest("a call that does not block takes no timeout")
        return 0.0
    if timeout < 0 and timeout != -1:
        raise InvalidRequest(f"timeout must be a number of seconds from 0, not {timeout!r}")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return None if timeout == -1 or timeout > TIMEOUT_MOST else float(timeout)

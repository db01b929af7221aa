"""What a script can tell from the exit code."""

from __future__ import annotations

from ..errors import BrokerUnavailable, Error, RequestTimeout

DONE = 0
ABSENT = 1
USAGE = 2
REFUSED = 3
TIMED_OUT = 4
NO_BROKER = 69
"""EX_UNAVAILABLE of sysexits.h."""
INTERRUPTED = 130
"""What a shell makes of a death by SIGINT; nothing here exits with this number itself."""

MEANINGS = {
    DONE: "done",
    ABSENT: "absent, or not got",
    USAGE: "wrong usage",
    REFUSED: "refused, or failed",
    TIMED_OUT: "timed out",
    NO_BROKER: "no broker",
    INTERRUPTED: "interrupted with Ctrl-C",
}


def exit_code_of(error: Error) -> int:
    if isinstance(error, BrokerUnavailable):
        return NO_BROKER
    if isinstance(error, RequestTimeout):
        return TIMED_OUT
    return REFUSED

"""The process that a `Folder` starts: `python -m udsbus.broker.folding WORK`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sqlite3
import sys

from ..errors import Error, JournalDamaged
from ..journal.directory import list_segments
from ..journal.folding import Retention, fold
from ..journal.snapshot import take_scheduled
from ..wire.values import decode
from .folder import DAMAGED, FAILED, LOCKED

BACKLOG = 8
"""With more closed segments than this, folding does not give way to others any more: on a machine
that is busy all the time it would never come to its turn, and the disk would fill."""
AT_ONCE = 4
"""Segments that one process folds."""
SET_PARENT_DEATH_SIGNAL = 1
"""Of prctl."""


def main(work: str) -> int:
    path, parent, read_to, fields = json.loads(work)
    _end_with(parent)
    fields["of_patterns"] = tuple((pattern, age) for pattern, age in fields["of_patterns"])
    retention = Retention(**fields)
    try:
        if len(list_segments(path)) <= BACKLOG:
            give_way()
        fold(path, retention, decode=decode, most=AT_ONCE, read_to=read_to)
        if retention.snapshot_seconds:
            take_scheduled(path, retention.snapshot_seconds, retention.snapshots, decode)
    except FileNotFoundError:  # another standby was quicker
        return 0
    except (OSError, sqlite3.Error, Error) as error:
        if "locked" in str(error):
            return LOCKED
        print(error, file=sys.stderr)
        return DAMAGED if isinstance(error, JournalDamaged) else FAILED
    return 0


def _end_with(parent: int) -> None:
    """Nobody shall fold when who asked for it is gone: the next one may be reading the journal."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def give_way() -> None:
    """Let this process run when no other wants to: the broker and its clients come first."""
    with contextlib.suppress(OSError):
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(10)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

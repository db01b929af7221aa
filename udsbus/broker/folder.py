"""Folding beside a broker: closed segments go into the database, and snapshots are taken on
schedule, by a process of its own each time (`folding.py`).

In a thread it would take the interpreter from whoever needs it at once, and could not give way to
other processes without making that one wait too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from time import monotonic

from ..interpreter import environment, python
from ..journal.directory import list_segments
from ..journal.folding import Retention
from ..journal.recovery import header_of
from ..journal.snapshot import snapshot_due

log = logging.getLogger("udsbus.broker")

SNAPSHOT_LOOK_SECONDS = 60.0
"""How often to look whether a snapshot is due, which was perhaps taken by another standby."""
LOCKED_SECONDS = 1.0
AGAIN_SECONDS = 30.0
"""After a failure (a full disk), so long until the next attempt."""
FAILED, LOCKED, DAMAGED = 1, 75, 65
"""How the process ends when it could not do what it should."""


class Folder:
    """For the main thread: the process ends with it."""

    def __init__(self, path: str, retention: Retention, lifeline: int | None = None) -> None:
        """`lifeline` is a descriptor that tells somebody, by its end, that all have ended."""
        self._path = path
        self._lifeline = lifeline
        self._retention = retention
        self._process: subprocess.Popen[str] | None = None
        self._not_before = 0.0
        self._next_snapshot = 0.0 if retention.snapshot_seconds else float("inf")

    def look(self, read_to: int | None = None) -> None:
        """Begin to fold if there is something and it is not being done already. What stands behind
        the position `read_to` stays: we have to read it."""
        if self._process is not None and not self._has_ended(self._process):
            return
        now = monotonic()
        if now < self._not_before:
            return
        try:
            if now >= self._next_snapshot:
                self._next_snapshot = now + min(
                    self._retention.snapshot_seconds, SNAPSHOT_LOOK_SECONDS
                )
                wanted = snapshot_due(self._path, self._retention.snapshot_seconds)
            else:
                wanted = False
            if wanted or self._something_to_fold(read_to):
                self._start(read_to)
        except OSError as error:
            log.error("the journal in %s cannot be folded: %s", self._path, error)
            self._not_before = now + AGAIN_SECONDS

    def _something_to_fold(self, read_to: int | None) -> bool:
        segments = list_segments(self._path)
        if len(segments) < 2:
            return False
        second = header_of(segments[1])
        return second is not None and (read_to is None or second.start <= read_to)

    def _start(self, read_to: int | None) -> None:
        work = json.dumps([self._path, os.getpid(), read_to, self._retention._asdict()])
        self._process = subprocess.Popen(
            [*python(), "-m", "udsbus.broker.folding", work],
            env=environment(),
            pass_fds=() if self._lifeline is None else (self._lifeline,),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _has_ended(self, process: subprocess.Popen[str]) -> bool:
        code = process.poll()
        if code is None:
            return False
        self._process = None
        assert process.stderr is not None
        with process.stderr:
            said = process.stderr.read().strip()
        if code == LOCKED:  # somebody looks into the database; that is what it is for
            self._not_before = monotonic() + LOCKED_SECONDS
        elif code:
            last = said.splitlines()[-1] if said else f"the process ended with {code}"
            log.error("the journal in %s cannot be folded: %s", self._path, last)
            again = float("inf") if code == DAMAGED else AGAIN_SECONDS
            self._not_before = monotonic() + again
        return True

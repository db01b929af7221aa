"""What the broker does for its journal: recovery at the start, and care while it runs.

The turn appends to the journal. The care puts it on the disk each second, and tries again each
second when it could not be written.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Literal

import anyio
import anyio.to_thread

from ..errors import JournalDamaged
from ..journal import FileJournal, Recovery, StateDirectory
from ..journal.database import position_in
from ..journal.folding import Retention
from ..journal.snapshot import restore_snapshot
from ..limits import FOLD_SECONDS, SYNC_SECONDS
from .folder import Folder
from .replica import Replica
from .turn import Turn

log = logging.getLogger("udsbus.broker")


def open_state(
    path: str,
    durability: Literal["process", "disk"],
    bus: str,
    first_revision: int,
    lock: int | None = None,
    snapshot: str | None = None,
    replica: Replica | None = None,
) -> tuple[Replica, FileJournal]:
    """The state as the journal tells it, and the journal to go on with.

    `bus` and `first_revision` are what it is called, and where its revisions begin, if there is no
    journal yet; `lock` is the state directory's, if that was inherited; `snapshot` is what to begin
    with; `replica` has followed the journal already. Raises JournalDamaged, AccessDenied, Conflict
    (there is a state already, and a snapshot), BrokerUnavailable (another broker has this state).
    """
    begun = monotonic()
    directory = StateDirectory(path, lock)
    try:
        if snapshot is not None:
            restore_snapshot(directory, snapshot)
        replica, recovery = _recover(directory, first_revision, replica)
        engine = replica.engine
        engine.changes = 0  # it counts those of this broker
        for pattern, error in engine.use_schemas().items():
            log.error("what matches %r cannot be written: %s", pattern, error)
        if replica.bus is not None:
            bus, first_revision = replica.bus, replica.first_revision
        journal = FileJournal(
            directory,
            durability,
            segment=recovery.next_segment,
            position=recovery.position,
            bus=bus,
            first_revision=first_revision,
        )
    except BaseException:
        if lock is None:  # else there may be another attempt with it
            directory.close()
        raise
    if recovery.position:
        log.info(
            "recovered %d keys at revision %d from %s in %.3f s",
            len(engine.keyspace.entries), engine.revision, path, monotonic() - begun,
        )  # fmt: skip
    return replica, journal


def _recover(
    directory: StateDirectory, first_revision: int, replica: Replica | None
) -> tuple[Replica, Recovery]:
    """All that is left to be read."""
    while True:
        if replica is None:
            replica = Replica(directory.path, first_revision)
            for _ in replica.load():
                pass
        recovery = Recovery(directory, replica.position, replica.segment)
        try:
            for header, turn in recovery:
                replica.replay(header, turn)
                if not turn.more:
                    replica.position = recovery.position
        except (FileNotFoundError, JournalDamaged):
            if position_in(directory.path) <= replica.position:
                raise
            # A process that a killed broker had left behind folded what was to be read.
            replica = None
        else:
            if recovery.bus is not None:  # what was repaired last may hold no turn
                replica.go_on_as(recovery.bus, recovery.first_revision)
            return replica, recovery


class JournalCare:
    """Runs beside the turn, in the same thread between turns, but for what waits for the disk."""

    def __init__(self, journal: FileJournal, turn: Turn) -> None:
        self._journal = journal
        self._turn = turn
        self._wanted = anyio.Event()
        journal.writer = turn.writer
        journal.wants_care = self._want
        if journal.failure is not None:  # it could not even begin
            turn.refuse_writes(journal.failure)
            self._want()

    def _want(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        journal, turn = self._journal, self._turn
        while True:
            await self._wanted.wait()
            await anyio.sleep(SYNC_SECONDS)
            self._wanted = anyio.Event()
            if journal.failure is not None:
                if journal.retry():
                    turn.refuse_writes(None)
            elif journal.durability == "process":
                sync = journal.begin_sync()
                try:
                    await anyio.to_thread.run_sync(sync.run)
                except OSError as error:
                    turn.refuse_writes(journal.sync_failed(error))
                else:
                    journal.end_sync(sync)


async def fold_beside(state: str, retention: Retention, lifeline: int | None) -> None:
    """For a broker without a standby."""
    folder = Folder(state, retention, lifeline)
    while True:
        await anyio.sleep(FOLD_SECONDS)
        folder.look()

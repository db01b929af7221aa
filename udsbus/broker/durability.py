"""What the broker does for its journal: recovery at the start, and care while it runs.

The turn appends to the journal. The care puts it on the disk each second, and tries again each
second when it could not be written.
"""

from __future__ import annotations

import json
import logging
from time import monotonic, time
from typing import Literal

import anyio
import anyio.to_thread

from ..engine import Engine
from ..interpreter import environment, python
from ..journal import FileJournal, Header, JournalTurn, Recovery, StateDirectory, boot_id
from ..journal.database import about, answers, entries, latest_changes, opened
from ..journal.directory import list_segments
from ..journal.folding import AGAIN_SECONDS, Retention
from ..journal.snapshot import restore_snapshot
from ..limits import CHANGE_LOG_CHANGES, FOLD_SECONDS, SYNC_SECONDS
from ..messages import Change, DeadlineMoved, Writer
from ..wire import values
from ..wire.schemas import compile_schema
from .lanes import Lanes
from .turn import Turn

log = logging.getLogger("udsbus.broker")


def open_state(
    path: str,
    durability: Literal["process", "disk"],
    bus: str,
    first_revision: int,
    lanes: Lanes,
    lock: int | None = None,
    snapshot: str | None = None,
) -> tuple[Engine, FileJournal]:
    """The engine as its journal tells it, and the journal to go on with; `lanes` gets the answers.

    `bus` and `first_revision` are what it is called, and where its revisions begin, if there is no
    journal yet; `lock` is the state directory's, if that was inherited; `snapshot` is what to begin
    with. Raises JournalDamaged, AccessDenied, Conflict (there is a state already, and a snapshot),
    BrokerUnavailable (another broker has this state).
    """
    begun = monotonic()
    directory = StateDirectory(path, lock)
    try:
        if snapshot is not None:
            restore_snapshot(directory, snapshot)
        recovery = Recovery(directory)
        if recovery.bus is not None:
            bus, first_revision = recovery.bus, recovery.first_revision
        engine = Engine(values, first_revision=first_revision, compile_schema=compile_schema)
        boot = boot_id()
        _load(path, boot, engine, lanes)
        segment = 0
        writers: dict[int, Writer] = {}
        history = recovery.folded_bus
        for header, turn in recovery:
            if header.bus != history:
                if history is not None:  # the journal was repaired here
                    engine.begin_again(header.first_revision)
                    lanes.clear()
                history = header.bus
            engine.replay(_on_our_clock(header, turn, boot))
            if header.segment != segment:
                segment, writers = header.segment, {}
            writers |= turn.writers
            for origin, msgid, response in turn.answers:
                writer = writers.get(origin)
                if writer is not None and writer.session is not None:
                    lanes.restore((writer.session, writer.lane), msgid, response, monotonic())
        engine.changes = 0  # it counts those of this broker
        for pattern, error in engine.use_schemas().items():
            log.error("what matches %r cannot be written: %s", pattern, error)
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
    return engine, journal


def _load(path: str, boot: str, engine: Engine, lanes: Lanes) -> None:
    """Begin with what is in the database."""
    with opened(path) as db:
        found = None if db is None else about(db)
        if db is None or found is None:
            return
        latest, forgotten = latest_changes(db, CHANGE_LOG_CHANGES, found.forgotten)
        engine.load(dict(entries(db, found.boot, boot)), found.revision, latest, forgotten)
        now = monotonic()
        for session, lane, msgid, response in answers(db):
            lanes.restore((session, lane), msgid, response, now)


def _on_our_clock(header: Header, turn: JournalTurn, boot: str) -> list[Change | DeadlineMoved]:
    """The changes of a turn with their deadlines on the clock of this boot.

    That clock ends with the boot. Across a reboot there is only the one on the wall to go by, which
    may have been set meanwhile; within a boot nobody looks at it.
    """
    if header.boot and header.boot == boot:
        return turn.changes
    passed = max(0.0, time() - turn.time)
    shift = monotonic() - passed - turn.clock
    return [
        change if change.deadline is None else change._replace(deadline=change.deadline + shift)
        for change in turn.changes
    ]


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


async def fold_beside(state: str, retention: Retention) -> None:
    """For a broker without a standby: have closed segments folded, each time by a process of its
    own, since a thread would take the interpreter from the turn."""
    command = [*python(), "-m", "udsbus.journal", state, json.dumps(retention)]
    while True:
        await anyio.sleep(FOLD_SECONDS)
        if len(list_segments(state)) > 1:
            done = await anyio.run_process(
                command, check=False, env=environment(), stdout=None, stderr=None
            )
            if done.returncode:
                await anyio.sleep(AGAIN_SECONDS)

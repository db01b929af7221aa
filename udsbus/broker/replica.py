"""The state of a bus as its files tell it: what a broker starts with, and what a standby keeps
ready.

First comes what the database holds, then turn after turn of the journal. A standby goes on with
that while its broker writes: then a takeover has only the last moment to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, time

from ..bursts import BURST_SECONDS
from ..engine import Engine
from ..errors import JournalDamaged
from ..journal import Header, JournalTurn
from ..journal.database import (
    about,
    answers,
    entries,
    latest_changes,
    opened,
    owners,
    position_in,
)
from ..journal.directory import list_segments
from ..journal.records import Changed
from ..journal.recovery import Scan, header_of
from ..limits import CHANGE_LOG_CHANGES
from ..messages import Owned, Writer
from ..peers import boot_id
from ..wire import values
from ..wire.schemas import compile_schema
from .lanes import Lanes

STEP_SECONDS = BURST_SECONDS
"""How long one step of `follow` takes, about."""
STEP_ENTRIES = 10_000


class Replica:
    """Engine and lanes, and how far in the journal they are."""

    def __init__(self, path: str, first_revision: int = 0) -> None:
        """Empty. `first_revision` is where revisions begin if nothing says otherwise."""
        self._path = path
        self._boot = boot_id()
        self._begin(first_revision)

    def _begin(self, first_revision: int) -> None:
        self.engine = Engine(values, first_revision=first_revision, compile_schema=compile_schema)
        self.lanes = Lanes()
        self.loaded = False
        """It has what the database holds; before, it is nothing to go on with."""
        self.first_revision = first_revision
        """Where the revisions of the bus began."""
        self.position = 0
        """Where the next turn begins."""
        self.bus: str | None = None
        """Which state it is; None: there was none yet."""
        self.segment = 0
        """The number of the segment that it was in last."""
        self._writers: dict[int, Writer] = {}
        """Who the origins are in that segment."""

    def load(self) -> Iterator[None]:
        """Begin with what the database holds, in steps. Raises JournalDamaged."""
        with opened(self._path) as database:
            found = None
            if database is not None:
                database.execute("begin")  # all that is read is of one moment
                found = about(database)
            if database is None or found is None:
                self.loaded = True
                return
            loaded = {}
            for key, entry in entries(database, found.boot, self._boot):
                loaded[key] = entry
                if len(loaded) % STEP_ENTRIES == 0:
                    yield
            latest, forgotten = latest_changes(database, CHANGE_LOG_CHANGES, found.forgotten)
            yield
            self._begin(found.first_revision)
            self.engine.load(loaded, owners(database), found.revision, latest, forgotten)
            now = monotonic()
            for session, lane, msgid, response in answers(database):
                self.lanes.restore((session, lane), msgid, response, now)
            self.bus, self.position, self.segment = found.bus, found.position, found.segment
            self.loaded = True

    def replay(self, header: Header, turn: JournalTurn) -> None:
        """Do again what a turn, or a part of one, has done."""
        self.go_on_as(header.bus, header.first_revision)
        if header.segment != self.segment:
            self.segment, self._writers = header.segment, {}
        self._writers |= turn.writers
        self.engine.replay(self._on_our_clock(header, turn), self._writers)
        for origin, msgid, response in turn.answers:
            writer = self._writers.get(origin)
            if writer is not None and writer.session is not None:
                self.lanes.restore((writer.session, writer.lane), msgid, response, monotonic())

    def go_on_as(self, bus: str, first_revision: int) -> None:
        """What comes is of this bus: another one, if the journal was repaired here."""
        if self.bus == bus:
            return
        if self.bus is None:
            self._begin(first_revision)
            self.loaded = True
        else:
            self.engine.begin_again(first_revision)
            self.lanes.clear()
        self.bus, self.first_revision = bus, first_revision

    def _on_our_clock(self, header: Header, turn: JournalTurn) -> list[Changed]:
        """The changes of a turn with their deadlines on the clock of this boot.

        That clock ends with the boot. Across a reboot there is only the one on the wall to go by,
        which may have been set meanwhile; within a boot nobody looks at it.
        """
        if header.boot and header.boot == self._boot:
            return turn.changes
        passed = max(0.0, time() - turn.time)
        shift = monotonic() - passed - turn.clock
        return [
            change
            if isinstance(change, Owned) or change.deadline is None
            else change._replace(deadline=change.deadline + shift)
            for change in turn.changes
        ]

    # --- while a broker writes --------------------------------------------------------------

    def follow(self) -> Iterator[bool]:
        """Load and replay, for ever, in steps of some milliseconds. Each tells whether all has been
        replayed that there was when the one before had ended.

        The very last turn is left for the next time: a broker whose disk fails may cut it off.
        Raises JournalDamaged, OSError, sqlite3.Error.
        """
        while True:
            try:
                yield from self._follow()
            except (FileNotFoundError, JournalDamaged):
                if position_in(self._path) <= self.position:
                    raise
            # Somebody folded what was to be replayed; the database has it now.
            self._begin(0)

    def _follow(self) -> Iterator[bool]:
        for _ in self.load():
            yield False
        while True:
            segments = list_segments(self._path)
            if segments and header_of(segments[-1]) is None:
                del segments[-1]  # it is just being made
            scan = Scan(segments, self.position, growing=True)
            until = monotonic() + STEP_SECONDS
            for header, turn in scan:
                self.replay(header, turn)
                if not turn.more:
                    self.position = scan.position
                    if monotonic() >= until:
                        yield False
                        until = monotonic() + STEP_SECONDS
            if scan.fault is not None:
                fault = scan.fault
                raise JournalDamaged(str(fault), file=fault.segment.path, offset=fault.offset)
            yield True

"""What turns have done to entries: the state before and after, and who did it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from ..limits import ANSWERS_RESTORED
from ..messages import DeadlineMoved, Owned, Writer
from .records import Turn


class Kept(NamedTuple):
    """An entry as the database keeps it."""

    value: bytes
    revision: int
    deadline: float | None
    """On the clock of the boot in which it was written."""
    expires: float | None
    """The same in seconds since 1970."""
    owner: str | None = None
    """The session that it goes with."""


class PastChange(NamedTuple):
    """One change in the history of a bus."""

    revision: int
    key: str
    kind: str
    before: bytes | None
    """The value that there was; None: the key was absent."""
    after: bytes | None
    time: float
    """Seconds since 1970."""
    pid: int | None
    """Who did it; None: the broker itself."""
    uid: int | None
    client: str | None
    """What that client calls itself."""
    session: str | None = None
    """By which the broker knows it."""


class KeptAnswer(NamedTuple):
    session: str
    lane: int
    msgid: int
    response: bytes
    time: float


class Gathering:
    """Takes turn after turn of one segment, or of several; then its attributes tell."""

    def __init__(self, entry: Callable[[str], Kept | None]) -> None:
        """`entry` tells what a key was before the first turn."""
        self.entries: dict[str, Kept | None] = {}
        """What has been touched, as it is now; None: gone."""
        self.changes: list[PastChange] = []
        self._answers: dict[tuple[str, int], deque[KeptAnswer]] = {}
        self.revision = 0
        """Of the last change; 0: there was none."""
        self.time = self.clock = 0.0
        """Of the last turn."""
        self._entry = entry
        self._writers: dict[int, Writer] = {}

    def new_segment(self) -> None:
        """The next turn is of another one, in which connections have other numbers."""
        self._writers = {}

    @property
    def answers(self) -> Iterator[KeptAnswer]:
        """The last ones of each lane: nobody asks for earlier ones."""
        return chain.from_iterable(self._answers.values())

    def take(self, turn: Turn) -> None:
        self.time, self.clock = turn.time, turn.clock
        self._writers |= turn.writers
        entries, wall = self.entries, turn.time - turn.clock
        for change in turn.changes:
            key = change.key
            if isinstance(change, Owned):
                kept = entries.get(key)  # it has just been written
                if kept is not None:
                    entries[key] = kept._replace(owner=change.session)
                continue
            deadline = change.deadline
            expires = None if deadline is None else deadline + wall
            if key not in entries:
                entries[key] = self._entry(key)
            before = entries[key]
            if isinstance(change, DeadlineMoved):
                if before is not None:
                    entries[key] = before._replace(deadline=deadline, expires=expires)
                continue
            revision, kind, _, value, _, origin = change
            self.revision = revision
            owner = None if before is None else before.owner
            entries[key] = (
                None if value is None else Kept(value, revision, deadline, expires, owner)
            )
            value_before = None if before is None else before.value
            who = self._writers.get(origin)
            by = (None, None, None, None) if who is None else who[:4]
            self.changes.append(
                PastChange(revision, key, kind, value_before, value, turn.time, *by)
            )
        for origin, msgid, response in turn.answers:
            who = self._writers.get(origin)
            if who is not None and who.session is not None:
                lane = who.session, who.lane
                answers = self._answers.get(lane)
                if answers is None:
                    answers = self._answers[lane] = deque(maxlen=ANSWERS_RESTORED)
                answers.append(KeptAnswer(*lane, msgid, response, turn.time))

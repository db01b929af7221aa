"""The core of a watch, sans I/O: what to ask the broker, and which changes the user is told of.

The edge (a thread, a task) sends the `Call`s it gets from here, feeds the answers back, and hands
the changes on. The promise is that following the changes gives the true state:

- a watch *resumes* after a lost connection from the last revision that it saw; the broker sends
  what came since;
- when the broker no longer knows (its log is bounded, or it was started anew), the watch *starts
  over*: it lists what is there now, tells of each key as `present`, and of those that it had told
  of and that are gone as `deleted`.

    start ──► starting ──► live ◄──┐
                 │           │     │
                 └─► listing ┼─────┘
                             └─ (connection lost) ─► start

Listing goes page by page while changes keep coming, so these wait until the list is complete;
then each is told unless the list has it already (its key is there at that revision or later).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ..messages import CREATED, DELETED, UPDATED
from ..patterns import check_pattern, matcher
from . import requests
from .requests import Call

PRESENT: Final = "present"
"""Kind of a change that is none: the key was there when the watch began or started over."""


class RawChange(NamedTuple):
    """A change as it came from the broker, its value still encoded."""

    revision: int
    kind: str
    key: str
    value: bytes | None


class Step(NamedTuple):
    """What follows from an answer: changes to tell, and what to ask next (None: nothing)."""

    changes: list[RawChange]
    next: Call[Any] | None


class WatchCore:
    """One watch. Raises InvalidRequest for a malformed pattern."""

    def __init__(self, pattern: str, *, from_revision: int | None, initial: bool) -> None:
        check_pattern(pattern)
        self.pattern = pattern
        self.matches = matcher(pattern)
        self.number: int | None = None
        """What the broker calls it on this connection."""
        self.live = False
        """Everything up to now has been told."""
        self.started_over = 0
        """How often changes were missed and the present state was told instead."""
        self._list_first = initial
        self._last = from_revision
        """The newest revision told of; None before the first answer."""
        self._last_keys: set[str] = set()
        """The keys told of at `_last`: a connection can break between the changes of one
        transaction, so the last revision is asked for again and these are left out."""
        self._base = 0
        """Changes up to here are in the answer that made the watch live."""
        self._known: dict[str, int] = {}
        """The keys that the user has been told are there, and the revision told of."""
        self._knows_all = False
        """The keys have been listed, so that `_known` lacks none."""
        self._listing: dict[str, int] | None = None
        """While listing: key → revision listed."""
        self._held: list[RawChange] = []
        """While listing: the changes that came meanwhile."""

    def start(self, *, same_bus: bool = True) -> Call[Any]:
        """What to ask on a new connection; `same_bus`: the broker still has the old revisions."""
        self.number = None
        self.live = False
        self._held = []
        self._listing = None
        if not same_bus and self._last is not None:
            self._last = None
            self._list_first = True
            self._known = dict.fromkeys(self._known, 0)  # its revisions are of another bus
            self.started_over += 1
        if self._list_first or self._last is None:
            return requests.watch(self.pattern, None)
        resume = self._last - 1 if self._last_keys else self._last
        return requests.watch(self.pattern, max(resume, 0))

    def started(self, answer: Any) -> Step:
        """The answer to `start`."""
        self.number, revision, changes = answer
        self._base = revision
        if changes is None:
            self.started_over += 1
            self._list_first = True
        if self._list_first:
            self._listing = {}
            return Step([], requests.raw_items_page(self.pattern, None))
        self.live = True
        told = self._tell([RawChange(*change) for change in changes])
        if self._last is None or self._last < revision:
            self._last, self._last_keys = revision, set()
        return Step(told, None)

    def listed(self, page: Any) -> Step:
        """The answer to a page of the list."""
        items, after = page
        assert self._listing is not None
        present = []
        for key, value, revision in items:
            self._listing[key] = self._known[key] = revision  # told, even if the list is cut off
            present.append(RawChange(revision, PRESENT, key, value))
        if after is not None:
            return Step(present, requests.raw_items_page(self.pattern, after))
        return Step(present + self._finish_list(), None)

    def change(self, change: RawChange) -> list[RawChange]:
        """A change of a key that matches: the changes to tell now."""
        if self._listing is not None:
            self._held.append(change)
            return []
        if not self.live or change.revision <= self._base:
            return []
        return self._tell([change])

    def beat(self, revision: int) -> None:
        """The broker has told of everything up to `revision`. So a watch that nothing came for does
        not have to go on from where it began, which the broker forgets in time."""
        if self.live and (self._last is None or revision >= self._last):
            self._last, self._last_keys = revision, set()

    def interrupt(self) -> None:
        """The connection is lost; `start` is next."""
        self.live = False

    def _finish_list(self) -> list[RawChange]:
        listing, self._listing = self._listing, None
        assert listing is not None
        gone = sorted(self._known.keys() - listing.keys())
        told = [RawChange(self._base, DELETED, key, None) for key in gone]
        self._known = listing
        self._knows_all = True
        self._list_first = False
        self.live = True
        self._last, self._last_keys = self._base, set()
        held, self._held = self._held, []
        return told + self._tell(change for change in held if change.revision > self._base)

    def _tell(self, changes: Iterable[RawChange]) -> list[RawChange]:
        """Note what the user will know after these, leaving out what it knows already."""
        told = []
        for change in changes:
            revision, _, key, value = change
            if revision != self._last:
                self._last, self._last_keys = revision, set()
            elif key in self._last_keys:
                continue
            self._last_keys.add(key)
            known = self._known.get(key)
            if known is None:
                if self._knows_all and value is None:
                    continue  # it came and went while the keys were listed
                if self._knows_all and change.kind == UPDATED:
                    change = change._replace(kind=CREATED)  # it was there, but nobody was told
            elif revision <= known:
                continue  # the list had it already
            if value is None:
                self._known.pop(key, None)
            else:
                self._known[key] = revision
            told.append(change)
        return told

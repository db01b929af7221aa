"""The core of a watch, sans I/O: what to ask the broker, and which changes the user is told of.

The edge (a thread, a task) sends the `Call`s it gets from here, feeds the answers back, and hands
on what is to be told. The promise is that following the changes gives the true state:

- a watch *resumes* after a lost connection from the last revision that it saw; the broker sends
  what came since;
- when the broker no longer knows (its log is bounded, or it was started anew), the watch *starts
  over*: it lists what is there now, tells of each key as `present`, and of those that it had told
  of and that are gone as `deleted`.

    start ──► starting ──► live ◄──┐
                 │           │     │
                 └─► listing ┼─────┘
                             └─ (connection lost) ─► interrupted ─► start

Listing goes page by page while changes keep coming, so these wait until the list is complete
(too many of them: the newest of each key); then each is told unless the list has it already (its
key is there at that revision or later).

The changes of a revision are told together, so there is no revision that is told of in part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from ..errors import InvalidRequest
from ..limits import WATCH_BACKLOG
from ..patterns import check_pattern, matcher
from ..terms import CREATED, DELETED, GONE, KINDS, UPDATED
from . import requests
from .requests import Call

PRESENT: Final = "present"
"""Kind of a change that is none: the key was there when the watch began or started over."""
_new: Any = tuple.__new__
"""Makes a named tuple in half the time."""
UNTOLD: Final = ""
"""The kind of a change that is to be noted, but nobody wants to hear of."""

State = Literal["starting", "listing", "live", "interrupted", "closed"]
"""`starting`: the broker has not answered yet. `listing`: what is there is being read, at the
beginning or because changes were missed. `live`: each change is told as it comes. `interrupted`:
the connection is lost, and being taken up again. `closed`: it has ended."""


class RawChange(NamedTuple):
    """A change as it came from the broker, its values still encoded."""

    revision: int
    kind: str
    key: str
    value: bytes | None
    previous: bytes | None = None


class CaughtUp(NamedTuple):
    """All that was there has been told; what follows are the changes after `revision`, if there is
    no newer `present` before them."""

    revision: int


class Missed(NamedTuple):
    """Changes were missed; what was there later follows."""

    after_revision: int
    """Up to here everything has been told."""
    revision: int
    """What is there at this revision, or later, follows."""


Told = RawChange | CaughtUp | Missed


class Step(NamedTuple):
    """What follows from an answer: what to tell, and what to ask next (None: nothing)."""

    told: list[Told]
    next: Call[Any] | None


class WatchCore:
    """One watch. Raises InvalidRequest for a malformed pattern, and for arguments that are of a
    wrong kind or do not go together."""

    def __init__(
        self,
        pattern: str,
        *,
        from_revision: int | None,
        initial: bool,
        kinds: Iterable[str] | None = None,
        ignore_own: bool = False,
        previous: bool = False,
        strict: bool = False,
        marks: bool = True,
    ) -> None:
        """`strict`: tell that changes were `Missed`. `marks`: after an `initial` state tell that it
        has `CaughtUp`."""
        check_pattern(pattern)
        if from_revision is not None and (type(from_revision) is not int or from_revision < 0):
            raise InvalidRequest(
                f"from_revision must be a whole number from 0, not {from_revision!r}"
            )
        if initial and from_revision is not None:
            raise InvalidRequest("a watch begins with the initial state or from a revision")
        self.pattern = pattern
        self.matches = matcher(pattern)
        self.number: int | None = None
        """What the broker calls it on this connection."""
        self.live = False
        """Everything up to now has been told."""
        self.started_over = 0
        """How often changes were missed and the present state was told instead."""
        self._kinds = _checked(kinds)
        self._tells_gone = self._kinds is None or not self._kinds.isdisjoint(GONE)
        self._ignore_own = ignore_own
        self._previous = previous
        self._strict = strict
        self._tells_caught_up = initial and marks
        self._session: str | None = None
        """Whose changes are its own."""
        self._answered = False
        """The broker has known of it."""
        self._list_first = initial
        self._last = from_revision
        """The newest revision up to which all has been told; None before the first answer."""
        self._before: tuple[int | None, int | None] = None, None
        """What `_last` and `_missed_after` were before what was read last."""
        self._popped: list[str] = []
        """The keys that are gone by what was read last."""
        self._missed_after: int | None = None
        """What `_last` was before the changes that were missed, and of which nobody was told."""
        self._base = 0
        """Changes up to here are in the answer that made the watch live."""
        self._known: dict[str, int] = {}
        """The keys that the user has been told are there, and the revision told of."""
        self._knows_all = False
        """The keys have been listed, and each change is seen, so that `_known` lacks none."""
        self._listing: dict[str, int] | None = None
        """While listing: key → revision listed."""
        self._held: list[RawChange] = []
        """While listing: the changes that came meanwhile."""
        self._held_most = WATCH_BACKLOG
        """With more of them only the newest of each key is held."""
        self._conflating = False
        self.left_out = 0
        """How many of these gave way to a newer one."""
        self.conflations = 0
        """How often they began to."""
        self._unfinished: list[RawChange] = []
        """The changes of a revision of which more follow in the next notification."""

    @property
    def state(self) -> State:
        if self._listing is not None:
            return "listing"
        if self.live:
            return "live"
        return "interrupted" if self._answered else "starting"

    def lost(self) -> None:
        """The connection is lost."""
        self.number = None
        self.live = False
        self._held, self._unfinished = [], []
        self._held_most, self._conflating = WATCH_BACKLOG, False
        self._listing = None

    def start(self, *, session: str | None = None, same_bus: bool = True) -> Call[Any]:
        """What to ask on a new connection, which is one of `session`; `same_bus`: the broker still
        has the old revisions."""
        self.lost()
        self._session = session
        if not same_bus and self._last is not None:
            self._start_over(self._last)
        since = None if self._list_first else self._last
        kinds = self._kinds
        if kinds is not None and self._tells_gone:
            kinds = kinds.union(GONE)  # to forget the keys that go in another way
        return requests.watch(self.pattern, since, kinds, self._ignore_own, self._previous)

    def doubt(self) -> None:
        """What it has read last may not have come to the user: an interrupt came in between. So it
        starts over, on the next connection."""
        last, missed_after = self._before
        if self._last is None:  # it is about to, and may have said so in vain
            self._missed_after = missed_after
            return
        self._known.update(dict.fromkeys(self._popped, 0))
        self._start_over(last)

    def _begin_to_read(self) -> None:
        self._before, self._popped = (self._last, self._missed_after), []

    def _start_over(self, told_up_to: int | None) -> None:
        self._missed_after, self._last = told_up_to, None
        self._list_first = True
        self._known = dict.fromkeys(self._known, 0)  # its revisions may be of another bus
        self.started_over += 1

    def started(self, answer: Any) -> Step:
        """The answer to `start`."""
        self._begin_to_read()
        self.number, revision, changes = answer
        self._base = revision
        self._answered = True
        if changes is None:
            self.started_over += 1
            self._list_first = True
            self._missed_after = self._last
        if self._list_first:
            self._listing = {}
            told: list[Told] = []
            after, self._missed_after = self._missed_after, None
            if after is not None and self._strict:
                told.append(Missed(after, revision))
            return Step(told, requests.raw_items_page(self.pattern, None))
        self.live = True
        self._last = revision
        return Step(self._tell(self._read(changes)), None)

    def listed(self, page: Any) -> Step:
        """The answer to a page of the list."""
        self._begin_to_read()
        items, after = page
        assert self._listing is not None
        told: list[Told] = []
        for key, value, revision in items:
            self._listing[key] = self._known[key] = revision  # told, even if the list is cut off
            told.append(RawChange(revision, PRESENT, key, value))
        if after is not None:
            return Step(told, requests.raw_items_page(self.pattern, after))
        return Step(told + self._finish_list(), None)

    def notified(self, name: str, params: list[Any]) -> list[Told]:
        """A notification of the broker, of any kind: what to tell now."""
        self._begin_to_read()
        more = False
        if name == "change":
            found = self._read((params,))
        elif name == "changes":
            revision, parts, *rest = params
            found = self._read([(revision, *part) for part in parts])
            more = bool(rest and rest[0])
        else:
            return []
        revision = params[0]
        if more or self._unfinished:
            self._unfinished += found
            if more:
                return []
            found, self._unfinished = self._unfinished, []
        if self._listing is not None:
            self._hold(found)
            return []
        if not self.live or revision <= self._base:
            return []
        self._last = revision  # also if nothing matches: whatever does has come before
        return self._tell(found)

    def _hold(self, found: list[RawChange]) -> None:
        """A list may take as long as its reader wants, and must not cost ever more memory."""
        self._held += found
        if len(self._held) <= self._held_most:
            return
        newest: dict[str, RawChange] = {}
        for change in self._held:
            newest.pop(change.key, None)  # its place is that of its newest change
            newest[change.key] = change
        self.left_out += len(self._held) - len(newest)
        self.conflations += not self._conflating
        self._conflating = True
        self._held = list(newest.values())
        self._held_most = max(WATCH_BACKLOG, 2 * len(newest))

    def beat(self, revision: int) -> None:
        """The broker has told of everything up to `revision`. So a watch that nothing came for does
        not have to go on from where it began, which the broker forgets in time."""
        if self.live and (self._last is None or revision > self._last):
            self._last = revision

    def _read(self, changes: Iterable[Sequence[Any]]) -> list[RawChange]:
        """Those that match and are wanted, of [revision, kind, key, value, …]; and that a key is
        gone of which it is not to be told."""
        found = []
        for change in changes:
            previous = session = None
            if len(change) == 4:
                revision, kind, key, value = change
            else:
                revision, kind, key, value = change[:4]
                if len(change) > 5:
                    previous, session = change[4:6]
            if not self.matches(key):
                continue
            own = self._ignore_own and session is not None and session == self._session
            if own or (self._kinds is not None and kind not in self._kinds):
                if value is not None or not self._tells_gone:
                    continue
                kind = UNTOLD
            if not self._previous:  # another watch of the connection has asked for it
                previous = None
            found.append(_new(RawChange, (revision, kind, key, value, previous)))
        return found

    def _finish_list(self) -> list[Told]:
        listing, self._listing = self._listing, None
        assert listing is not None
        told: list[Told] = []
        if self._tells_gone:
            gone = sorted(self._known.keys() - listing.keys())
            told += [RawChange(self._base, DELETED, key, None) for key in gone]
        self._known = listing
        self._knows_all = self._kinds is None and not self._ignore_own
        self._list_first = False
        self.live = True
        self._last = self._base
        if self._tells_caught_up:
            told.append(CaughtUp(self._base))
        held, self._held = self._held, []
        self._held_most, self._conflating = WATCH_BACKLOG, False
        return told + self._tell([change for change in held if change.revision > self._base])

    def _tell(self, changes: list[RawChange]) -> list[Told]:
        """Note what the user will know after these, leaving out what it knows already."""
        told: list[Told] = []
        for change in changes:
            revision, kind, key, value, _ = change
            if revision > (self._last or 0):
                self._last = revision
            known = self._known.get(key)
            if known is None:
                if self._knows_all and value is None:
                    continue  # it came and went while the keys were listed
                if self._knows_all and kind == UPDATED:
                    # It was there, but nobody was told.
                    change = change._replace(kind=CREATED, previous=None)
            elif revision <= known:
                continue  # the list had it already
            if value is None:
                self._popped.append(key)  # first: an interrupt may come in between
                self._known.pop(key, None)
            elif self._tells_gone:  # else nobody would ever take it out
                self._known[key] = revision
            if kind != UNTOLD:
                told.append(change)
        return told


def _checked(kinds: Iterable[str] | None) -> frozenset[str] | None:
    """What to ask for; None: all of them."""
    if kinds is None:
        return None
    known = ", ".join(KINDS)
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise InvalidRequest(f"kinds must be a list of some of {known}, not {kinds!r}")
    wanted = list(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise InvalidRequest(f"each of kinds must be one of {known}, not {kind!r}")
    if not wanted:
        raise InvalidRequest(f"kinds must be at least one of {known}")
    return None if set(wanted) == set(KINDS) else frozenset(wanted)

"""Locks: who holds them, who waits, and who is next.

To hold a lock is to have a key below `$sys/locks/NAME/`, which belongs to the session of the
holder. So it is journaled, told to those who watch, and goes with the session like any ephemeral
key. The revision that created it is the *fencing token*. `Locks` has an index of these keys.

    exclusive                 alone: a mutex, or who writes under a readers-writer lock
    shared                    with all others that share it: who reads
    shared, with `permits`    by at most so many at once: a semaphore

First come, first served. Nobody overtakes: a reader that could join others does not while a writer
waits, or that one might wait for ever.

Each attempt to get a lock is a *claim*, with a number that its client gives it and never gives
again. So an attempt can be made again after a lost connection, and has then what it got; and it can
be taken back by whoever does not know what became of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from .. import messages as m
from ..cycles import cycle_through
from ..errors import Conflict, Deadlock, LimitExceeded
from ..limits import GRANTS_PER_TURN, LINGER_SECONDS, PAGE_KEYS, SESSION_BYTES
from ..patterns import LOCK_KEYS, check_name, check_writable, shown
from ..terms import DELETED, RELEASED
from .deadlines import Agenda, Deadlines
from .rules import Codec
from .waiting import NOBODY, Waiter, WaitingList

PERMITS = "permits"
"""The last segment of the key that says how many permits were added to a semaphore. Those of
holders have a dot in them."""

LONGEST = "x" * SESSION_BYTES + f".{2**64}"
"""As long as the last segment can be."""
KNOWN = 4_096
"""Names that are remembered as good; each is short."""

Node = tuple[str, int]
"""(session, owner): what can wait, and hold. An owner is a thread, say; 0: not told."""


class Keys(Protocol):
    """What the locks need of the engine that they are a part of."""

    def session_of(self, origin: int, what: str) -> str: ...
    def is_of(self, origin: int, session: str) -> bool: ...
    def hold(self, key: str, value: bytes, session: str | None, origin: int) -> int: ...
    def let_go(self, key: str, origin: int, kind: str) -> None: ...
    def is_owned(self, key: str) -> bool: ...
    def to_undo(self, step: Callable[[], object]) -> None: ...


class Claim(NamedTuple):
    """Who wants a lock, or holds it, and how."""

    key: str
    """That it has, or will have."""
    name: str
    session: str
    owner: int
    shared: bool
    permits: int | None
    linger: float
    """Seconds that it stays taken when its session is kicked."""


class Lock:
    """One that somebody holds or waits for; a semaphore also when permits were added to it."""

    __slots__ = ("added", "added_to", "holders", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.added = 0
        self.added_to: int | None = None
        """The permits that it had before any were added."""
        self.holders: dict[str, Claim] = {}
        """By their keys."""
        self.waiting: OrderedDict[int, Waiter] = OrderedDict()
        """By their tickets, the lowest first."""

    @property
    def permits(self) -> int | None:
        """As those say who use it; they agree."""
        for claim in self.holders.values():
            return claim.permits
        for waiter in self.waiting.values():
            permits: int | None = waiter.wanted.permits
            return permits
        return self.added_to

    def admits(self, shared: bool) -> bool:
        """Whether somebody could have it now, but for those who came before."""
        for claim in self.holders.values():
            if not shared or not claim.shared:
                return False
            break
        permits = self.permits
        return permits is None or len(self.holders) < permits + self.added


class Locks:
    def __init__(self, keys: Keys, codec: Codec, waiting: WaitingList, agenda: Agenda) -> None:
        self.tokens: dict[int, Claim] = {}
        """What is held now, by fencing token."""
        self.handlers: dict[type, Callable[..., Any]] = {
            m.Acquire: self._acquire,
            m.Release: self._release,
            m.AddPermits: self._add_permits,
            m.Waiting: self._waiting_page,
        }
        self._keys = keys
        self._codec = codec
        self._waiting = waiting
        self._waiters: dict[str, Waiter] = {}
        """Those who wait here, by the keys that they will have."""
        self._locks: dict[str, Lock] = {}
        self._holdings: dict[str, tuple[Claim, int]] = {}
        """Key → who holds by it, and the token."""
        self._lingering: Deadlines[str] = Deadlines(agenda)
        """Until when the keys stay of those that were kicked."""
        self._of_node: dict[Node, dict[str, Waiter]] = {}
        self.unsettled: dict[str, None] = {}
        """Locks whose next waiter may have his turn."""
        self._known: set[str] = set()
        """Names that have been checked."""

    # --- what the engine tells ----------------------------------------------------------------

    def note(self, key: str, value: bytes | None, revision: int) -> None:
        """A key below LOCK_KEYS has this value now; None: it is gone."""
        name, _, last = key.removeprefix(LOCK_KEYS).rpartition("/")
        if last == PERMITS:
            self._add(name, *((None, 0) if value is None else self._codec.decode(value)))
        elif value is None:
            self.dropped(key)
        else:
            told = self._codec.decode(value)
            session = last.rpartition(".")[0]
            owner, shared, permits = told["owner"], told["shared"], told["permits"]
            claim = Claim(key, name, session, owner, shared, permits, told.get("linger", 0.0))
            self._hold(claim, revision)

    def dropped(self, key: str) -> None:
        """A key is gone. If somebody held a lock by it, the next may have it: see `grant`."""
        claim, token = self._holdings.pop(key, (None, 0))
        if claim is not None:
            del self.tokens[token]
            self._lingering.forget(key)
            lock = self._locks[claim.name]
            del lock.holders[key]
            self._look_at(lock)

    def linger(self, keys: Iterable[str], now: float) -> list[str]:
        """A session has been kicked, or was before, which has these keys. Returns those of locks
        that have to stay taken for a while, so that whoever holds them can stop what he does."""
        found = []
        for key in keys:
            claim, _ = self._holdings.get(key, (None, 0))
            if claim is not None and claim.linger:
                self._lingering.schedule(key, now + claim.linger)
                found.append(key)
        return found

    def adopt(self, now: float) -> None:
        """After a takeover: whoever holds without a session was kicked."""
        self.linger([key for key in self._holdings if not self._keys.is_owned(key)], now)

    def due(self) -> float:
        """When `tend` wants to be called next."""
        return 0.0 if self.unsettled else self._lingering.next()

    def tend(self, now: float) -> None:
        """Do what is due, and grant what can be granted. Not while nothing can be written."""
        while (key := self._lingering.pop_due(now)) is not None:
            if key in self._holdings:
                self._keys.to_undo(lambda key=key: self._lingering.schedule(key, now))  # type: ignore[misc]
                self._keys.let_go(key, 0, RELEASED)
        self.grant(now)

    def grant(self, now: float) -> None:
        """Let those have their locks whose turn it is, at most GRANTS_PER_TURN; `due` says that
        there are more."""
        left = GRANTS_PER_TURN
        while self.unsettled:
            name, _ = self.unsettled.popitem()
            lock = self._locks.get(name)
            while lock is not None and lock.waiting:
                if not left:
                    self.unsettled[name] = None
                    return
                left -= 1
                waiter = next(iter(lock.waiting.values()))
                claim: Claim = waiter.wanted
                if not lock.admits(claim.shared):
                    break
                if self._keys.is_of(waiter.origin, claim.session):
                    self._waiting.answer(waiter, self._give(claim, waiter.origin, now))
                else:
                    self._waiting.answer(waiter, NOBODY)
                lock = self._locks.get(name)
            self.unsettled.pop(name, None)

    # --- commands ---------------------------------------------------------------------------

    def _acquire(
        self,
        origin: int,
        now: float,
        lock: str,
        claim: int,
        owner: int,
        shared: bool = False,
        permits: int | None = None,
        timeout: float | None = None,
        unless_deadlock: bool = False,
        linger: float = 0.0,
    ) -> int | m.Later | None:
        session = self._keys.session_of(origin, "a lock")
        key = f"{LOCK_KEYS}{lock}/{session}.{claim}"
        if key in self._holdings:
            if self._keys.is_owned(key):
                return self._holdings[key][1]
            self._keys.let_go(key, origin, RELEASED)  # it lingered; who asks again does not hold it
            self.grant(now)
        waiter = self._waiters.get(key)
        if waiter is not None:
            if waiter.origin == origin:
                raise Conflict(f"the claim {claim} waits for {shown(lock)} already")
            self._waiting.answer(waiter, None)  # its connection is lost, or will be in this turn
        if lock not in self._known:
            self._check(lock)
        if linger > LINGER_SECONDS:
            raise LimitExceeded(
                f"a lock that lingers for {linger:g} s; the limit is {LINGER_SECONDS}",
                limit="linger_seconds", maximum=LINGER_SECONDS, actual=linger,
            )  # fmt: skip
        wanted = Claim(key, lock, session, owner, shared, permits, linger)
        used = self._locks.get(lock)
        if used is None:
            if permits != 0:
                return self._give(wanted, origin, now)
        else:
            _check_permits(used, permits)
            if not used.waiting and used.admits(shared):
                return self._give(wanted, origin, now)
        if timeout is not None and timeout <= 0:
            return None
        if unless_deadlock and owner and used is not None:
            self._check_deadlock(wanted, used)
        return self._waiting.wait(self, wanted, origin, now, timeout, "a lock")

    def _release(self, origin: int, now: float, lock: str, claim: int) -> bool:
        session = self._keys.session_of(origin, "a lock")
        key = f"{LOCK_KEYS}{lock}/{session}.{claim}"
        if key in self._holdings:
            lost = not self._keys.is_owned(key)  # but it lingers: that is over now
            self._keys.let_go(key, origin, DELETED)
            self.grant(now)
            return not lost
        if key in self._waiters:
            self._waiting.answer(self._waiters[key], None)
            self.grant(now)
            return True
        self._check(lock)
        return False

    def _add_permits(self, origin: int, now: float, lock: str, permits: int, more: int) -> int:
        self._check(lock)
        key = f"{LOCK_KEYS}{lock}/{PERMITS}"
        semaphore, added = self._locks.get(lock), more
        if semaphore is not None:
            _check_permits(semaphore, permits)
            added += semaphore.added
        revision = self._keys.hold(key, self._codec.encode([permits, added]), None, origin)
        self._add(lock, permits, added)
        self.grant(now)
        return revision

    def _waiting_page(
        self, origin: int, now: float, after_ticket: int = 0
    ) -> tuple[list[tuple[int, str, str, int, bool, float]], int | None]:
        rows: list[tuple[int, str, str, int, bool, float]] = []
        for ticket, waiter in self._waiting.waiters.items():
            if ticket > after_ticket and waiter.host is self:
                _, name, session, owner, shared, _, _ = waiter.wanted
                rows.append((ticket, name, session, owner, shared, now - waiter.since))
                if len(rows) == PAGE_KEYS:
                    return rows, ticket
        return rows, None

    # --- holding ----------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        """Raise unless it can be the name of a lock. Those that can are remembered for a while."""
        check_writable(name, "lock")
        check_name(f"{LOCK_KEYS}{name}/{LONGEST}", "lock's key")
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known.add(name)

    def _lock(self, name: str) -> Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = Lock(name)
        return lock

    def _look_at(self, lock: Lock) -> None:
        """Something has changed: somebody else may have it now, or nobody cares for it."""
        if lock.waiting:
            self.unsettled[lock.name] = None
        else:
            self._drop_if_unused(lock)

    def _drop_if_unused(self, lock: Lock) -> None:
        if not lock.holders and not lock.waiting and not lock.added:
            self._locks.pop(lock.name, None)

    def _give(self, claim: Claim, origin: int, now: float) -> int:
        """Let somebody hold a lock. Returns the token."""
        key, _, session, owner, shared, permits, linger = claim
        about = {"owner": owner, "shared": shared, "permits": permits, "since": now}
        if linger:
            about["linger"] = linger
        token = self._keys.hold(key, self._codec.encode(about), session, origin)
        self._hold(claim, token)
        return token

    def _add(self, name: str, permits: int | None, added: int) -> None:
        """A semaphore has so many permits besides its own."""
        semaphore = self._lock(name)
        semaphore.added, semaphore.added_to = added, permits
        self._look_at(semaphore)

    def _hold(self, claim: Claim, token: int) -> None:
        self._holdings[claim.key] = claim, token
        self.tokens[token] = claim
        self._lock(claim.name).holders[claim.key] = claim

    # --- the host of those who wait ---------------------------------------------------------

    def line(self, wanted: Claim) -> OrderedDict[int, Waiter]:
        """Those who wait for the same lock."""
        return self._lock(wanted.name).waiting

    def came(self, waiter: Waiter, again: bool) -> None:
        """Somebody waits."""
        claim: Claim = waiter.wanted
        self._waiters[claim.key] = waiter
        self._of_node.setdefault((claim.session, claim.owner), {})[claim.key] = waiter
        if again:
            self._look_at(self._locks[claim.name])

    def went(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""
        claim: Claim = waiter.wanted
        del self._waiters[claim.key]
        of_node = self._of_node[claim.session, claim.owner]
        del of_node[claim.key]
        if not of_node:
            del self._of_node[claim.session, claim.owner]
        self._look_at(self._locks[claim.name])

    # --- what is refused --------------------------------------------------------------------

    def _check_deadlock(self, claim: Claim, wanted: Lock) -> None:
        """Raise Deadlock if somebody waits, perhaps by way of others, for who asks."""
        start: Node | str = (claim.session, claim.owner)

        def waits_for(node: Node | str) -> Iterable[Node | str]:
            """Who waits waits for locks, and a lock waits for its holders: so each is looked at
            once, however many hold it and wait for it."""
            if isinstance(node, str):
                lock = self._locks[node]
                # Of several that have permits each may give his back: none of them is in the way.
                if lock.permits in (None, 1 - lock.added):
                    yield from ((holder.session, holder.owner) for holder in lock.holders.values())
            else:
                if node == start:
                    yield wanted.name
                for waiter in self._of_node.get(node, {}).values():
                    yield waiter.wanted.name

        way = [node for node in cycle_through(start, waits_for) if not isinstance(node, str)]
        if way:
            raise Deadlock(
                f"to wait for {shown(wanted.name)} would be for ever: "
                + ("who asks holds it" if len(way) == 1 else f"{len(way)} wait in a circle"),
                cycle=[list(node) for node in way],
            )


def _check_permits(lock: Lock, permits: int | None) -> None:
    if lock.permits != permits:
        raise Conflict(f"{shown(lock.name)} is {_kind(lock.permits)} now, not {_kind(permits)}")


def _kind(permits: int | None) -> str:
    return "a lock" if permits is None else f"a semaphore of {permits} permits"

"""Locks as the others see them: who holds which, who waits, and who waits in a circle. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, NamedTuple

from ..cycles import cycles
from ..patterns import LOCK_KEYS, matcher
from ..wire.values import decode
from . import requests
from .requests import Call, Page


class LockHolder(NamedTuple):
    """Who holds a lock."""

    session: str
    """The client, see `Client.clients`."""
    thread: int
    """Its thread that acquired it, as the system numbers threads; 0: not told."""
    shared: bool
    """Besides others: a reader, or one who has a permit of a semaphore."""
    seconds: float
    """For how long."""
    token: int
    """The fencing token."""


class LockWaiter(NamedTuple):
    """Who waits for a lock."""

    session: str
    thread: int
    shared: bool
    seconds: float
    ticket: int
    """Who came later has a higher one."""


class LockInfo(NamedTuple):
    """A lock that somebody holds or waits for, as all see it."""

    name: str
    permits: int | None
    """How many may hold it at once, if it is a semaphore."""
    holders: list[LockHolder]
    waiting: list[LockWaiter]
    """Who came first first."""


class Waiting(NamedTuple):
    """One in a circle of those who wait for one another."""

    session: str
    thread: int
    holds: str
    """A lock that the one before waits for."""
    wants: str
    """A lock that the next holds."""


def holders_page(pattern: str, after: str | None) -> Call[Page[list[tuple[str, Any, int]]]]:
    """A page of (key, what it says, revision), of the locks whose names match."""
    under = pattern if pattern.endswith("**") else f"{pattern}/*"
    return Call("items", (LOCK_KEYS + under, *requests._options(after=after)), _read_holders)


def _read_holders(page: Any) -> Page[list[tuple[str, Any, int]]]:
    return Page([(key, decode(value), revision) for key, value, revision in page[0]], page[1])


def lock_infos(
    pattern: str, holdings: Iterable[tuple[str, Any, int]], waiting: Iterable[Any]
) -> list[LockInfo]:
    """The locks whose names match, in order of names: from what `holders_page` and
    `requests.waiting_page` have told."""
    now, matches = monotonic(), matcher(pattern)
    found: dict[str, LockInfo] = {}

    def info(name: str, permits: int | None) -> LockInfo:
        return found.setdefault(name, LockInfo(name, permits, [], []))

    for key, told, revision in holdings:
        name, _, last = key.removeprefix(LOCK_KEYS).rpartition("/")
        session, dot, _ = last.rpartition(".")
        if not matches(name):
            continue
        if not dot:  # how many permits were added
            permits, added = told
            found[name] = info(name, permits)._replace(permits=permits + added)
            continue
        holder = LockHolder(
            session, told["owner"], told["shared"], max(0.0, now - told["since"]), revision
        )
        info(name, told["permits"]).holders.append(holder)
    for ticket, name, session, owner, shared, seconds in waiting:
        if matches(name):
            info(name, None).waiting.append(LockWaiter(session, owner, shared, seconds, ticket))
    for lock in found.values():
        lock.holders.sort(key=lambda holder: holder.token)
    return [found[name] for name in sorted(found)]


def deadlocks(locks: Iterable[LockInfo]) -> list[list[Waiting]]:
    """The circles in which clients' threads wait for one another, each once; of circles that have
    threads in common, one."""
    holders: dict[str, list[tuple[str, int]]] = {}
    wants: dict[tuple[str, int], list[str]] = {}
    for lock in locks:
        if lock.permits is None or lock.permits == 1:
            # Of several that have permits each may give his back: nobody is in the way.
            holders[lock.name] = [(one.session, one.thread) for one in lock.holders]
        for waiter in lock.waiting:
            if waiter.thread:
                wants.setdefault((waiter.session, waiter.thread), []).append(lock.name)

    def waits_for(node: tuple[str, int] | str) -> list[Any]:
        """Who waits waits for locks, and a lock waits for its holders."""
        return holders.get(node, []) if isinstance(node, str) else wants.get(node, [])

    found: list[list[Waiting]] = []
    for circle in cycles(list[Any](wants), waits_for):
        if isinstance(circle[0], str):
            circle = [*circle[1:], circle[0]]
        who, locks_between = circle[0::2], circle[1::2]
        rows = zip(who, [*locks_between[-1:], *locks_between], locks_between, strict=False)
        found.append([
            Waiting(session, thread, holds, wanted) for (session, thread), holds, wanted in rows
        ])  # fmt: skip
    return found

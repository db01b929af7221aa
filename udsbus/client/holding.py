# Made from udsbus/client/aio/holding.py by tools/twins.py. Change that one.
"""What a client holds: which locks, by which claims, so that it can give them back.

It is the client that holds a lock, not a thread of it or an object: any of its threads may release
it, as with `threading.Lock`, by any object of the same name. But a thread that has acquired it
releases what it has acquired: what it holds may be lost, and another thread have it since. With
the async client it is a task, wherever this says thread.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from ..errors import LockLost, NotHeld
from ..patterns import LOCK_KEYS
from . import requests
from .requests import Call, Claim, Held, is_refusal

if TYPE_CHECKING:
    from .base import Base


class Holdings:
    def __init__(self, client: Base) -> None:
        self._reference = weakref.ref(client)  # else only the collector would find it, once dropped
        self.forget()

    def forget(self) -> None:
        """In a child after a fork: what is held is the parent's."""
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._held: dict[tuple[str, bool], list[Held]] = {}
        """(lock, shared) → what is held of it, the newest last."""
        self.reentered: dict[tuple[str, int], tuple[Held, int]] = {}
        """(lock, thread) → by what that thread holds it, and how often it has acquired it, of the
        locks for which this matters. Each thread has to do with its own only."""

    def acquire(
        self,
        lock: str,
        timeout: float | None,
        shared: bool = False,
        permits: int | None = None,
        unless_deadlock: bool = False,
        linger: float = 0.0,
    ) -> bool:
        """Hold a lock. False: not within `timeout` seconds. Whatever is raised, it is not held."""
        client = self._client()
        if not client._stays:
            client._stay()
        owner = client._owner()
        claim = Claim(lock, next(self._numbers), owner, shared, permits, unless_deadlock, linger)
        held: Held | None = None
        asked = False

        def ask(left: float | None) -> Call[int | None]:
            nonlocal asked
            asked = True
            return requests.acquire(claim, left)

        try:
            token = client._call_waiting(ask, timeout)
            if token is None:
                return False
            held = Held(claim, token)
            self._put(held)
            return True
        except BaseException as error:
            if asked and not is_refusal(error):
                self._take_back(claim, held)
            raise

    def release(self, lock: str, shared: bool = False) -> bool:
        """Give one holding of it back: the newest of this thread, else of any. False: this client
        has none.

        Raises LockLost if it had been lost.
        """
        taken: list[Held] = []
        try:
            self._take(lock, shared, taken)
            if not taken:
                return False
            released = self._client()._call(requests.release(taken[0].claim))
        except BaseException as error:
            for held in taken:
                if is_refusal(error):  # the disk is full, say
                    self._put(held)
                else:
                    self._take_back(held.claim, held)
            raise
        if not released:
            raise LockLost(f"{lock!r} was held by this client, but was lost")
        return True

    def newest(self, lock: str, shared: bool = False) -> Held | None:
        """What `release` would give back."""
        with self._lock:
            held = self._held.get((lock, shared))
            return held[self._newest(held)] if held else None

    def holds(self, held: Held) -> bool:
        """Whether this very holding has not been given back."""
        return held in self._held.get((held.claim.lock, held.claim.shared), ())

    def abandon(self, held: Held | None) -> None:
        """Give this very holding back, if it is held, without waiting for that."""
        if held is not None and self.holds(held):
            self._take_back(held.claim, held)

    def add_permits(self, lock: str, permits: int, more: int) -> None:
        self._client()._call(requests.add_permits(lock, permits, more))

    def number(self, lock: str, shared: bool) -> int:
        """How many times it is held."""
        return len(self._held.get((lock, shared), ()))

    def token(self, lock: str, shared: bool) -> int:
        """The fencing token of what `release` would give back. Raises NotHeld."""
        held = self.newest(lock, shared)
        if held is None:
            raise NotHeld(f"{lock!r} is not held by this client")
        return held.token

    def key(self, lock: str, shared: bool) -> str:
        """The key of the bus by which it is held. Raises NotHeld."""
        self.token(lock, shared)
        held = self.newest(lock, shared)
        assert held is not None
        return f"{LOCK_KEYS}{lock}/{self._client().session}.{held.claim.number}"

    def _client(self) -> Base:
        client = self._reference()
        assert client is not None, "whoever uses this holds the client"
        client._notice_fork()
        return client

    def _newest(self, held: list[Held]) -> int:
        """Where the newest of this thread is, else of any."""
        owner = self._client()._owner()
        for place in range(len(held) - 1, -1, -1):
            if held[place].claim.owner == owner:
                return place
        return -1

    def _put(self, held: Held) -> None:
        with self._lock:
            self._held.setdefault((held.claim.lock, held.claim.shared), []).append(held)

    def _take(self, lock: str, shared: bool, into: list[Held]) -> None:
        """Take the newest out. It is in `into` before it is nowhere else: an interrupt may come
        between any two calls."""
        with self._lock:
            held = self._held.get((lock, shared))
            if held:
                place = self._newest(held)
                into.append(held[place])
                held.pop(place)
                if not held:
                    del self._held[lock, shared]

    def _take_back(self, claim: Claim, held: Held | None) -> None:
        """Whether this claim is granted nobody knows: see that it is not."""
        with self._lock:
            all_held = self._held.get((claim.lock, claim.shared), [])
            if held in all_held:
                all_held.remove(held)
                if not all_held:
                    del self._held[claim.lock, claim.shared]
        self._client()._make_sure(requests.release(claim))

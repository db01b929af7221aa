"""What a client holds: which locks, by which claims, so that it can give them back.

It is the client that holds a lock, not a thread of it or an object: any of its threads may release
it, as with `threading.Lock`, by any object of the same name.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BrokerUnavailable, Error, LockLost, NotHeld, ProtocolError, RequestTimeout
from . import requests
from .requests import Claim

if TYPE_CHECKING:
    from .sync import Client

_UNCERTAIN = (BrokerUnavailable, RequestTimeout, ProtocolError)
"""After these nobody knows what became of a request; after other errors, it was refused."""


class Held(NamedTuple):
    claim: Claim
    token: int


class Holdings:
    def __init__(self, client: Client) -> None:
        self._reference = weakref.ref(client)  # else only the collector would find it, once dropped
        self.forget()

    def forget(self) -> None:
        """In a child after a fork: what is held is the parent's."""
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._held: dict[tuple[str, bool], list[Held]] = {}
        """(lock, shared) → what is held of it, the newest last."""
        self.reentered: dict[str, list[int]] = {}
        """Of the locks that their thread may acquire again: [thread, how often it has]."""

    def acquire(
        self,
        lock: str,
        timeout: float | None,
        shared: bool = False,
        permits: int | None = None,
        unless_deadlock: bool = False,
    ) -> bool:
        """Hold a lock. False: not within `timeout` seconds. Whatever is raised, it is not held."""
        client = self._client()
        client._stay()
        thread = threading.get_native_id()
        claim = Claim(lock, next(self._numbers), thread, shared, permits, unless_deadlock)
        held: Held | None = None
        try:
            token = client._call_waiting(lambda left: requests.acquire(claim, left), timeout)
            if token is None:
                return False
            held = Held(claim, token)
            self._put(held)
            return True
        except BaseException as error:
            if not isinstance(error, Error) or isinstance(error, _UNCERTAIN):
                self._take_back(claim, held)
            raise

    def release(self, lock: str, shared: bool = False) -> bool:
        """Give one holding of it back. False: this client has none.

        Raises LockLost if it had been lost.
        """
        held = self._take(lock, shared)
        if held is None:
            return False
        try:
            released = self._client()._call(requests.release(held.claim))
        except BaseException as error:
            if not isinstance(error, Error) or isinstance(error, _UNCERTAIN):
                self._take_back(held.claim, held)
            else:  # the disk is full, say: it is held still
                self._put(held)
            raise
        if not released:
            raise LockLost(f"{lock!r} was held by this client, but was lost")
        return True

    def add_permits(self, lock: str, permits: int, more: int) -> None:
        self._client()._call(requests.add_permits(lock, permits, more))

    def number(self, lock: str, shared: bool) -> int:
        """How many times it is held."""
        return len(self._held.get((lock, shared), ()))

    def token(self, lock: str, shared: bool) -> int:
        """The fencing token of the newest holding. Raises NotHeld."""
        try:
            return self._held[lock, shared][-1].token
        except (KeyError, IndexError):
            raise NotHeld(f"{lock!r} is not held by this client") from None

    def _client(self) -> Client:
        client = self._reference()
        assert client is not None, "whoever uses this holds the client"
        if client.inherited:
            client.after_fork_in_child()
        return client

    def _put(self, held: Held) -> None:
        with self._lock:
            self._held.setdefault((held.claim.lock, held.claim.shared), []).append(held)

    def _take(self, lock: str, shared: bool, which: Held | None = None) -> Held | None:
        """Take one out, the newest if it does not matter which."""
        with self._lock:
            all_held = self._held.get((lock, shared), [])
            if not all_held or (which is not None and which not in all_held):
                return None
            held = all_held.pop(-1 if which is None else all_held.index(which))
            if not all_held:
                del self._held[lock, shared]
            return held

    def _take_back(self, claim: Claim, held: Held | None) -> None:
        """Whether this claim was granted nobody knows: give it back."""
        if held is not None:
            self._take(claim.lock, claim.shared, held)
        self._client()._make_sure(requests.release(claim))

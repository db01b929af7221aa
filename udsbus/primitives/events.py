# Made from udsbus/primitives/aio/events.py by tools/twins.py. Change that one.
"""Events, conditions and barriers: those of `threading`, between processes.

What they are made of are keys of the bus, which anybody may look at; docs/primitives.md names them.
What a client has put there belongs to it and goes with it, so that nobody waits for the dead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from threading import BrokenBarrierError
from time import monotonic, monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..client import requests
from ..client.followed import Change
from ..errors import InvalidRequest, NotHeld
from ..terms import GONE
from .locks import Lock, RLock

if TYPE_CHECKING:
    from ..client.sync import Client

T = TypeVar("T")

PASSED, RESET, BROKEN = "passed", "reset", "broken"
_numbers = itertools.count(1)
"""For keys that only one object of this process has."""


class Event:
    """A flag that is set or not, and that can be waited for: the key `events/NAME`, if it is."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.key = f"events/{name}"
        self._client = client

    def is_set(self) -> bool:
        return self._client.exists(self.key)

    def set(self) -> None:
        """Set it, and wake all who wait for it."""
        self._client.set(self.key, True)

    def clear(self) -> None:
        self._client.delete(self.key)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set. False if it is not within `timeout` seconds."""
        if self.is_set():
            return True
        with self._client.watch(self.key, initial=True) as watch:
            # Whoever clears it right after it was set does not take it back for those who waited.
            found = _first(watch, lambda change: change.kind not in GONE or None, timeout)
            return found is not None

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self._client.address}>"


class Condition:
    """Threads of any process that wait until another tells them that something has changed.

    `lock` is a `Lock` or an `RLock` of the bus; without, it is an `RLock` named
    `conditions/NAME`. Each who waits has an ephemeral key below `conditions/NAME/`, which `notify`
    deletes.
    """

    def __init__(self, client: Client, name: str, lock: Lock | None = None) -> None:
        self.name = name
        self._client = client
        self._lock = RLock(client, f"conditions/{name}") if lock is None else lock
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait until somebody notifies, and acquire it again. False if nobody did
        within `timeout` seconds. Raises NotHeld (a RuntimeError) without the lock."""
        self._check_owned("wait")
        # In the order of coming, by the clock that all processes of the machine share.
        came = f"{monotonic_ns():020}.{self._client.session}.{next(_numbers)}"
        key = f"conditions/{self.name}/{came}"
        with self._client.watch(key) as watch:
            notified = False
            try:
                self._client.set(key, True, ephemeral=True)
                with self._client._undisturbed():  # half of it would be neither held nor released
                    saved = self._lock._release_save()
                try:
                    _first(watch, lambda change: change.kind in GONE or None, timeout)
                finally:
                    with self._client._undisturbed():
                        self._lock._acquire_restore(saved)
            finally:
                # Under the lock, so nobody notifies now: if it is not there, somebody has.
                with self._client._undisturbed():
                    notified = not self._client.delete(key)
            return notified

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate()` is true, and return what it returned last. It may ask the bus,
        and with the async client be async."""
        until = None if timeout is None else monotonic() + timeout
        while not (result := self._client._outcome(predicate())):
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Wake those `n` who have waited longest, if there are so many. Raises NotHeld without the
        lock."""
        self._check_owned("notify")
        for key in (self._waiting())[:n]:
            self._client.delete(key)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self._check_owned("notify")
        for key in self._waiting():
            self._client.delete(key)

    def _waiting(self) -> list[str]:
        """The keys of those who wait, who came first first."""
        return self._client.keys(f"conditions/{self.name}/*")

    def _check_owned(self, what: str) -> None:
        if not self._lock._is_owned():
            raise NotHeld(f"{what} on {self.name!r} without its lock")

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.__exit__(kind, error, traceback)

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name, self._lock)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self._client.address}>"


class Barrier:
    """A place where `parties` threads wait for one another, and go on together, again and again.

    Each who waits has an ephemeral key below `barriers/NAME/`: one that dies is no longer counted.
    The key `barriers/NAME` tells how the last round ended.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        """`action` is called by the last who comes, before all go on; with the async client it may
        be async. `timeout`: the default of `wait`."""
        if type(parties) is not int or parties < 1:
            raise InvalidRequest(f"parties must be one or more, not {parties!r}")
        self.name = name
        self.parties = parties
        self.key = f"barriers/{name}"
        self._client = client
        self._action = action
        self._timeout = timeout
        self._lock = client.lock(self.key)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the others. Returns how many had come before, a different number for each.

        Raises `threading.BrokenBarrierError` when it is broken or reset, or when not all come
        within `timeout` seconds, which breaks it for all of them.
        """
        timeout = self._timeout if timeout is None else timeout
        with self._client.watch(self.key) as watch:
            mine = ""
            try:
                with self._lock:
                    ended, how = self._state()
                    if how == BROKEN:
                        raise BrokenBarrierError
                    arrived = self.n_waiting
                    if arrived + 1 >= self.parties:
                        self._complete(ended)
                        return arrived
                    mine = f"{self.key}/{self._client.session}.{next(_numbers)}"
                    self._client.set(mine, True, ephemeral=True)
            except BaseException:
                if mine:  # else the others would count on it
                    self._client._make_sure(requests.delete(mine))
                raise
            state: tuple[int, str] | None = None
            try:
                # What happened before we had the lock is of earlier rounds.
                state = _first(watch, lambda change: _later(change.value, ended), timeout)
            finally:
                if state is None and not self._client._closed:  # then it just is not counted
                    with self._client._undisturbed():
                        state = self._break(ended)
            if state is None or state[1] != PASSED:
                raise BrokenBarrierError
            return arrived

    def reset(self) -> None:
        """Begin anew; those who wait get a BrokenBarrierError."""
        with self._lock:
            ended, how = self._state()
            if self.n_waiting or how == BROKEN:
                self._end(ended, RESET)

    def abort(self) -> None:
        """Break it, for all who wait and all who come, until somebody resets it."""
        self._break()

    def _break(self, round_number: int | None = None) -> tuple[int, str]:
        """Break it; or, of a round that has ended already, tell how."""
        with self._lock:
            ended, how = self._state()
            if how == BROKEN or (round_number is not None and ended > round_number):
                return ended, how
            return self._end(ended, BROKEN)

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._client.count(f"{self.key}/*")

    @property
    def broken(self) -> bool:
        return (self._state())[1] == BROKEN

    def _complete(self, ended: int) -> None:
        try:
            if self._action is not None:
                self._client._outcome(self._action())
        except BaseException:
            self._end(ended, BROKEN)
            raise
        self._end(ended, PASSED)

    def _state(self) -> tuple[int, str]:
        """How many rounds have ended, and how the last did."""
        ended, how = self._client.get(self.key, (0, PASSED))
        return ended, how

    def _end(self, ended: int, how: str) -> tuple[int, str]:
        """End the round, for all who wait in it. Under the lock."""
        with self._client.transaction() as transaction:
            for key in self._client.keys(f"{self.key}/*"):
                transaction.delete(key)
            transaction.set(self.key, (ended + 1, how))
        return ended + 1, how

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name, self.parties, self._action, self._timeout)

    def __repr__(self) -> str:
        what = f"{type(self).__name__} {self.name!r} of {self.parties}"
        return f"<udsbus.{what} on {self._client.address}>"


def _later(state: Any, ended: int) -> tuple[int, str] | None:
    """The state, if it tells of the end of a later round than `ended`."""
    return state if state is not None and state[0] > ended else None


def _first(watch: Any, wanted: Callable[[Any], T | None], timeout: float | None) -> T | None:
    """What `wanted` makes of the first change of which it makes something; None when none comes
    within `timeout` seconds."""
    until = None if timeout is None else monotonic() + timeout
    while True:
        change = watch.get(timeout=None if until is None else max(0.0, until - monotonic()))
        if change is None:
            if watch.closed:
                raise InvalidRequest("the client was closed while this waited")
            return None  # not to be asked of the clock: timers of some event loops are early
        found = wanted(change) if isinstance(change, Change) else None
        if found is not None:
            return found

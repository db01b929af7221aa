# Made from udsbus/primitives/aio/election.py by tools/twins.py. Change that one.
"""Elections: of those who campaign one leads, and all know who."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import Error, LockLost
from .leading import Leader, leader, leader_after
from .timeouts import seconds_at_most

if TYPE_CHECKING:
    from ..client.following import Watch
    from ..client.requests import Entry
    from ..client.sync import Client


class Election:
    """One leader at a time, of all clients that campaign. Who has campaigned longest is next.

    It is a lock, `elections/NAME`, and the ephemeral key `elections/NAME`, in which the leader
    tells who it is. Both go with its client, so a leader that dies has a successor at once.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.key = f"elections/{name}"
        self._client = client
        self._lock = client.lock(self.key)

    def campaign(self, value: Any = None, timeout: float | None = None) -> bool:
        """Wait until this client leads, at most `timeout` seconds. False: it does not. `value` is
        what the others are told of it; one that leads already changes that.

        Whatever is raised, it does not lead, unless it did before.
        """
        wait = seconds_at_most(timeout)
        if self._client.holdings.number(self.key, False):
            self._tell(value)
            return True
        if not self._lock.acquire(wait != 0, wait or -1):
            return False
        try:
            self._tell(value)
        except BaseException:
            with self._client._undisturbed(), contextlib.suppress(Error):
                self.resign()
            raise
        return True

    def _tell(self, value: Any) -> None:
        about = {"session": self._client.session, "value": value, "token": self._lock.token}
        self._client.set(self.key, about, ephemeral=True, fence=self._lock.token)

    def resign(self) -> None:
        """Lead no longer. Raises NotHeld if this client does not, LockLost if it did, but has lost
        that: somebody else may lead already."""
        token = self._lock.token
        try:
            with contextlib.suppress(LockLost):  # `release` raises it
                self._client.delete(self.key, fence=token)
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def leading(self, value: Any = None) -> Iterator[Leader]:
        """Wait until this client leads, and resign at the end of the block."""
        self.campaign(value)
        try:
            yield Leader(self._client.session, value, self._lock.token)
        finally:
            self.resign()

    @property
    def token(self) -> int:
        """The fencing token of this client, which leads: `set(…, fence=election.token)` is refused
        when it leads no longer. Raises NotHeld if it does not lead."""
        return self._lock.token

    def leader(self) -> Leader | None:
        """Who leads now."""
        return leader(self._client.entry(self.key))

    def is_leader(self) -> bool:
        """Whether this client leads now; asks the broker."""
        found = self.leader()
        return found is not None and found.session == self._client.session

    def observe(self) -> Leaders:
        """Who leads now, and from then on each who does, None for nobody: to be iterated over."""
        watch = self._client.watch(self.key, conflate=True)
        try:
            entry = self._client.entry(self.key)
        except BaseException:
            watch.close()
            raise
        return Leaders(watch, entry)

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self._client.address}>"


class Leaders:
    """Who leads, one after the other. Who is slow sees the newest, and not all between."""

    def __init__(self, watch: Watch, entry: Entry | None) -> None:
        self._watch = watch
        self._seen = 0 if entry is None else entry.revision
        self._first: list[Leader | None] = [leader(entry)]
        self._last: Leader | None = None

    def get(self, timeout: float | None = None) -> Leader | None:
        """The next. Raises TimeoutError when there is none within `timeout` seconds, EOFError when
        this, or the client, was closed."""
        if self._first:
            self._last = self._first.pop()
            return self._last
        wait = seconds_at_most(timeout)
        until = None if wait is None else monotonic() + wait
        while True:
            left = None if until is None else max(0.0, until - monotonic())
            change = self._watch.get(timeout=left)
            if change is None:
                if self._watch.closed:
                    raise EOFError("it was closed")
                raise TimeoutError(f"nothing has changed within {timeout} s")
            leads = leader_after(change)
            # In a bus that begins anew, revisions are lower.
            news = change.revision > self._seen or self._watch.started_over
            if news and leads != self._last:
                self._last = leads
                return leads

    def close(self) -> None:
        self._watch.close()

    def __iter__(self) -> Leaders:
        return self

    def __next__(self) -> Leader | None:
        try:
            return self.get()
        except EOFError:
            raise StopIteration from None

    def __enter__(self) -> Leaders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

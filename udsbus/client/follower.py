"""What the watches and subscriptions of a sync client have in common."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Error
from .followed import Followed

if TYPE_CHECKING:
    from typing import Self

    from .base import Base

log = logging.getLogger("udsbus.client")

Raw = TypeVar("Raw")
Item = TypeVar("Item")
Taken = TypeVar("Taken")


class Gate:
    """Opens once. Unlike `threading.Event`, whose locks an interrupt can leave in disorder."""

    def __init__(self) -> None:
        self.is_open = False
        self._shut = threading.Lock()
        self._shut.acquire()

    def open(self) -> None:
        if not self.is_open:
            self.is_open = True
            with contextlib.suppress(RuntimeError):  # another thread opens it at the same time
                self._shut.release()

    def wait(self, seconds: float) -> bool:
        """For one thread. False if it does not open in time."""
        return self.is_open or self._shut.acquire(timeout=seconds)


class Follower(Followed[Raw], Generic[Raw, Item]):
    """A watch or a subscription. `Raw` is what has come in, `Item` what the user gets of it."""

    _on_items: Callable[[Any, int], None] | None = None
    """Called with this and a number when so many have come."""

    def __init__(self, client: Base) -> None:
        super().__init__(client)
        self.confirmed = Gate()
        """Open when it has started."""
        self._client = client  # kept alive for as long as this is followed
        self._events = client._events

    @property
    def started(self) -> bool:
        return self.confirmed.is_open

    def get(self, timeout: float | None = None) -> Item | None:
        """The next one; None when none comes within `timeout` seconds or it is closed.

        Raises UnsupportedValue for a value that cannot be read, and of a `strict` watch
        MissedChanges once for each gap; it goes on. When the broker refuses to take it up again
        after a lost connection, that is raised.
        """
        item = self._next_of(self._backlog.take, timeout)
        return None if item is None else self._read(item)

    def _take_now(self) -> Item | None:
        """The next one, if there is one; for the thread that calls functions."""
        item = self._backlog.take()
        return None if item is None else self._read(item)

    def _next_of(self, take: Callable[[], Taken | None], timeout: float | None) -> Taken | None:
        """What `take` takes from the backlog, as soon as there is something."""
        item = self._events.take(self._backlog, take, timeout)
        if item is None and self.closed and self.refusal is not None:
            raise self.refusal
        return item

    def __iter__(self) -> Iterator[Item]:
        """What comes, as it comes, until this or its client is closed."""
        while (item := self.get()) is not None:
            yield item

    def close(self) -> None:
        """End it: nobody waits any longer, and the broker sends no more."""
        self._events.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, item: Raw) -> Item:
        raise NotImplementedError

    # --- called by whoever reads the event connection -----------------------------------------

    def refuse(self, error: Error) -> None:
        self.refusal = error
        if self.started:
            log.error("a watch or subscription could not be taken up again: %s", error)
            self.wake()
        self._has_started()

    def wake(self) -> None:
        """It is over: nobody shall wait any longer."""
        self._backlog.close()

    def after_fork(self) -> None:
        """In a child: replace what a thread of the parent may have held."""
        if not self.started:
            self.confirmed = Gate()
        self._backlog.after_fork()

    def _has_started(self) -> None:
        self.confirmed.open()

    def _put(self, items: list[Raw]) -> None:
        if items:
            self._backlog.put(items, self._events.heard)
            if self._on_items is not None:
                self._on_items(self, len(items))

"""What has come in for a consumer that has not taken it yet. Thread-safe and bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue between the event thread and a consumer.

    In order, up to `limit` items. Beyond it, with `key`, only the newest item of each key is kept
    until the consumer has caught up (*conflation*); without, the oldest items are dropped. Either
    way `skipped` counts what the consumer will not see. `conflate` keeps the newest from the start.
    """

    def __init__(
        self, limit: int, key: Callable[[T], str] | None = None, conflate: bool = False
    ) -> None:
        self.skipped = 0
        self.closed = False
        self._limit = limit
        self._key = key
        self._always = conflate
        self._items: deque[T] = deque()
        self._newest: dict[str, T] = {}
        self._conflating = conflate
        self._condition = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._items) + len(self._newest)

    def put(self, items: list[T]) -> None:
        with self._condition:
            if self._conflating:
                self._conflate(items)
            else:
                self._items.extend(items)
                if len(self._items) > self._limit:
                    self._overflow()
            self._condition.notify(len(items))

    def take(self, timeout: float | None) -> T | None:
        """The next item; None when none comes within `timeout` seconds, or after `close`."""
        until = None if timeout is None else monotonic() + timeout
        with self._condition:
            while True:
                if self._items:
                    return self._items.popleft()
                if self._newest:
                    item = self._newest.pop(next(iter(self._newest)))
                    self._conflating = self._always or bool(self._newest)
                    return item
                if self.closed:
                    return None
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    return None
                self._condition.wait(left)

    def close(self) -> None:
        """Wake every consumer; what has come in can still be taken."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()

    def after_fork(self) -> None:
        """The lock may have been held by a thread that does not exist in the child."""
        self._condition = threading.Condition(threading.Lock())

    def _overflow(self) -> None:
        if self._key is None:
            while len(self._items) > self._limit:
                self._items.popleft()
                self.skipped += 1
        else:
            self._conflating = True
            self._conflate(self._items)
            self._items.clear()

    def _conflate(self, items: list[T] | deque[T]) -> None:
        assert self._key is not None
        for item in items:
            key = self._key(item)
            if self._newest.pop(key, None) is not None:
                self.skipped += 1
            self._newest[key] = item  # at the end: its place is that of its newest change

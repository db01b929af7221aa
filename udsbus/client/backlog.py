"""What has come in for a consumer that has not taken it yet. Thread-safe and bounded."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue between whoever reads the event connection and a consumer.

    In order, up to `limit` items. Beyond it, with `key`, only the newest item of each key is kept
    until the consumer has caught up (*conflation*); without, the oldest items are dropped. Either
    way `skipped` counts what the consumer will not see. `conflate` keeps the newest from the start.
    An item whose key is None is a *mark*: it is kept, and comes when all that was put before it, or
    what has taken its place, has been taken.

    A consumer that finds nothing waits for `bell`, a descriptor, because it waits for the event
    connection at the same time (see `Events.take`).
    """

    _bell: tuple[int, int] | None = None
    """Here, for an interrupt may come before `__init__`, and `__del__` after it."""

    def __init__(
        self,
        limit: int,
        key: Callable[[T], Hashable | None] | None = None,
        conflate: bool = False,
    ) -> None:
        self.skipped = 0
        self.conflations = 0
        """How often it had to begin to keep only the newest."""
        self.closed = False
        self._limit = limit
        self._key = key
        self._always = conflate
        self._items: deque[tuple[T, float]] = deque()
        """Each with the time at which it came."""
        self._newest: OrderedDict[Hashable, tuple[T, float]] = OrderedDict()
        """Not a dict, which is slow to take from the front."""
        self._marks: deque[tuple[T, set[Hashable]]] = deque()
        """The marks, while conflating, and the keys of what must be taken before each."""
        self._conflating = conflate
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # a signal handler may close a watch in the midst of this
        self._awaited = 0
        """Consumers between `await_bell` and `forgo_bell`."""
        self._rung = False
        """The bell is readable. One consumer that finds nothing silences it for all of them, which
        still wait."""
        self._bell = None

    def __len__(self) -> int:
        return len(self._items) + len(self._newest) + len(self._marks)

    @property
    def oldest(self) -> float | None:
        """When the first item came that was not taken yet; None: there is none."""
        with self._lock:
            if self._items:
                return self._items[0][1]
            return next(iter(self._newest.values()))[1] if self._newest else None

    def put(self, items: list[T], now: float = 0.0) -> None:
        """`now`: when they have come, on any clock that `oldest` is to be read by."""
        timed = [(items[0], now)] if len(items) == 1 else [(item, now) for item in items]
        with self._lock:
            if self._conflating:
                self._conflate(timed)
            else:
                self._items.extend(timed)
                if len(self._items) > self._limit:
                    self._overflow()
            self._ring()

    def take(self) -> T | None:
        """The next item; None when there is none."""
        with self._lock:
            return self._take()

    def take_together(self, belong: Callable[[T, T], bool]) -> list[T] | None:
        """The next item and those behind it as long as each belongs to the one before; None when
        there is none."""
        with self._lock:
            item = self._take()
            if item is None:
                return None
            found = [item]
            while (following := self._next()) is not None and belong(found[-1], following):
                self._take()
                found.append(following)
            return found

    def put_back(self, items: list[T], now: float = 0.0) -> None:
        """Items that were taken last, and are to be taken again; `now` as for `put`."""
        with self._lock:
            if not self._conflating:
                self._items.extendleft((item, now) for item in reversed(items))
                return
            for item in reversed(items):
                key = None if self._key is None else self._key(item)
                if key is None:
                    self._marks.appendleft((item, set()))
                elif key in self._newest:
                    self.skipped += 1
                else:
                    self._newest[key] = item, now
                    self._newest.move_to_end(key, last=False)

    def await_bell(self) -> int | None:
        """The descriptor that becomes readable when there is something to take, or it is closed;
        `forgo_bell` is due after waiting for it. None when that is so already."""
        with self._lock:
            if self._is_settled():
                return None
            if self._bell is None:
                self._bell = os.pipe()
                for fd in self._bell:
                    os.set_blocking(fd, False)
            self._awaited += 1
            if self._rung:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell[0], 4096)
                self._rung = False
            if self._is_settled():  # by a signal handler, whose ringing may just have been silenced
                self.forgo_bell()
                self._ring()
                return None
            return self._bell[0]

    def forgo_bell(self) -> None:
        """The consumer has done waiting, and will look by itself."""
        with self._lock:
            self._awaited = max(0, self._awaited - 1)

    def close(self) -> None:
        """Wake every consumer; what has come in can still be taken."""
        with self._lock:
            self.closed = True
            self._ring()

    def ring(self) -> None:
        """Let a consumer that waits look again."""
        with self._lock:
            self._ring()

    def after_fork(self) -> None:
        """The lock may have been held by a thread that does not exist in the child, and the bell
        would be rung for two processes."""
        self._close_bell()
        self._reset()

    def __del__(self) -> None:
        self._close_bell()

    def _take(self) -> T | None:
        if self._items:
            return self._items.popleft()[0]
        item = self._next()
        if item is None:
            return None
        if self._marks and not self._marks[0][1]:
            self._marks.popleft()
        else:
            key, _ = self._newest.popitem(last=False)
            for _, before in self._marks:
                before.discard(key)
        self._conflating = self._always or bool(self._newest or self._marks)
        return item

    def _next(self) -> T | None:
        """What `_take` will take."""
        if self._items:
            return self._items[0][0]
        if self._marks and not self._marks[0][1]:
            return self._marks[0][0]
        return next(iter(self._newest.values()))[0] if self._newest else None

    def _is_settled(self) -> bool:
        """Whether a consumer need not wait."""
        return bool(self._items or self._newest or self._marks or self.closed)

    def _ring(self) -> None:
        if self._awaited and not self._rung and self._bell is not None:
            self._rung = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._bell[1], b"!")

    def _close_bell(self) -> None:
        bell, self._bell = self._bell, None
        for fd in bell or ():
            with contextlib.suppress(OSError):
                os.close(fd)

    def _overflow(self) -> None:
        if self._key is None:
            while len(self._items) > self._limit:
                self._items.popleft()
                self.skipped += 1
        else:
            self._conflating = True
            self.conflations += 1
            self._conflate(self._items)
            self._items.clear()

    def _conflate(self, items: list[tuple[T, float]] | deque[tuple[T, float]]) -> None:
        assert self._key is not None
        for timed in items:
            key = self._key(timed[0])
            if key is None:
                self._marks.append((timed[0], set(self._newest)))
                continue
            if self._newest.pop(key, None) is not None:
                self.skipped += 1
            self._newest[key] = timed  # at the end: its place is that of its newest change

"""Functions called for changes and messages, one at a time, in a thread of their own.

Not in the event thread: there a slow function would hold up every other watch, and one that
starts a watch would wait for itself. But while it has nothing to call, this thread reads the
connection itself, as whoever waits in `Watch.get` does: a second wake-up would take longer than all
the rest (see `events.py`).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Protocol

from .backlog import Backlog
from .events import RECHECK_SECONDS, Events

log = logging.getLogger("udsbus.client")

Function = Callable[[Any], object]

_in_use: set[Callbacks] = set()
"""Those with functions to call: they go on, even if nobody holds the client, until it is closed."""


class Source(Protocol):
    """A watch or a subscription."""

    @property
    def closed(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    def _take_now(self) -> Any: ...


class Callbacks:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._functions: dict[Source, tuple[Function, str]] = {}
        """And what to call each in the log."""
        self._reset()

    def _reset(self) -> None:
        self._due = Backlog[Source](sys.maxsize)
        """One for each item that waits in a source."""
        self._lock = threading.RLock()  # a signal handler may close the client
        self._thread: threading.Thread | None = None

    def add(self, source: Source, function: Function, called: str) -> None:
        for closed in [each for each in self._functions if each.closed]:
            del self._functions[closed]
        self._functions[source] = function, called
        _in_use.add(self)

    def came(self, source: Source, number: int) -> None:
        """`number` more items wait in `source`."""
        with self._lock:
            if self._thread is None and number:
                self._thread = threading.Thread(
                    target=self._run, args=(self._due,), name="udsbus-callbacks", daemon=True
                )
                self._thread.start()
        self._due.put([source] * number, monotonic())

    def close(self) -> None:
        _in_use.discard(self)
        with self._lock:
            thread = self._thread
        self._due.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1.0)  # a function that hangs is not ours to stop

    def after_fork(self) -> bool:
        """In a child: start anew, with what has come already. True if there are functions."""
        self._due.after_fork()  # whose bell is the parent's
        self._reset()
        for source in self._functions:
            self.came(source, source.waiting)
        return bool(self._functions)

    def _run(self, due: Backlog[Source]) -> None:
        while True:
            try:
                source = self._events.take(due, due.take, None)
            except Exception:  # no descriptors are left, say
                log.exception("the thread that calls functions could not wait; it tries again")
                sleep(RECHECK_SECONDS)
                continue
            if source is None and due.closed:
                return
            if source is None or source.closed:
                continue
            function, called = self._functions[source]
            try:
                item = source._take_now()  # None: a newer one has taken its place
                if item is not None:
                    function(item)
            except (Exception, SystemExit):
                log.exception(
                    "%s: %r failed; it is called for the next all the same", called, function
                )

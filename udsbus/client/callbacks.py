"""Functions called for changes, one at a time, in a thread of their own.

Not in the event thread: there a slow function would hold up every other watch, and one that
starts a watch would wait for itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from .following import Change, Watch

log = logging.getLogger("udsbus.client")

Function = Callable[[Change], object]

_in_use: set[Callbacks] = set()
"""Those with functions to call: they go on, even if nobody holds the client, until it is closed."""


class Callbacks:
    def __init__(self) -> None:
        self._functions: dict[Watch[Change], Function] = {}
        self._reset()

    def _reset(self) -> None:
        self._due: SimpleQueue[Watch[Change] | None] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may close the client
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch[Change], function: Function) -> None:
        self._functions[watch] = function
        _in_use.add(self)

    def changes(self, watch: Watch[Change], number: int) -> None:
        """`number` more changes wait in `watch`."""
        with self._lock:
            if self._thread is None and number:
                self._thread = threading.Thread(
                    target=self._run, name="udsbus-callbacks", daemon=True
                )
                self._thread.start()
        for _ in range(number):
            self._due.put(watch)

    def close(self) -> None:
        _in_use.discard(self)
        with self._lock:
            thread = self._thread
        self._due.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1.0)  # a function that hangs is not ours to stop

    def after_fork(self) -> bool:
        """In a child: start anew, with what has come already. True if there are functions."""
        self._reset()
        for watch in self._functions:
            self.changes(watch, watch.waiting)
        return bool(self._functions)

    def _run(self) -> None:
        while (watch := self._due.get()) is not None:
            try:
                if watch.closed:
                    continue
                change = watch.get(timeout=0)  # None: a newer one has taken its place
                if change is not None:
                    self._functions[watch](change)
            except (Exception, SystemExit):
                log.exception(
                    "on_change(%r): the function failed; the watch goes on", watch.pattern
                )

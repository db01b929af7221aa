"""The line of those threads of a client who wait for a worker of one service to be free."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from ..client.forks import release
from ..errors import RequestTimeout
from .finding import LOOK_SECONDS, RemoteWorker, Service

if TYPE_CHECKING:
    from .asking import Conversation

    Take = Callable[[Service[Conversation], float], RemoteWorker[Conversation] | None]


class Line:
    """One thread waits for the workers; the others wait for it."""

    def __init__(self, service: Service[Conversation], take: Take) -> None:
        """`take` takes one that is free, if there is one."""
        self._service = service
        self._take = take
        self._first = threading.RLock()

    def wait(self, until: float, timeout: float) -> RemoteWorker[Conversation] | None:
        """One that is free now; None: somebody should look whether there are others.

        Raises RequestTimeout at `until`.
        """
        left = until - monotonic()
        try:
            if left > 0 and self._first.acquire(timeout=left):
                worker = self._take(self._service, until)
                if worker is not None or not self._service.workers:
                    return worker
                left = until - monotonic()
                if left > 0:
                    with self._service.hub() as hub:
                        hub.poll(min(left, LOOK_SECONDS))
                    return self._take(self._service, until)
        finally:
            release(self._first)  # also if Ctrl-C came just when it was acquired
        raise RequestTimeout(self._service.all_busy(timeout))

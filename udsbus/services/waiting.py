"""The line of those threads of a client who wait for a worker of one service to be free."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from ..client.forks import release
from ..errors import RequestTimeout
from .finding import LOOK_SECONDS, RemoteWorker, Service

if TYPE_CHECKING:
    from .asking import Conversation


class Line:
    """One thread waits for the workers; the others wait for it."""

    def __init__(self, service: Service[Conversation]) -> None:
        self._service = service
        self._first = threading.RLock()

    def wait(self, until: float, timeout: float) -> RemoteWorker[Conversation] | None:
        """One that is free now; None: somebody should look whether there are others.

        Raises RequestTimeout at `until`.
        """
        left = until - monotonic()
        try:
            if left > 0 and self._first.acquire(timeout=left):
                worker = self._service.take()
                if worker is not None or not self._service.workers:
                    return worker
                left = until - monotonic()
                if left > 0:
                    self._service.hub.poll(min(left, LOOK_SECONDS))
                    return self._service.take()
        finally:
            release(self._first)  # also if Ctrl-C came just when it was acquired
        raise RequestTimeout(self._service.all_busy(timeout))

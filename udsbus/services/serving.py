"""What a sync client serves: a worker for each service, and its endpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from signal import SIGINT, SIGTERM
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..client import requests
from ..client.followed import Change
from ..errors import Error, InternalError, InvalidRequest
from ..limits import CALLS_AT_ONCE, CALLS_GRACE
from ..patterns import WORKER_KEYS, check_writable
from ..terms import GONE
from .endpoint import Endpoint
from .offered import Offered
from .worker import COMING_SECONDS, NOBODY, Watchers, Worker

if TYPE_CHECKING:
    from ..client.sync import Client
    from .aio.inloop import InLoop

log = logging.getLogger("udsbus.services")

WITHDRAW_SECONDS = 1.0
"""For telling the broker that a worker leaves. One that is away learns it by itself."""
STOP_SECONDS = 0.1
"""So much longer than its time a worker may take to end, before it is left alone."""
SIGNAL_SECONDS = 1.0
"""So late at most it is seen that a signal has come."""
AGAIN_SECONDS = 1.0
"""Until it is tried again to offer what could not be."""


def about(offered: Offered, endpoint: Endpoint, retry: int, size: int) -> dict[str, Any]:
    """What those who call a worker have to know of it."""
    return {
        "pid": os.getpid(), "path": endpoint.path, "retry": retry, "concurrency": size,
        "methods": offered.described(),
    }  # fmt: skip


def check_options(service: str, retry: int, concurrency: int) -> None:
    """Raise InvalidRequest for those that make no sense."""
    if not isinstance(service, str):
        raise InvalidRequest(
            f"service(...) needs the name of the service, as in @client.service('calc'), "
            f"not {service!r:.100}"
        )
    check_writable(service, "service")
    if type(retry) is not int or retry < 0:
        raise InvalidRequest(f"retry is how often a call may be tried again, 0 or more: {retry!r}")
    if type(concurrency) is not int or not 1 <= concurrency <= CALLS_AT_ONCE:
        raise InvalidRequest(
            f"concurrency is how many calls are carried out at once, 1 to {CALLS_AT_ONCE}, "
            f"not {concurrency!r}"
        )


class Served:
    """A service that this process serves, until `stop`."""

    def __init__(
        self,
        client: Client,
        service: str,
        target: Any,
        retry: int,
        concurrency: int,
        watchers: Watchers = NOBODY,
    ) -> None:
        check_options(service, retry, concurrency)
        self.service = service
        self._client = client
        offered = Offered(service, target)
        self._endpoint = Endpoint(client.address, concurrency)
        self._about = about(offered, self._endpoint, retry, concurrency)
        self._leaving = False
        self.ended = threading.Event()
        """It serves no longer."""
        self.failed = False
        """Because of a fault: nobody has told it to end."""
        self._worker: Worker | InLoop
        if offered.is_async:
            from .aio.inloop import InLoop

            self._worker = InLoop(offered, self._endpoint, concurrency, watchers)
        else:
            self._worker = Worker(
                offered, self._endpoint, concurrency, lambda: client._cache.words, watchers
            )
        self._endpoint.slots.give(concurrency, 0)  # whoever finds it finds it free
        self._begin(self._run, service)
        try:
            self._offer()
            # From its present state, so that it tells when a bus has forgotten that.
            key = f"{WORKER_KEYS}{service}/{self._endpoint.name}"
            self._watch = client.watch(key, initial=True)
        except BaseException:
            self._leaving = True
            self._worker.stop(0.0)
            raise
        self._begin(self._stay_offered, f"{service} offer")

    def offered(self) -> None:
        """Wait until others can call it, as they can at once."""

    def stop(self, grace: float = CALLS_GRACE) -> None:
        """Take no more calls, and end when those in hand are done, after `grace` seconds at most.
        May be called twice."""
        self._leaving = True
        self._withdraw()
        self._worker.stop(grace)
        self._watch.close()
        with contextlib.suppress(ValueError):
            self._client._served.remove(self)
        if not self._runs_here():  # which would wait for itself
            self.ended.wait(max(grace, COMING_SECONDS) + STOP_SECONDS)

    def _runs_here(self) -> bool:
        """Whether this thread carries out a call of it."""
        return self._worker.runs_here()

    def _withdraw(self) -> None:
        with contextlib.suppress(Error), self._client.timeout_of(WITHDRAW_SECONDS):
            self._client._call(requests.withdraw(self.service, self._endpoint.name))

    def __repr__(self) -> str:
        state = "leaving" if self._leaving else "serving"
        return f"<udsbus.Served {self.service!r} on {self._client.address} ({state})>"

    # --- in threads of its own ----------------------------------------------------------------

    def _begin(self, run: Callable[[], None], name: str) -> None:
        threading.Thread(target=run, name=f"udsbus {name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException:
            log.exception("%s is not served any more", self.service)
            self.failed = True
        finally:
            if not self._leaving:
                self.failed = self._leaving = True
                self._withdraw()
            self.ended.set()

    def _offer(self) -> None:
        self._client._stay()  # it is to be known that this process lives
        self._client._call(requests.offer(self.service, self._endpoint.name, self._about))

    def _stay_offered(self) -> None:
        """Offer again what is gone: with a broker that has forgotten, or a kick."""
        for change in self._watch:
            gone = isinstance(change, Change) and change.kind in GONE
            while gone and not self._leaving:
                try:
                    self._offer()
                    gone = False
                except Error as error:
                    log.warning("%s is not offered yet: %s", self.service, error)
                    self.ended.wait(AGAIN_SECONDS)


def serve_until_told(
    served: Sequence[Served], grace: float, begun: Callable[[], None] = lambda: None
) -> float:
    """Wait for SIGTERM or SIGINT, and stop them all. `begun` is called when these are seen. Returns
    the time, of the monotonic clock, at which it was told.

    Raises InvalidRequest in a thread that signals do not reach.
    """
    if not served:
        raise InvalidRequest("there is nothing to serve: declare it with `service` first")
    ending = threading.Event()

    def tell(number: int, frame: object) -> None:
        ending.set()

    try:
        before = {number: signal.signal(number, tell) for number in (SIGTERM, SIGINT)}
    except ValueError:
        raise InvalidRequest("only the main thread of a program can wait for signals") from None
    try:
        begun()
        while not ending.wait(SIGNAL_SECONDS) and not any(each.failed for each in served):
            pass  # a signal that another thread got is only seen when this one runs
        told = monotonic()
        failed = [each.service for each in served if each.failed]
        stop_all(served, grace)
        if failed:
            raise InternalError(
                f"{', '.join(failed)}: not served any more, because of a fault that was logged"
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return told


def stop_all(served: Sequence[Served], grace: float) -> None:
    """All at once: each may take that long, but for the one that this thread carries out."""
    if len(served) == 1 or any(each._runs_here() for each in served):
        for each in list(served):
            each.stop(grace)
        return
    stopping = [threading.Thread(target=each.stop, args=(grace,)) for each in list(served)]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()

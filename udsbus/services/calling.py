# Made from udsbus/services/aio/calling.py by tools/twins.py. Change that one.
"""The way of a call: find the workers, take one that is free, ask it, and what to do if it dies."""

from __future__ import annotations

import logging
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from ..client.forks import FORKS
from ..client.requests import check_timeout
from ..errors import Error, RequestTimeout, ServiceUnavailable, WorkerLost
from ..limits import TIMEOUT_MOST
from .asking import Again, Conversation, Leaving, Lost, NotTaken, begin
from .finding import RemoteWorker, Service, is_due, service_key, ways_to_read, workers_of
from .frames import arguments
from .waiting import Line

if TYPE_CHECKING:
    from ..client.sync import Client

log = logging.getLogger("udsbus.services")

DEAD_LETTERS = "dead-letters/"
"""The queues of calls that no worker survived, each with the name of its service."""


PAUSE_SECONDS = 0.02
NAMES_KEPT = 4_096
"""Names of calls of which is kept what they mean."""


class Calls:
    """The calls of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._services: dict[str, Service[Conversation]] = {}
        self._meant: dict[str, list[tuple[Service[Conversation], str]]] = {}
        """Name of a call → the services and methods that it may mean."""
        self._lines: dict[str, Line] = {}
        self.forks = len(FORKS)

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> Any:
        patience = self._client._patience
        if timeout is None:
            return self._call(name, args, kwargs, patience)
        check_timeout(timeout)
        if timeout >= patience:
            return self._call(name, args, kwargs, min(timeout, TIMEOUT_MOST))
        with self._client.timeout_of(timeout):  # it is for finding the workers too
            return self._call(name, args, kwargs, timeout)

    def _call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], seconds: float
    ) -> Any:
        payload = arguments(name, args, kwargs)
        until = monotonic() + seconds
        attempts = 0
        lost_by: tuple[str, RemoteWorker[Conversation]] | None = None
        """The service, and the worker of it that had the call when it died."""
        while True:
            try:
                service, method = self._find(name)
                worker = self._take(service, until)
                if worker is None:
                    worker = self._wait_for(service, until, seconds)
            except ServiceUnavailable:
                if lost_by is None:
                    raise
                if monotonic() + PAUSE_SECONDS > until:  # it may have been carried out
                    raise self._lost(name, args, kwargs, lost_by, attempts) from None
                sleep(PAUSE_SECONDS)  # one that has died may be started again
                continue
            except RequestTimeout:
                if lost_by is None:
                    raise
                raise self._lost(name, args, kwargs, lost_by, attempts) from None
            try:
                return self._ask(worker, service.name, method, payload, until, seconds)
            except NotTaken:
                service.forget(worker)
            except Lost:
                service.forget(worker)
                attempts += 1
                lost_by = service.name, worker
                if attempts > worker.retry:
                    raise self._lost(name, args, kwargs, lost_by, attempts) from None
                log.warning(
                    "%s: worker %d died with the call in hand; another is asked", name, worker.pid
                )

    def _ask(
        self,
        worker: RemoteWorker[Conversation],
        service: str,
        method: str,
        payload: bytes,
        until: float,
        seconds: float,
    ) -> Any:
        """Over a connection that is there, or another if the worker has closed that."""
        while worker.idle:
            try:
                conversation = worker.idle.pop()
            except IndexError:  # another thread was quicker
                break
            try:
                return conversation.ask(self._client, method, payload, until, seconds)
            except Leaving:
                raise
            except NotTaken:
                continue
        while True:
            conversation = begin(self._client, worker, service, until - monotonic())
            try:
                return conversation.ask(self._client, method, payload, until, seconds)
            except Again:
                sleep(PAUSE_SECONDS)  # it has no room, or has just ended

    def _take(
        self, service: Service[Conversation], until: float
    ) -> RemoteWorker[Conversation] | None:
        """A worker that is free, whose turn it is; None: all are busy, or have gone."""
        for worker in service.in_turn():
            if not worker.idle and worker.seems_free:
                # Before a place is taken, which would be lost for a while if we could not.
                self._connect(service, worker, until)
            if service.take(worker):
                return worker
        return None

    def _connect(
        self,
        service: Service[Conversation],
        worker: RemoteWorker[Conversation],
        until: float,
    ) -> None:
        """Have a connection to it, if it lives."""
        try:
            conversation = begin(self._client, worker, service.name, until - monotonic())
        except NotTaken:
            service.forget(worker)
        else:
            worker.back(conversation)

    def _find(self, name: str) -> tuple[Service[Conversation], str]:
        """The service that a call is to, with the workers that it has now, and the method.

        Raises ServiceUnavailable when there is none.
        """
        ways = self._meant.get(name) or self._ways(name)
        for way in ways:
            self._look(way[0])
            if way[0].workers:
                return way
        self._client._own_offers()
        for way in ways:
            self._look_again(way[0])
            if way[0].workers:
                return way
        services = [service for service, _ in reversed(ways)]
        raise next((each for each in services if each.number is not None), services[0]).nobody()

    def _ways(self, name: str) -> list[tuple[Service[Conversation], str]]:
        if len(self._meant) >= NAMES_KEPT:
            self._meant.clear()
            known = self._services.items()
            self._services = {name: each for name, each in known if each.number is not None}
        ways = self._meant[name] = [
            (self._services.setdefault(service, Service(service)), method)
            for service, method in ways_to_read(name)
        ]
        return ways

    def _look(self, service: Service[Conversation]) -> None:
        """Know the workers that a service has now."""
        client = self._client
        if is_due(service, client._cache.active):
            number = client.get(service_key(service.name))
            service.looked = monotonic()
            if number is None:  # perhaps of a broker that has forgotten
                return
            if number != service.number:
                service.renew(number, client.items(workers_of(service.name)))

    def _look_again(self, service: Service[Conversation]) -> None:
        """The same, though nobody has told of a change: nobody tells when a worker has died."""
        service.looked = 0.0
        if not service.workers and service.number is not None:
            service.number = False
        self._look(service)

    def _wait_for(
        self, service: Service[Conversation], until: float, seconds: float
    ) -> RemoteWorker[Conversation]:
        """A worker, as soon as one is free. Raises ServiceUnavailable if none is left, and
        RequestTimeout."""
        line = self._lines.get(service.name)
        if line is None:
            line = self._lines[service.name] = Line(service, self._take)
        while True:
            if not service.workers:
                self._look_again(service)
                if not service.workers:
                    raise service.nobody()
            worker = line.wait(until, seconds)
            if worker is not None:
                return worker
            self._look(service)

    def _lost(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        lost_by: tuple[str, RemoteWorker[Conversation]],
        attempts: int,
    ) -> Error:
        """Nobody has answered, and nobody else is asked."""
        service, worker = lost_by
        queue = None
        if worker.retry:
            queue = DEAD_LETTERS + service
            letter = {
                "call": name, "args": list(args), "kwargs": kwargs, "attempts": attempts,
                "last_worker": worker.pid,
            }  # fmt: skip
            try:
                self._client.queue(queue).put(letter)
            except Error as error:
                log.error("%s: the call could not be put into the queue %s: %s", name, queue, error)
                queue = None
        return _worker_lost(service, name, worker.pid, attempts, queue)

    def close(self) -> None:
        services, self._services, self._meant = self._services, {}, {}
        for service in services.values():
            service.close()


def _worker_lost(service: str, name: str, pid: int, attempts: int, queue: str | None) -> WorkerLost:
    many = "" if attempts == 1 else f", and so had {attempts - 1} before it"
    kept = "" if queue is None else f"; the call is in the queue {queue!r}"
    return WorkerLost(
        f"{name}: the worker (pid {pid}) died with the call in hand{many}; nobody knows whether it "
        f"was carried out{kept}",
        service=service, worker=pid, attempts=attempts, dead_letters=queue,
    )  # fmt: skip


def lost_midway(service: str, worker: RemoteWorker[Any]) -> WorkerLost:
    """For a stream, of which a part has come."""
    return WorkerLost(
        f"{service}: the worker (pid {worker.pid}) died before its stream was at its end",
        service=service, worker=worker.pid, attempts=1, dead_letters=None,
    )  # fmt: skip


class ServiceProxy:
    """A service as an object: `proxy.add(2, 3)` is `client.call("calc/add", 2, 3)`."""

    def __init__(self, client: Client, service: str, timeout: float | None) -> None:
        self._client = client
        self._service = service
        self._timeout = timeout

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            name = f"{self._service}/{method}"
            return self._client._calls.call(name, args, kwargs, self._timeout)

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """For a service that is one function."""
        return self._client._calls.call(self._service, args, kwargs, self._timeout)

    def __repr__(self) -> str:
        return f"<udsbus.ServiceProxy {self._service!r} on {self._client.address}>"

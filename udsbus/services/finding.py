"""Which workers a client knows, and which of them takes a call. For both clients."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from ..errors import BrokerUnavailable, InvalidRequest, ServiceUnavailable
from ..hub import READ, Hub, best_hub
from ..patterns import SERVICE_KEYS, WORKER_KEYS, check_name
from .free import Taker, WorkerGone
from .listing import is_of_worker
from .offered import ITSELF

log = logging.getLogger("udsbus.services")

LOOK_SECONDS = 0.1
"""How long a client that cannot read from memory takes it for granted that the same workers are
there."""
IDLE_CONNECTIONS = 64
"""Kept of each worker; those beyond are closed after their call."""


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class RemoteWorker(Generic[C]):
    """One worker, as those see it who call."""

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        """`about` is what it tells of itself. Raises WorkerGone, and OSError."""
        self.name = name
        self.pid: int = about["pid"]
        self.path: str = about["path"]
        self.retry: int = about["retry"]
        """How many others may be given a call that this one had when it died."""
        self.free = Taker(self.path + ".free")
        self.idle: deque[C] = deque()
        """Connections over which nothing is under way."""
        self.gone = False

    @property
    def seems_free(self) -> bool:
        """A call could be taken now, unless somebody else is quicker."""
        try:
            return self.free.waiting() > 0
        except OSError:  # forgotten meanwhile
            return False

    def back(self, connection: C) -> None:
        """A connection is not needed any more."""
        if self.gone or len(self.idle) >= IDLE_CONNECTIONS:
            connection.close()
        else:
            self.idle.append(connection)

    def forget(self) -> None:
        """Nobody calls it any more."""
        self.gone = True
        # Its pipe is closed when no thread has it in hand any more: another file could get the
        # number, and lose a byte.
        while self.idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                self.idle.pop().close()


class Service(Generic[C]):
    """The workers of one service."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number: Any = None
        """What the key of the service said when the workers were asked for."""
        self.looked = 0.0
        """When it was read last."""
        self.workers: list[RemoteWorker[C]] = []
        self._hub: Hub | None = None
        self._waiting = 0
        """How many wait for the hub."""
        self._closed = False
        self._turn = itertools.count(os.getpid())  # not all begin with the same one
        self._changing = threading.Lock()

    @property
    def _open_hub(self) -> Hub:
        if self._hub is None:
            self._hub = best_hub()
        return self._hub

    @contextlib.contextmanager
    def hub(self) -> Iterator[Hub]:
        """Ready when one of the workers may be free, or has gone. It stays open within the block,
        though the client is closed meanwhile: its number must not be another's."""
        with self._changing:
            self._waiting += 1
            hub = self._open_hub
        try:
            yield hub
        finally:
            with self._changing:
                self._waiting -= 1
                self._close_hub()

    def _close_hub(self) -> None:
        if self._closed and not self._waiting and self._hub is not None:
            self._hub.close()
            self._hub = None

    def renew(self, number: Any, found: Iterable[tuple[str, Any]]) -> None:
        """These are the workers, as (key, about)."""
        with self._changing:
            told = {key.rpartition("/")[2]: about for key, about in found}
            known = {worker.name: worker for worker in self.workers}
            for name in known.keys() - told.keys():
                self._drop(known.pop(name))
            for name in told.keys() - known.keys():
                worker = self._meet(name, told[name])
                if worker is not None:
                    known[name] = worker
            self.workers = [known[name] for name in sorted(known)]
            self.number = number

    def _meet(self, name: str, about: Any) -> RemoteWorker[C] | None:
        """Raises BrokerUnavailable when this process can open no more files."""
        if not is_of_worker(about):  # it is not one of ours, and no other's fault
            log.warning("%s: worker %s does not tell what it should", self.name, name)
            return None
        try:
            worker = RemoteWorker[C](name, about)
            if not os.path.exists(worker.path + ".sock"):  # somebody has removed it
                return None
            self._open_hub.add(worker.free.fd, READ)
        except WorkerGone:
            return None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise BrokerUnavailable(
                    f"{self.name}: cannot connect to a worker: {error.strerror}"
                ) from None
            log.warning("%s: worker %s cannot be called: %s", self.name, name, error)
            return None
        return worker

    def in_turn(self) -> list[RemoteWorker[C]]:
        """All of them, beginning with the one whose turn it is."""
        workers = self.workers
        if len(workers) < 2:
            return workers
        first = next(self._turn) % len(workers)
        return workers[first:] + workers[:first]

    def take(self, worker: RemoteWorker[C]) -> bool:
        """Whether it was free. If so it expects a call now."""
        try:
            return not worker.gone and worker.free.take()
        except (WorkerGone, OSError):
            self.forget(worker)
            return False

    def forget(self, worker: RemoteWorker[C]) -> None:
        """It has gone."""
        with self._changing:
            if worker in self.workers:
                self.workers = [other for other in self.workers if other is not worker]
                self._drop(worker)

    def _drop(self, worker: RemoteWorker[C]) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._open_hub.remove(worker.free.fd)
        worker.forget()

    def close(self) -> None:
        with self._changing:
            for worker in self.workers:
                worker.forget()
            self.workers = []
            self._closed = True
            self._close_hub()

    # --- what the errors say ------------------------------------------------------------------

    def nobody(self) -> ServiceUnavailable:
        """That there are no workers."""
        why = (
            "its workers have all ended"
            if self.number is not None
            else "no worker has ever offered it on this bus"
        )
        return ServiceUnavailable(
            f"nobody serves {self.name!r}: {why}; `udsbus services` lists what is served",
            service=self.name,
        )

    def all_busy(self, seconds: float) -> str:
        count = len(self.workers)
        who = "its worker is" if count == 1 else f"all {count} workers are"
        return f"{self.name}: {who} busy, and none became free within {seconds:.3g} s"


def service_key(service: str) -> str:
    return SERVICE_KEYS + service


def workers_of(service: str) -> str:
    """The pattern of the keys of the workers of a service, or of those that a pattern matches."""
    return f"{WORKER_KEYS}{service}/*"


def ways_to_read(name: str) -> list[tuple[str, str]]:
    """The service and the method that the name of a call may mean."""
    if type(name) is not str or not name:
        raise InvalidRequest(f"a call is to 'SERVICE/METHOD' or 'SERVICE', not {name!r}")
    check_name(name, "service")
    service, _, method = name.rpartition("/")
    return [(name, ITSELF), (service, method)] if service else [(name, ITSELF)]


def is_due(service: Service[Any], reads_from_memory: bool) -> bool:
    """Whether the key of the service should be read again."""
    return reads_from_memory or monotonic() - service.looked > LOOK_SECONDS

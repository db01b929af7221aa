# Made from udsbus/client/aio/client.py by tools/twins.py. Change that one.
"""The client: what people call.

It is made of layers: the way of a request (`session.py`), a method for each request (`methods.py`),
how a client begins, follows and ends (`base.py`), and here what builds on all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..errors import InvalidRequest
from ..patterns import check_name, check_pattern
from . import requests
from .base import Base
from .binding import MISSING
from .forks import FORKS
from .locks import LockHolder, LockInfo, Waiting, deadlocks, holders_page, lock_infos

if TYPE_CHECKING:
    from ..primitives.counter import Counter
    from ..primitives.election import Election
    from ..primitives.events import Barrier, Condition, Event
    from ..primitives.limiter import RateLimiter
    from ..primitives.locks import (
        BoundedSemaphore,
        Lock,
        RLock,
        RWLock,
        Semaphore,
    )
    from ..primitives.mapping import Mapping as SharedMapping
    from ..primitives.queues import LifoQueue, PriorityQueue, Queue
    from ..services.calling import Calls, ServiceProxy
    from ..services.listing import ServiceInfo
    from ..services.serving import Served

T = TypeVar("T")


class Client(Base):
    """A client of one bus.

    What is lost on its way, because the broker ended, is sent again when it is back, and is carried
    out once. Every method raises BrokerUnavailable when the broker does not come back within the
    time-out, RequestTimeout when it does not answer, and InvalidRequest, LimitExceeded or
    AccessDenied when it refuses. Usable as a context manager, which closes it.
    """

    # --- as in threading ----------------------------------------------------------------------

    def lock(self, name: str) -> Lock:
        """A lock that all clients of the bus share: a `threading.Lock` for processes.

        with client.lock("jobs/import"):
            ...
        """
        from ..primitives.locks import Lock

        return Lock(self, name)

    def rlock(self, name: str) -> RLock:
        """The same, which the thread that holds it may acquire again."""
        from ..primitives.locks import RLock

        return RLock(self, name)

    def rwlock(self, name: str) -> RWLock:
        """A lock of many readers or one writer: two locks, its `read` and its `write`."""
        from ..primitives.locks import RWLock

        return RWLock(self, name)

    def semaphore(self, name: str, value: int = 1) -> Semaphore:
        """A lock that up to `value` may hold at once. All clients must say the same `value`."""
        from ..primitives.locks import Semaphore

        return Semaphore(self, name, value)

    def bounded_semaphore(self, name: str, value: int = 1) -> BoundedSemaphore:
        """The same, of which nobody can release more than he has acquired."""
        from ..primitives.locks import BoundedSemaphore

        return BoundedSemaphore(self, name, value)

    def event(self, name: str) -> Event:
        """A flag that processes can wait for: a `threading.Event` of the bus."""
        from ..primitives.events import Event

        return Event(self, name)

    def condition(self, name: str, lock: Lock | None = None) -> Condition:
        """A `threading.Condition` of the bus; `lock` is a `lock` or `rlock` of this client, and
        without it there is one of its own."""
        from ..primitives.events import Condition

        return Condition(self, name, lock)

    def barrier(
        self,
        name: str,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Barrier:
        """A place where `parties` threads of any processes wait for one another: a
        `threading.Barrier` of the bus."""
        from ..primitives.events import Barrier

        return Barrier(self, name, parties, action, timeout)

    def counter(self, name: str) -> Counter:
        """A number that all count on together: `counter += 1` is one step."""
        from ..primitives.counter import Counter

        return Counter(self, name)

    def election(self, name: str) -> Election:
        """Of the clients that campaign one leads, and all know who."""
        from ..primitives.election import Election

        return Election(self, name)

    def rate_limiter(self, name: str, rate: float, burst: float | None = None) -> RateLimiter:
        """`rate` permits a second for all together, and up to `burst` at once: a token bucket."""
        from ..primitives.limiter import RateLimiter

        return RateLimiter(self, name, rate, burst)

    # --- queues -----------------------------------------------------------------------------

    def queue(self, name: str, maxsize: int = 0) -> Queue:
        """First in, first out: a `queue.Queue` of the bus, for any number of processes."""
        from ..primitives.queues import Queue

        return Queue(self, name, maxsize)

    def lifo_queue(self, name: str, maxsize: int = 0) -> LifoQueue:
        """Last in, first out."""
        from ..primitives.queues import LifoQueue

        return LifoQueue(self, name, maxsize)

    def priority_queue(self, name: str, maxsize: int = 0) -> PriorityQueue:
        """The lowest first: numbers, texts, dates, or tuples that begin with such."""
        from ..primitives.queues import PriorityQueue

        return PriorityQueue(self, name, maxsize)

    # --- who holds locks --------------------------------------------------------------------

    def locks(self, pattern: str = "**") -> list[LockInfo]:
        """The locks whose names match that somebody holds or waits for, in order of names; fetched
        like `keys`.

        Who holds them stands below `$sys/locks/`, so `watch("$sys/locks/**")` tells who comes and
        goes.
        """
        holdings = self._pages(lambda after: holders_page(pattern, after))
        return lock_infos(pattern, holdings, self._pages(requests.waiting_page))

    def lock_holders(self, name: str) -> list[LockHolder]:
        """Who holds a lock now, who came first first."""
        holdings = self._pages(lambda after: holders_page(name, after))
        return [holder for lock in lock_infos(name, holdings, ()) for holder in lock.holders]

    def deadlocks(self) -> list[list[Waiting]]:
        """Threads of clients that wait for one another, so that none of them ever goes on."""
        # What has been asked for in several steps may show a circle that never was; but one that
        # was there is there for good.
        before = deadlocks(self.locks())
        if not before:
            return []
        return [circle for circle in deadlocks(self.locks()) if circle in before]

    # --- as in dict -------------------------------------------------------------------------

    def mapping(self, name: str) -> SharedMapping:
        """The keys below `NAME/` as a dict, which all clients of the bus share.

        config = client.mapping("config")
        config["colour"] = "green"
        """
        from ..primitives.mapping import Mapping

        return Mapping(self, name)

    # --- calls ------------------------------------------------------------------------------

    @overload
    def service(
        self, name: str, *, retry: int = ..., concurrency: int = ...
    ) -> Callable[[T], T]: ...
    @overload
    def service(
        self, name: str, target: object, *, retry: int = ..., concurrency: int = ...
    ) -> Served: ...
    def service(
        self, name: str, target: Any = MISSING, *, retry: int = 0, concurrency: int = 1
    ) -> Served | Callable[[T], T]:
        """Let others call a function, the public methods of an object, or those of one object of a
        class; a decorator. From now on, beside what this process does otherwise.

            @client.service("calc")
            class Calc:
                def add(self, a, b):
                    return a + b

        Any number of processes may serve the same name: a call goes to one that is free. `retry`:
        how many others may be given a call whose worker has died, one after the other; without it
        such a call fails, since nobody knows how far it came. `concurrency`: calls at once, of this
        process. Coroutine functions are cancelled when nobody waits for them any more; what a
        generator yields is sent as it comes. docs/services.md says more. With `target` it returns
        what is served, to `stop` it.
        """
        from ..services.serving import Served, check_options

        check_options(name, retry, concurrency)
        if any(each.service == name for each in self._served):
            raise InvalidRequest(f"this client serves {name!r} already")

        def serve(target: Any) -> Served:
            served = Served(self, name, target, retry, concurrency)
            self._served.append(served)
            return served

        if target is not MISSING:
            return serve(target)

        def decorate(target: Any) -> Any:
            serve(target)
            return target

        return decorate

    def call(self, name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """The result of a function that some process serves: `call("calc/add", 2, 3)`.

        Of a generator it is an iterator. `timeout`: seconds, also for waiting until a worker is
        free; by default as for any request. Raises what the function raises, if it is of a class
        that this process knows, else RemoteError; BadArguments, UnknownMethod; ServiceUnavailable,
        at once, when nobody serves it; WorkerLost when the worker died meanwhile, and it may not be
        tried again; RequestTimeout.
        """
        return self._calls.call(name, args, kwargs, timeout)

    def service_proxy(self, name: str, *, timeout: float | None = None) -> ServiceProxy:
        """A service as an object: `service_proxy("calc").add(2, 3)`. What is given by name goes to
        the function, also a `timeout`; `timeout` here is for each call."""
        from ..services.calling import ServiceProxy

        check_name(name, "service")
        return ServiceProxy(self, name, timeout)

    def services(self, pattern: str = "**") -> list[ServiceInfo]:
        """The services whose names match, in order of names, with their workers."""
        from ..services.finding import workers_of
        from ..services.listing import service_infos

        check_pattern(pattern)
        found = self.items(workers_of(pattern))
        return service_infos(found, self.clients())

    @property
    def _calls(self) -> Calls:
        calls = self._calling
        if calls is None or calls.forks != len(FORKS):
            from ..services.calling import Calls

            self._calling = calls = Calls(self)
        return calls

"""The client: what people call.

It is made of layers: the way of a request (`session.py`), a method for each request (`methods.py`),
how a client begins, follows and ends (`base.py`), and here what builds on all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ...errors import InvalidRequest
from ...patterns import check_name, check_pattern
from .. import requests
from ..binding import MISSING
from ..forks import FORKS
from ..locks import LockHolder, LockInfo, Waiting, deadlocks, holders_page, lock_infos
from .base import AsyncBase

if TYPE_CHECKING:
    from ...primitives.aio.counter import AsyncCounter
    from ...primitives.aio.election import AsyncElection
    from ...primitives.aio.events import AsyncBarrier, AsyncCondition, AsyncEvent
    from ...primitives.aio.limiter import AsyncRateLimiter
    from ...primitives.aio.locks import (
        AsyncBoundedSemaphore,
        AsyncLock,
        AsyncRLock,
        AsyncRWLock,
        AsyncSemaphore,
    )
    from ...primitives.aio.mapping import AsyncMapping as SharedMapping
    from ...primitives.aio.queues import AsyncLifoQueue, AsyncPriorityQueue, AsyncQueue
    from ...services.aio.calling import AsyncCalls, AsyncServiceProxy
    from ...services.aio.serving import AsyncServed
    from ...services.listing import ServiceInfo

T = TypeVar("T")


class AsyncClient(AsyncBase):
    """A client of one bus.

    What is lost on its way, because the broker ended, is sent again when it is back, and is carried
    out once. Every method raises BrokerUnavailable when the broker does not come back within the
    time-out, RequestTimeout when it does not answer, and InvalidRequest, LimitExceeded or
    AccessDenied when it refuses. Usable as a context manager, which closes it.
    """

    # --- as in threading ----------------------------------------------------------------------

    def lock(self, name: str) -> AsyncLock:
        """A lock that all clients of the bus share: a `threading.Lock` for processes.

        async with client.lock("jobs/import"):
            ...
        """
        from ...primitives.aio.locks import AsyncLock

        return AsyncLock(self, name)

    def rlock(self, name: str) -> AsyncRLock:
        """The same, which the thread that holds it may acquire again."""
        from ...primitives.aio.locks import AsyncRLock

        return AsyncRLock(self, name)

    def rwlock(self, name: str) -> AsyncRWLock:
        """A lock of many readers or one writer: two locks, its `read` and its `write`."""
        from ...primitives.aio.locks import AsyncRWLock

        return AsyncRWLock(self, name)

    def semaphore(self, name: str, value: int = 1) -> AsyncSemaphore:
        """A lock that up to `value` may hold at once. All clients must say the same `value`."""
        from ...primitives.aio.locks import AsyncSemaphore

        return AsyncSemaphore(self, name, value)

    def bounded_semaphore(self, name: str, value: int = 1) -> AsyncBoundedSemaphore:
        """The same, of which nobody can release more than he has acquired."""
        from ...primitives.aio.locks import AsyncBoundedSemaphore

        return AsyncBoundedSemaphore(self, name, value)

    def event(self, name: str) -> AsyncEvent:
        """A flag that processes can wait for: a `threading.Event` of the bus."""
        from ...primitives.aio.events import AsyncEvent

        return AsyncEvent(self, name)

    def condition(self, name: str, lock: AsyncLock | None = None) -> AsyncCondition:
        """A `threading.Condition` of the bus; `lock` is a `lock` or `rlock` of this client, and
        without it there is one of its own."""
        from ...primitives.aio.events import AsyncCondition

        return AsyncCondition(self, name, lock)

    def barrier(
        self,
        name: str,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> AsyncBarrier:
        """A place where `parties` threads of any processes wait for one another: a
        `threading.Barrier` of the bus."""
        from ...primitives.aio.events import AsyncBarrier

        return AsyncBarrier(self, name, parties, action, timeout)

    def counter(self, name: str) -> AsyncCounter:
        """A number that all count on together: `counter += 1` is one step."""
        from ...primitives.aio.counter import AsyncCounter

        return AsyncCounter(self, name)

    def election(self, name: str) -> AsyncElection:
        """Of the clients that campaign one leads, and all know who."""
        from ...primitives.aio.election import AsyncElection

        return AsyncElection(self, name)

    def rate_limiter(self, name: str, rate: float, burst: float | None = None) -> AsyncRateLimiter:
        """`rate` permits a second for all together, and up to `burst` at once: a token bucket."""
        from ...primitives.aio.limiter import AsyncRateLimiter

        return AsyncRateLimiter(self, name, rate, burst)

    # --- queues -----------------------------------------------------------------------------

    def queue(self, name: str, maxsize: int = 0) -> AsyncQueue:
        """First in, first out: a `queue.Queue` of the bus, for any number of processes."""
        from ...primitives.aio.queues import AsyncQueue

        return AsyncQueue(self, name, maxsize)

    def lifo_queue(self, name: str, maxsize: int = 0) -> AsyncLifoQueue:
        """Last in, first out."""
        from ...primitives.aio.queues import AsyncLifoQueue

        return AsyncLifoQueue(self, name, maxsize)

    def priority_queue(self, name: str, maxsize: int = 0) -> AsyncPriorityQueue:
        """The lowest first: numbers, texts, dates, or tuples that begin with such."""
        from ...primitives.aio.queues import AsyncPriorityQueue

        return AsyncPriorityQueue(self, name, maxsize)

    # --- who holds locks --------------------------------------------------------------------

    async def locks(self, pattern: str = "**") -> list[LockInfo]:
        """The locks whose names match that somebody holds or waits for, in order of names; fetched
        like `keys`.

        Who holds them stands below `$sys/locks/`, so `watch("$sys/locks/**")` tells who comes and
        goes.
        """
        holdings = await self._pages(lambda after: holders_page(pattern, after))
        return lock_infos(pattern, holdings, await self._pages(requests.waiting_page))

    async def lock_holders(self, name: str) -> list[LockHolder]:
        """Who holds a lock now, who came first first."""
        holdings = await self._pages(lambda after: holders_page(name, after))
        return [holder for lock in lock_infos(name, holdings, ()) for holder in lock.holders]

    async def deadlocks(self) -> list[list[Waiting]]:
        """Threads of clients that wait for one another, so that none of them ever goes on."""
        # What has been asked for in several steps may show a circle that never was; but one that
        # was there is there for good.
        before = deadlocks(await self.locks())
        if not before:
            return []
        return [circle for circle in deadlocks(await self.locks()) if circle in before]

    # --- as in dict -------------------------------------------------------------------------

    def mapping(self, name: str) -> SharedMapping:
        """The keys below `NAME/` as a dict, which all clients of the bus share.

        config = client.mapping("config")
        config["colour"] = "green"
        """
        from ...primitives.aio.mapping import AsyncMapping

        return AsyncMapping(self, name)

    # --- calls ------------------------------------------------------------------------------

    @overload
    def service(
        self, name: str, *, retry: int = ..., concurrency: int = ...
    ) -> Callable[[T], T]: ...
    @overload
    def service(
        self, name: str, target: object, *, retry: int = ..., concurrency: int = ...
    ) -> AsyncServed: ...
    def service(
        self, name: str, target: Any = MISSING, *, retry: int = 0, concurrency: int = 1
    ) -> AsyncServed | Callable[[T], T]:
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
        from ...services.aio.serving import AsyncServed
        from ...services.serving import check_options

        check_options(name, retry, concurrency)
        if any(each.service == name for each in self._served):
            raise InvalidRequest(f"this client serves {name!r} already")

        def serve(target: Any) -> AsyncServed:
            served = AsyncServed(self, name, target, retry, concurrency)
            self._served.append(served)
            return served

        if target is not MISSING:
            return serve(target)

        def decorate(target: Any) -> Any:
            serve(target)
            return target

        return decorate

    async def call(
        self, name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """The result of a function that some process serves: `call("calc/add", 2, 3)`.

        Of a generator it is an iterator. `timeout`: seconds, also for waiting until a worker is
        free; by default as for any request. Raises what the function raises, if it is of a class
        that this process knows, else RemoteError; BadArguments, UnknownMethod; ServiceUnavailable,
        at once, when nobody serves it; WorkerLost when the worker died meanwhile, and it may not be
        tried again; RequestTimeout.
        """
        return await self._calls.call(name, args, kwargs, timeout)

    def service_proxy(self, name: str, *, timeout: float | None = None) -> AsyncServiceProxy:
        """A service as an object: `service_proxy("calc").add(2, 3)`. What is given by name goes to
        the function, also a `timeout`; `timeout` here is for each call."""
        from ...services.aio.calling import AsyncServiceProxy

        check_name(name, "service")
        return AsyncServiceProxy(self, name, timeout)

    async def services(self, pattern: str = "**") -> list[ServiceInfo]:
        """The services whose names match, in order of names, with their workers."""
        from ...services.finding import workers_of
        from ...services.listing import service_infos

        check_pattern(pattern)
        found = await self.items(workers_of(pattern))
        return service_infos(found, await self.clients())

    @property
    def _calls(self) -> AsyncCalls:
        calls = self._calling
        if calls is None or calls.forks != len(FORKS):
            from ...services.aio.calling import AsyncCalls

            self._calling = calls = AsyncCalls(self)
        return calls

"""udsbus: shared state, change events and messages for the processes of one machine.

    import udsbus

    client = udsbus.connect()
    client.set("config/limit", 10)
    for change in client.watch("config/**"):
        print(change.key, change.value)

One broker process (`udsbus serve`) owns the state; see README.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .client.aio.batches import AsyncPipeline as AsyncPipeline
    from .client.aio.batches import AsyncTransaction as AsyncTransaction
    from .client.aio.bound import AsyncBound as AsyncBound
    from .client.aio.client import AsyncClient as AsyncClient
    from .client.aio.following import AsyncSubscription as AsyncSubscription
    from .client.aio.following import AsyncWatch as AsyncWatch
    from .client.batches import Pipeline, Transaction
    from .client.bound import Bound
    from .client.cache import CacheInfo
    from .client.followed import Change, Message
    from .client.following import Subscription, Watch
    from .client.locks import LockHolder, LockInfo, LockWaiter
    from .client.opening import connect, connect_async
    from .client.past import PastChange
    from .client.requests import ClientInfo, Entry
    from .client.results import Result
    from .client.spawning import LocalBroker
    from .client.sync import Client
    from .client.watching import CaughtUp
    from .errors import (
        AccessDenied,
        BadArguments,
        BrokerUnavailable,
        Conflict,
        Deadlock,
        Error,
        InternalError,
        InvalidRequest,
        JournalDamaged,
        LimitExceeded,
        LockLost,
        MissedChanges,
        MissingExtra,
        NotHeld,
        ProtocolError,
        RemoteError,
        RequestTimeout,
        SchemaViolation,
        ServiceUnavailable,
        StorageFailed,
        UnknownMethod,
        UnsupportedValue,
        WorkerLost,
    )
    from .faults import Fault
    from .primitives.aio.counter import AsyncCounter as AsyncCounter
    from .primitives.aio.election import AsyncElection as AsyncElection
    from .primitives.aio.election import AsyncLeaders as AsyncLeaders
    from .primitives.aio.events import AsyncBarrier as AsyncBarrier
    from .primitives.aio.events import AsyncCondition as AsyncCondition
    from .primitives.aio.events import AsyncEvent as AsyncEvent
    from .primitives.aio.limiter import AsyncRateLimiter as AsyncRateLimiter
    from .primitives.aio.locks import (
        AsyncBoundedSemaphore as AsyncBoundedSemaphore,
    )
    from .primitives.aio.locks import (
        AsyncLock as AsyncLock,
    )
    from .primitives.aio.locks import (
        AsyncRLock as AsyncRLock,
    )
    from .primitives.aio.locks import (
        AsyncRWLock as AsyncRWLock,
    )
    from .primitives.aio.locks import (
        AsyncSemaphore as AsyncSemaphore,
    )
    from .primitives.aio.locks import (
        AsyncSharedLock as AsyncSharedLock,
    )
    from .primitives.aio.mapping import AsyncMapping as AsyncMapping
    from .primitives.aio.queues import AsyncLifoQueue as AsyncLifoQueue
    from .primitives.aio.queues import AsyncPriorityQueue as AsyncPriorityQueue
    from .primitives.aio.queues import AsyncQueue as AsyncQueue
    from .primitives.aio.queues import AsyncTaken as AsyncTaken
    from .primitives.counter import Counter
    from .primitives.election import Election, Leaders
    from .primitives.events import Barrier, Condition, Event
    from .primitives.leading import Leader
    from .primitives.limiter import RateLimiter
    from .primitives.locks import BoundedSemaphore, Lock, RLock, RWLock, Semaphore, SharedLock
    from .primitives.mapping import Mapping
    from .primitives.nested import SharedDict, SharedList, SharedSet
    from .primitives.queues import LifoQueue, PriorityQueue, Queue, Taken
    from .services.aio.asking import AsyncStream as AsyncStream
    from .services.aio.calling import AsyncServiceProxy as AsyncServiceProxy
    from .services.aio.serving import AsyncServed as AsyncServed
    from .services.asking import Stream
    from .services.calling import ServiceProxy
    from .services.collection import Services
    from .services.current import CurrentCall, current_call
    from .services.listing import ServiceInfo, WorkerInfo
    from .services.serving import Served
    from .workers.answering import serve_stdio

_WHERE = {
    "AsyncBarrier": "primitives.aio.events",
    "AsyncBound": "client.aio.bound",
    "AsyncBoundedSemaphore": "primitives.aio.locks",
    "AsyncClient": "client.aio.client",
    "AsyncCondition": "primitives.aio.events",
    "AsyncCounter": "primitives.aio.counter",
    "AsyncElection": "primitives.aio.election",
    "AsyncEvent": "primitives.aio.events",
    "AsyncLeaders": "primitives.aio.election",
    "AsyncLifoQueue": "primitives.aio.queues",
    "AsyncLock": "primitives.aio.locks",
    "AsyncMapping": "primitives.aio.mapping",
    "AsyncPipeline": "client.aio.batches",
    "AsyncPriorityQueue": "primitives.aio.queues",
    "AsyncQueue": "primitives.aio.queues",
    "AsyncRLock": "primitives.aio.locks",
    "AsyncRWLock": "primitives.aio.locks",
    "AsyncRateLimiter": "primitives.aio.limiter",
    "AsyncSemaphore": "primitives.aio.locks",
    "AsyncServed": "services.aio.serving",
    "AsyncServiceProxy": "services.aio.calling",
    "AsyncSharedLock": "primitives.aio.locks",
    "AsyncStream": "services.aio.asking",
    "AsyncSubscription": "client.aio.following",
    "AsyncTaken": "primitives.aio.queues",
    "AsyncTransaction": "client.aio.batches",
    "AsyncWatch": "client.aio.following",
    "connect_async": "client.opening",
    "CacheInfo": "client.cache",
    "CaughtUp": "client.watching",
    "Change": "client.followed",
    "Client": "client.sync",
    "ClientInfo": "client.requests",
    "Entry": "client.requests",
    "Fault": "faults",
    "Barrier": "primitives.events",
    "Bound": "client.bound",
    "BoundedSemaphore": "primitives.locks",
    "Condition": "primitives.events",
    "Counter": "primitives.counter",
    "Election": "primitives.election",
    "Event": "primitives.events",
    "Leader": "primitives.leading",
    "Leaders": "primitives.election",
    "LifoQueue": "primitives.queues",
    "LocalBroker": "client.spawning",
    "Lock": "primitives.locks",
    "LockHolder": "client.locks",
    "LockInfo": "client.locks",
    "LockWaiter": "client.locks",
    "PriorityQueue": "primitives.queues",
    "Queue": "primitives.queues",
    "RLock": "primitives.locks",
    "RateLimiter": "primitives.limiter",
    "RWLock": "primitives.locks",
    "Semaphore": "primitives.locks",
    "SharedLock": "primitives.locks",
    "Taken": "primitives.queues",
    "Mapping": "primitives.mapping",
    "SharedDict": "primitives.nested",
    "SharedList": "primitives.nested",
    "SharedSet": "primitives.nested",
    "Message": "client.followed",
    "PastChange": "client.past",
    "Pipeline": "client.batches",
    "Result": "client.results",
    "Subscription": "client.following",
    "Transaction": "client.batches",
    "Watch": "client.following",
    "WorkerInfo": "services.listing",
    "connect": "client.opening",
    "current_call": "services.current",
    "serve_stdio": "workers.answering",
    "CurrentCall": "services.current",
    "Served": "services.serving",
    "ServiceInfo": "services.listing",
    "ServiceProxy": "services.calling",
    "Services": "services.collection",
    "Stream": "services.asking",
} | dict.fromkeys(
    (
        "AccessDenied",
        "BadArguments",
        "BrokerUnavailable",
        "Conflict",
        "Deadlock",
        "Error",
        "InternalError",
        "InvalidRequest",
        "JournalDamaged",
        "LimitExceeded",
        "LockLost",
        "MissedChanges",
        "MissingExtra",
        "NotHeld",
        "ProtocolError",
        "RemoteError",
        "RequestTimeout",
        "SchemaViolation",
        "ServiceUnavailable",
        "StorageFailed",
        "UnknownMethod",
        "UnsupportedValue",
        "WorkerLost",
    ),
    "errors",
)
"""Public name → the module that has it, imported at the first use: the broker and the command
need little of the client, and a program that imports udsbus may never use it."""

# Without the async classes: `from udsbus import *` would bring an event loop with it.
__all__ = [
    "AccessDenied",
    "BadArguments",
    "Barrier",
    "Bound",
    "BoundedSemaphore",
    "BrokerUnavailable",
    "CacheInfo",
    "CaughtUp",
    "Change",
    "Client",
    "ClientInfo",
    "Condition",
    "Conflict",
    "Counter",
    "CurrentCall",
    "Deadlock",
    "Election",
    "Entry",
    "Error",
    "Event",
    "Fault",
    "InternalError",
    "InvalidRequest",
    "JournalDamaged",
    "Leader",
    "Leaders",
    "LifoQueue",
    "LimitExceeded",
    "LocalBroker",
    "Lock",
    "LockHolder",
    "LockInfo",
    "LockLost",
    "LockWaiter",
    "Mapping",
    "Message",
    "MissedChanges",
    "MissingExtra",
    "NotHeld",
    "PastChange",
    "Pipeline",
    "PriorityQueue",
    "ProtocolError",
    "Queue",
    "RLock",
    "RWLock",
    "RateLimiter",
    "RemoteError",
    "RequestTimeout",
    "Result",
    "SchemaViolation",
    "Semaphore",
    "Served",
    "ServiceInfo",
    "ServiceProxy",
    "ServiceUnavailable",
    "Services",
    "SharedDict",
    "SharedList",
    "SharedLock",
    "SharedSet",
    "StorageFailed",
    "Stream",
    "Subscription",
    "Taken",
    "Transaction",
    "UnknownMethod",
    "UnsupportedValue",
    "Watch",
    "WorkerInfo",
    "WorkerLost",
    "connect",
    "connect_async",
    "current_call",
    "serve_stdio",
]


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'udsbus' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"udsbus.{where}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})

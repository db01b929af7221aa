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
    from .client.batches import Pipeline, Result, Transaction
    from .client.following import Change, Message, Subscription, Watch
    from .client.locks import LockHolder, LockInfo, LockWaiter
    from .client.past import PastChange
    from .client.requests import ClientInfo, Entry
    from .client.spawning import LocalBroker
    from .client.sync import Client, connect
    from .errors import (
        AccessDenied,
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
        RequestTimeout,
        SchemaViolation,
        StorageFailed,
        UnknownMethod,
        UnsupportedValue,
    )
    from .faults import Fault
    from .primitives.counter import Counter
    from .primitives.election import Election, Leader, Leaders
    from .primitives.events import Barrier, Condition, Event
    from .primitives.limiter import RateLimiter
    from .primitives.locks import BoundedSemaphore, Lock, RLock, RWLock, Semaphore, SharedLock
    from .primitives.mapping import Mapping
    from .primitives.nested import SharedDict, SharedList, SharedSet
    from .primitives.queues import LifoQueue, PriorityQueue, Queue, Taken

_WHERE = {
    "Change": "client.following",
    "Client": "client.sync",
    "ClientInfo": "client.requests",
    "Entry": "client.requests",
    "Fault": "faults",
    "Barrier": "primitives.events",
    "BoundedSemaphore": "primitives.locks",
    "Condition": "primitives.events",
    "Counter": "primitives.counter",
    "Election": "primitives.election",
    "Event": "primitives.events",
    "Leader": "primitives.election",
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
    "Message": "client.following",
    "PastChange": "client.past",
    "Pipeline": "client.batches",
    "Result": "client.batches",
    "Subscription": "client.following",
    "Transaction": "client.batches",
    "Watch": "client.following",
    "connect": "client.sync",
} | dict.fromkeys(
    (
        "AccessDenied",
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
        "RequestTimeout",
        "SchemaViolation",
        "StorageFailed",
        "UnknownMethod",
        "UnsupportedValue",
    ),
    "errors",
)
"""Public name → the module that has it, imported at the first use: the broker and the command
need little of the client, and a program that imports udsbus may never use it."""

__all__ = [
    "AccessDenied",
    "Barrier",
    "BoundedSemaphore",
    "BrokerUnavailable",
    "Change",
    "Client",
    "ClientInfo",
    "Condition",
    "Conflict",
    "Counter",
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
    "RequestTimeout",
    "Result",
    "SchemaViolation",
    "Semaphore",
    "SharedDict",
    "SharedList",
    "SharedLock",
    "SharedSet",
    "StorageFailed",
    "Subscription",
    "Taken",
    "Transaction",
    "UnknownMethod",
    "UnsupportedValue",
    "Watch",
    "connect",
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
    return sorted({*globals(), *__all__})

"""Every exception that udsbus raises, in one tree.

    Error
    ├── BrokerUnavailable      (also a ConnectionError)  no broker answers at the address
    ├── RequestTimeout         (also a TimeoutError)     the broker did not answer in time
    ├── Conflict               the state is not what the request expected
    ├── LockLost               (also a RuntimeError)     a lock is held no longer
    ├── Deadlock               (also a RuntimeError)     to wait for a lock would be for ever
    ├── AccessDenied           (also a PermissionError)  not allowed, whoever asks nicely
    ├── InvalidRequest         (also a ValueError)       the request itself is wrong
    │   ├── UnknownMethod      the broker, or a service, has no such method
    │   ├── NotHeld            (also a RuntimeError)     a lock to be released is not held here
    │   ├── BadArguments       (also a TypeError)        not what a function of a service takes
    │   ├── UnsupportedValue   (also a TypeError)        a value that cannot be sent or read
    │   └── SchemaViolation    a value that is not what the schema of its key says
    ├── LimitExceeded          a size or a count above its limit
    ├── MissedChanges          a subscriber fell out of the change log
    ├── StorageFailed          the broker cannot write its journal; nothing was changed
    ├── JournalDamaged         what a journal holds cannot be read; the broker does not start
    ├── ServiceUnavailable     (also a ConnectionError)  nobody serves what is called
    ├── WorkerLost             (also a ConnectionError)  a worker died with a call in hand
    ├── RemoteError            what is called failed with an exception unknown here
    ├── MissingExtra           an optional package is not installed where it is needed
    ├── ProtocolError          the peer does not speak this protocol, or another version of it
    └── InternalError          a fault of the broker's own; please report it

Numbers and words travel on the wire (docs/protocol.md) and never change their meaning. Each class
holds its own; `ERRORS` is derived from the tree.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Fault = Literal["caller", "broker", "state"]


class Error(Exception):
    """Root of the tree. `details` holds what a program may want to read: see each class."""

    number: ClassVar[int] = 0
    word: ClassVar[str] = "error"
    fault: ClassVar[Fault] = "broker"
    """Whose fault it is: the caller's, the broker's, or nobody's (the state of the bus)."""

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = details


class InternalError(Error):
    """The broker failed to carry out a valid request. Its log has the traceback."""

    number = 1
    word = "internal"


class InvalidRequest(Error, ValueError):
    """The request is wrong in itself: a malformed key, a missing argument, a wrong type."""

    number = 2
    word = "invalid_request"
    fault = "caller"


class UnknownMethod(InvalidRequest):
    """The broker, or a service, has no method of that name (an older one, or a typing mistake)."""

    number = 3
    word = "unknown_method"


class UnsupportedValue(InvalidRequest, TypeError):
    """A value that has no MessagePack form, or stored bytes that are none."""

    number = 4
    word = "unsupported_value"


class Conflict(Error):
    """A compare-and-swap found another revision. `details`: `key`, `expected`, `revision`."""

    number = 5
    word = "conflict"
    fault = "state"


class AccessDenied(Error, PermissionError):
    """The caller may not do that: another user's bus, or a key that belongs to the broker."""

    number = 6
    word = "access_denied"
    fault = "caller"


class LimitExceeded(Error):
    """Something is larger than its limit. `details`: `limit` (its name), `maximum`, `actual`."""

    number = 7
    word = "limit_exceeded"
    fault = "caller"


class ProtocolError(Error):
    """The peer sent bytes that are not this protocol, or speaks a version unknown here."""

    number = 8
    word = "protocol_error"
    fault = "caller"


class BrokerUnavailable(Error, ConnectionError):
    """No broker answers. The message says which socket, what is there, and how to start one."""

    number = 9
    word = "unavailable"


class MissedChanges(Error):
    """Changes were lost to this subscriber. `details`: `since` and `revision`."""

    number = 10
    word = "missed_changes"
    fault = "state"


class RequestTimeout(Error, TimeoutError):
    """No answer within the time-out. Whether a write was carried out is then unknown."""

    number = 11
    word = "timeout"


class StorageFailed(Error):
    """The journal cannot be written (a full disk, an I/O error), so nothing has changed. Reads go
    on, and so do writes as soon as there is room. `details`: `reason`, what the system said."""

    number = 12
    word = "storage_failed"


class SchemaViolation(InvalidRequest):
    """A value is not what `set_schema` asked for, so it was not written. `details`: `key`,
    `pattern` (whose schema it is), `path` (a JSON Pointer into the value, RFC 6901; its first
    1,000 characters), `reason`."""

    number = 14
    word = "schema_violation"


class LockLost(Error, RuntimeError):
    """A lock was held, and is not any more: the client was kicked, or away for too long, or the bus
    is another one. Somebody else may have it. Also for a write with a fencing token by which nobody
    holds a lock now."""

    number = 16
    word = "lock_lost"
    fault = "state"


class Deadlock(Error, RuntimeError):
    """A lock that was to be waited for `unless_deadlock`: somebody who is in the way waits, perhaps
    by way of others, for who asks. `details`: `cycle`, the [session, owner] pairs of those who wait
    for one another, who asked first."""

    number = 17
    word = "deadlock"
    fault = "state"


class NotHeld(InvalidRequest, RuntimeError):
    """A lock is to be released that this client, or this thread, does not hold."""

    number = 18
    word = "not_held"


class ServiceUnavailable(Error, ConnectionError):
    """Nobody serves what is called, now. `details`: `service`."""

    number = 19
    word = "service_unavailable"
    fault = "state"


class WorkerLost(Error, ConnectionError):
    """The worker that had taken a call died before it answered, and so did those that had it after
    it. Whether the call was carried out is unknown. `details`: `service`, `worker` (the pid of the
    last), `attempts`, `dead_letters` (the name of the queue that has the call now; None: none)."""

    number = 20
    word = "worker_lost"
    fault = "state"


class RemoteError(Error):
    """What was called failed, and its exception is of no class that this process knows. Else that
    is raised, with a RemoteError as its cause. `details`: `type` (module and name of the class),
    `traceback` (of the worker, as text)."""

    number = 21
    word = "remote_error"
    fault = "caller"

    def __str__(self) -> str:
        traceback = self.details.get("traceback")
        message = super().__str__()
        return f"{message}\n\n{traceback}" if traceback else message


class BadArguments(InvalidRequest, TypeError):
    """The arguments of a call are not what the function takes; it was not called."""

    number = 22
    word = "bad_arguments"


class MissingExtra(Error):
    """This needs a package that is optional and not installed. `details`: `extra`, by which to
    install it."""

    number = 15
    word = "missing_extra"


class JournalDamaged(Error):
    """A journal that was whole is no longer. Its broker does not start, so nobody is told of this
    over the wire. `details`: `file`, `offset` in it."""

    number = 13
    word = "journal_damaged"


def _tree(root: type[Error]) -> list[type[Error]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


ERRORS: dict[int, type[Error]] = {cls.number: cls for cls in _tree(Error) if cls.number}

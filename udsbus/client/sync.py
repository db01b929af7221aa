"""The sync client: what people call. How a request gets to the broker, and an answer back, is in
`session.py`.

Watches and subscriptions share a connection of their own and one background thread, which start
with the first of them (`events.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..errors import Conflict, InvalidRequest, RequestTimeout
from ..limits import REQUEST_TIMEOUT
from ..patterns import CLIENT_KEYS, SCHEMA_KEYS
from . import requests, unpickling
from .batches import Pipeline, Transaction
from .callbacks import Callbacks, Function
from .events import Events
from .following import Subscription, Watch
from .forks import told
from .holding import Holdings
from .locks import LockHolder, LockInfo, Waiting, deadlocks, holders_page, lock_infos
from .requests import Call, ClientInfo, Entry, Page
from .session import Session
from .watching import WatchCore

if TYPE_CHECKING:
    from datetime import datetime

    from ..errors import SchemaViolation
    from ..primitives.counter import Counter
    from ..primitives.election import Election
    from ..primitives.events import Barrier, Condition, Event
    from ..primitives.limiter import RateLimiter
    from ..primitives.locks import BoundedSemaphore, Lock, RLock, RWLock, Semaphore
    from ..primitives.mapping import Mapping as SharedMapping
    from ..primitives.queues import LifoQueue, PriorityQueue, Queue
    from .past import PastChange

T = TypeVar("T")
Kicked = TypeVar("Kicked", bound=Callable[[], object])

ROLLBACKS = 10
"""How often a rollback is tried when others write the same keys meanwhile."""


def connect(
    address: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    timeout: float = REQUEST_TIMEOUT,
    autostart: bool = False,
    metadata: Any = None,
) -> Client:
    """Connect to the bus at `address`, the path of its socket.

    Without `address`: `UDSBUS_SOCKET`, else this user's default bus. `name` and `metadata` tell the
    others who this is, see `Client.clients`. `timeout` is how many seconds a request may take.
    `autostart` starts a broker if none serves the address; however many processes do that at
    once, one broker is started, and it stays when they are gone.

    Raises BrokerUnavailable, AccessDenied.
    """
    return Client(address, name=name, timeout=timeout, autostart=autostart, metadata=metadata)


class Client(Session):
    """A client of one bus. May be used by many threads, and after a fork in the child too.

    What is lost on its way, because the broker ended, is sent again when it is back, and is carried
    out once. Every method raises BrokerUnavailable when the broker does not come back within the
    time-out, RequestTimeout when it does not answer, and InvalidRequest, LimitExceeded or
    AccessDenied when it refuses. Usable as a context manager, which closes it.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        timeout: float = REQUEST_TIMEOUT,
        autostart: bool = False,
        metadata: Any = None,
    ) -> None:
        super().__init__(address, name, timeout, autostart, metadata)
        this = weakref.ref(self)

        def hello() -> Call[dict[str, Any]]:
            client = this()
            if client is None:
                raise InvalidRequest("nobody holds this client any more")
            return client._hello()

        self._events = Events(self.address, self.timeout, hello)
        weakref.finalize(self, self._events.abandon).atexit = False
        self._callbacks = Callbacks()
        self.holdings = Holdings(self)
        """The locks that are held; for `udsbus.primitives`."""
        self._begin()
        told.add(self)
        self.origin = self._session
        """The session of the client that this one stands for in its process; for `unpickling`."""
        unpickling.known[self.origin] = self

    # --- values -----------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; `default` if it is absent."""
        return self._call(requests.get(key, default))

    def entry(self, key: str) -> Entry | None:
        """The value of `key` with its revision and the time it has left; None if absent."""
        return self._call(requests.entry(key))

    def exists(self, key: str) -> bool:
        """Whether `key` is there."""
        return self._call(requests.exists(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of `keys` that are there, all at one revision."""
        return self._call(requests.get_many(keys))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        if_revision: int | None = None,
        if_changed: bool = False,
        ephemeral: bool = False,
        fence: int | None = None,
    ) -> int:
        """Write `key` and return the revision that holds the value.

        `ttl`: it expires after so many seconds; without, it stays, and an earlier time to live is
        gone. `if_revision`: only if the key is at that revision (0: only if it is absent), else
        Conflict is raised. `if_changed`: if the encoded bytes are the same, nothing is written,
        nobody is told, and the revision that holds them is returned. `ephemeral`: it goes when this
        client does, closed or dead; without, it stays, whosever it was. `fence`: only while the
        lock with this token is held (see `Lock.token`), else LockLost is raised.

        Raises UnsupportedValue for a value that cannot be sent; docs/values.md lists what can.
        """
        if ephemeral:
            self._stay()
        return self._call(requests.set(key, value, ttl, if_revision, if_changed, ephemeral, fence))

    def set_many(self, values: Mapping[str, Any], *, ttl: float | None = None) -> int:
        """Write several keys atomically, at one revision, which is returned."""
        return self._call(requests.set_many(values, ttl))

    def delete(self, key: str, *, if_revision: int | None = None, fence: int | None = None) -> bool:
        """Remove `key`. True if it was there. Raises Conflict and LockLost like `set`."""
        return self._call(requests.delete(key, if_revision, fence))

    @overload
    def increment(self, key: str, by: int = 1) -> int: ...
    @overload
    def increment(self, key: str, by: float) -> float: ...
    def increment(self, key: str, by: int | float = 1) -> int | float:
        """Add `by` to the number in `key` and return the sum. An absent key counts as 0.

        Atomic, however many processes do it. Raises InvalidRequest if `key` holds no number.
        """
        number: int | float = self._call(requests.increment(key, by))
        return number

    def expire(self, key: str, ttl: float) -> bool:
        """Let `key` expire in `ttl` seconds. False if it is absent."""
        return self._call(requests.expire(key, ttl))

    def persist(self, key: str) -> bool:
        """Take the time to live of `key` away. True if it had one."""
        return self._call(requests.persist(key))

    def ttl(self, key: str) -> float | None:
        """The seconds that `key` has left; None if it does not expire, or is absent."""
        return self._call(requests.ttl(key))

    def update(self, key: str, function: Callable[[Any], T], default: Any = None) -> T:
        """Replace the value of `key` by `function` of it, never losing another's update.

        `function` gets `default` if the key is absent. It is called again when somebody else was
        quicker, so it should do nothing but compute. A time to live is kept as it is, and an
        ephemeral key stays its client's. Returns the new value. Raises RequestTimeout, and has
        changed nothing, when somebody else was quicker each time until the time-out.
        """
        if not callable(function):
            raise InvalidRequest(f"update calls a function, not {type(function).__name__}")
        until = time.monotonic() + self.timeout
        while True:
            entry = self.entry(key)
            value = function(default if entry is None else entry.value)
            revision = 0 if entry is None else entry.revision
            with contextlib.suppress(Conflict):
                self._call(requests.set(key, value, if_revision=revision, keep=True))
                return value
            if time.monotonic() > until:
                raise RequestTimeout(
                    f"{key!r} was not updated: others wrote it each time within {self.timeout:g} s"
                )

    def keys(self, pattern: str = "**") -> list[str]:
        """The keys that match, in order.

        Fetched in pages: a key that is there all the while is there once, one that comes or goes
        meanwhile may or may not be.
        """
        return self._pages(lambda after: requests.keys_page(pattern, after))

    def items(self, pattern: str = "**") -> list[tuple[str, Any]]:
        """The (key, value) pairs that match, in order of keys; fetched like `keys`."""
        return self._pages(lambda after: requests.items_page(pattern, after))

    def count(self, pattern: str = "**") -> int:
        """How many keys match."""
        total, after = 0, None
        while True:
            number, after = self._call(requests.count_page(pattern, after))
            total += number
            if after is None:
                return total

    def mapping(self, name: str) -> SharedMapping:
        """The keys below `NAME/` as a dict, which all clients of the bus share.

        config = client.mapping("config")
        config["colour"] = "green"
        """
        from ..primitives.mapping import Mapping

        return Mapping(self, name)

    # --- many at once -----------------------------------------------------------------------

    def transaction(self, *, fence: int | None = None) -> Transaction:
        """Checks, reads and writes that happen together or not at all; a context manager.
        `fence`: not at all unless the lock with this token is held, see `set`."""
        return Transaction(self._call, self._stay, fence)

    def pipeline(self) -> Pipeline:
        """Requests sent together, carried out one after the other; a context manager."""
        return Pipeline(self._call_many, self._stay)

    # --- changes and messages ---------------------------------------------------------------

    def watch(
        self,
        pattern: str,
        *,
        from_revision: int | None = None,
        initial: bool = False,
        conflate: bool = False,
    ) -> Watch:
        """Follow the changes of the keys that match, from now on; or from after `from_revision`.

        `initial`: first tell what is there (`kind == "present"`), then what changes, without a gap
        or a double. `conflate`: of changes not taken yet, only the newest of each key.
        """
        return self._watch(pattern, from_revision, initial, conflate)

    @overload
    def on_change(self, pattern: str, *, initial: bool = ...) -> Callable[[Function], Function]: ...
    @overload
    def on_change(self, pattern: str, function: Function, *, initial: bool = ...) -> Watch: ...
    def on_change(
        self, pattern: str, function: Function | None = None, *, initial: bool = False
    ) -> Watch | Callable[[Function], Function]:
        """Call a function with each `Change` of the keys that match; a decorator.

            @client.on_change("config/**")
            def reload(change): ...

        The functions of a client are called one at a time, in a thread of their own, and may use
        the client. An exception is logged and the watch goes on. That thread ends with the
        program: it does not keep it alive. With `function` it returns the Watch, to close it.
        """
        if function is not None:
            return self._watch(pattern, None, initial, False, function)

        def decorate(function: Function) -> Function:
            self._watch(pattern, None, initial, False, function)
            return function

        return decorate

    def publish(self, topic: str, message: Any) -> int:
        """Send a message to whoever subscribes to `topic` now. Returns how many clients do."""
        return self._call(requests.publish(topic, message))

    def subscribe(self, *patterns: str) -> Subscription:
        """Receive the messages published from now on to the topics that match."""
        self._check_open()
        subscription = Subscription(self._events, self, patterns)
        self._events.follow(subscription)
        return subscription

    # --- the past ---------------------------------------------------------------------------

    def history(
        self,
        pattern: str,
        *,
        limit: int | None = 100,
        after_revision: int = 0,
        since: datetime | float | None = None,
        client: str | None = None,
    ) -> list[PastChange]:
        """The last changes of the keys that match, the oldest first, and who made them.

        `limit`: at most so many; None for all. `after_revision`, `since` (a datetime, or seconds
        since 1970): only later ones. `client`: only those by clients of this name. It is read from
        the files of the bus, without the broker, and goes back as far as `udsbus serve --history`
        says. Raises Conflict if the broker keeps none.
        """
        from ..journal.history import Query
        from .past import past_changes, seconds_of

        query = Query(pattern, after_revision, since=seconds_of(since) or 0.0, client=client)
        return past_changes(self._state(), query, limit)

    def rollback(
        self, pattern: str, *, revision: int | None = None, time: datetime | float | None = None
    ) -> int:
        """Let the keys that match hold again what they held at a revision, or at a time.

        That is a new write, one transaction, which the history shows like any other. A time to
        live does not come back. Returns how many keys were written or deleted. Raises
        MissedChanges if the history does not reach back so far, and Conflict if others write the
        same keys all the time.
        """
        from .past import revision_at, rollback_to, seconds_of

        seconds = seconds_of(time)
        if (revision is None) == (seconds is None):
            raise InvalidRequest("a rollback needs either a revision or a time")
        state = self._state()
        if revision is None:
            assert seconds is not None
            revision = revision_at(state, seconds)
        if type(revision) is not int or revision < 0:
            raise InvalidRequest(f"revision must be a whole number from 0, not {revision!r}")
        if revision > (last := self.revision()):
            raise InvalidRequest(f"revision {revision} has not been yet; the bus is at {last}")
        for _ in range(ROLLBACKS - 1):
            needed = rollback_to(state, pattern, revision)
            if not needed.values:
                return 0
            with contextlib.suppress(Conflict):
                self._call(needed.call())
                return len(needed.values)
        needed = rollback_to(state, pattern, revision)
        self._call(needed.call())
        return len(needed.values)

    def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Write all that the bus holds now into a new file at `path`, and return its revision.

        It is an SQLite database like the bus's own (docs/journal.md), with the history, and
        `udsbus serve --from PATH` begins a bus with it. The broker goes on meanwhile. Raises
        Conflict if there is a file already or the broker keeps nothing, AccessDenied if it cannot
        be written.
        """
        from ..journal.snapshot import take_snapshot
        from ..wire.values import decode

        return take_snapshot(self._state(), os.path.abspath(os.path.expanduser(path)), decode)

    def _state(self) -> str:
        """The state directory of the bus."""
        state: str | None = self.info()["state"]
        if state is None:
            raise Conflict(f"the broker at {self.address} keeps no history (durability none)")
        return state

    # --- rules ------------------------------------------------------------------------------

    def set_schema(self, pattern: str, schema: Mapping[str, Any] | bool | None) -> int:
        """Refuse from now on to write a value that does not match, whoever writes: every write of a
        key that matches `pattern` raises SchemaViolation if its value does not match `schema`.

        `schema` is a JSON Schema; None: none any more. It stays like any value does, and setting
        the same again does nothing. What is there already stays as it is: see `violations`.
        Returns the revision that holds it. Raises InvalidRequest for what is no schema, and
        MissingExtra if the broker runs without the extra `schema`.
        """
        return self._call(requests.set_schema(pattern, schema))

    def schemas(self) -> dict[str, Any]:
        """The schemas that there are, by pattern."""
        found = self.items(f"{SCHEMA_KEYS}**")
        return {key.removeprefix(SCHEMA_KEYS): schema for key, schema in found}

    def violations(
        self, pattern: str, schema: Mapping[str, Any] | bool | None = None
    ) -> list[SchemaViolation]:
        """What is there now that does not match the schema of `pattern`, or `schema`, which it may
        get. Checked in this process, page by page. Raises Conflict if there is no schema, and
        MissingExtra without the extra `schema` here.
        """
        from .schemas import violations

        if schema is None:
            schema = self.schemas().get(pattern)
            if schema is None:
                raise Conflict(f"there is no schema for {pattern!r}; set_schema sets one")
        items = self._pages(lambda after: requests.raw_items_page(pattern, after))
        return violations(items, pattern, schema)

    # --- locks ------------------------------------------------------------------------------

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
        return [circle for circle in deadlocks(self.locks()) if circle in before] if before else []

    # --- clients ----------------------------------------------------------------------------

    def clients(self) -> list[ClientInfo]:
        """Who is connected to the bus now, this client too; the first to come first.

        They stand below `$sys/clients/`, so `watch("$sys/clients/*")` tells who comes and goes.
        """
        found = [
            ClientInfo.read(key.removeprefix(CLIENT_KEYS), about)
            for key, about in self.items(f"{CLIENT_KEYS}*")
        ]
        return sorted(found, key=lambda client: (client.since, client.session))

    def kick(self, session: str) -> bool:
        """End a client's connections, and remove what belongs to it; `session` is as `clients`
        tells it. False: there was none. It may come back, as a new one."""
        return self._call(requests.kick(session))

    def on_kick(self, function: Kicked) -> Kicked:
        """Call a function when this client is kicked; a decorator. At once, in the thread that
        reads its events, so it must not wait for anything."""
        if not callable(function):
            raise InvalidRequest(f"on_kick calls a function, not {type(function).__name__}")
        self._events.when_kicked.append(function)
        self._stay()
        return function

    # --- about ------------------------------------------------------------------------------

    def ping(self) -> float:
        """Ask whether the broker is there. Returns the seconds that it took to answer."""
        began = time.perf_counter()
        self._call(requests.ping())
        return time.perf_counter() - began

    def revision(self) -> int:
        """The revision of the bus: how many writes it has seen."""
        return self._call(requests.ping())

    def info(self) -> dict[str, Any]:
        """What the broker is and does: pid, version, address, uptime (seconds), revision,
        connections, counters, limits."""
        return self._call(requests.info())

    def close(self) -> None:
        """Close every connection and end every watch. May be called twice, and in a callback."""
        closed, self._closed = self._closed, True
        self._events.close()  # before the goodbye: nobody shall come back after it
        if not closed:
            self._say_goodbye()
        self._callbacks.close()
        self._interrupt()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        """In another process it is a client of its own, of the same bus and by the same name; all
        that comes from one client is one client there."""
        return unpickling.client_like, (self.origin, self.address, self._options())

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<udsbus.Client {self.address} ({state})>"

    # --- inside -----------------------------------------------------------------------------

    def _stay(self) -> None:
        """Keep a connection, also while nothing is asked: something is to go when none is left."""
        self._stays = True
        self._events.ensure_running()

    def _pages(self, page_after: Callable[[Any], Call[Page[list[T]]]]) -> list[T]:
        found: list[T] = []
        after: Any = None
        while True:
            items, after = self._call(page_after(after))
            found += items
            if after is None:
                return found

    def _watch(
        self,
        pattern: str,
        from_revision: int | None,
        initial: bool,
        conflate: bool,
        function: Function | None = None,
    ) -> Watch:
        self._check_open()
        if from_revision is not None and (type(from_revision) is not int or from_revision < 0):
            raise InvalidRequest(
                f"from_revision must be a whole number from 0, not {from_revision!r}"
            )
        if initial and from_revision is not None:
            raise InvalidRequest("a watch begins with the initial state or from a revision")
        if function is not None and not callable(function):
            raise InvalidRequest(f"on_change calls a function, not {type(function).__name__}")
        core = WatchCore(pattern, from_revision=from_revision, initial=initial)
        told = self._callbacks.changes if function is not None else None
        watch = Watch(self._events, self, core, conflate, told)
        if function is not None:
            self._callbacks.add(watch, function)
        self._events.follow(watch)
        return watch

    # --- called at a fork -------------------------------------------------------------------

    def before_fork(self) -> None:
        self._events.pause()

    def after_fork_in_parent(self) -> None:
        self._events.go_on()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections alone; our own are made when needed."""
        self._forget_parent()
        self.holdings.forget()
        self._events.after_fork()
        if self._callbacks.after_fork():
            self._events.ensure_running()
        super().after_fork_in_child()

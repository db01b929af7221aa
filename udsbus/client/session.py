"""One client as its broker knows it, and the way of a request: over a connection, and if that is
lost once more over the next.

Each thread has a connection of its own, so there is no lock and no reader thread between a request
and its answer. Each connection goes on with a *lane* of requests, by which the broker knows what it
has answered already (docs/protocol.md, Sending again).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import (
    BrokerUnavailable,
    Conflict,
    Error,
    InvalidRequest,
    RequestTimeout,
)
from ..limits import (
    HEARTBEAT_SECONDS,
    RECONNECT_FIRST,
    RECONNECT_MOST,
    RESUME_SECONDS,
    TIMEOUT_MOST,
)
from ..paths import resolve_address
from ..wire.values import decode, encode
from . import requests
from .cache import NO_PAGE, Cache, mapped, who_greets
from .connecting import Vanished, jittered, not_greeted, open_socket
from .connection import Connection, ConnectionEnded
from .forks import FORKS, Members
from .insisting import make_sure, put_right
from .pulse import check_heartbeat
from .requests import Attempt, Call, Many, check_timeout

T = TypeVar("T")

ATTEMPTS = 5
"""How often a request is sent when the connection is lost each time: there must be an end, in case
that it is the request which kills the broker."""


LASTED_SECONDS = 1.0
"""A connection that has been lost after so long was not lost because of the request."""
GOODBYE_SECONDS = 1.0


class Own(threading.local):
    """What each thread has of its own."""

    connection: Connection | None = None
    timeout: float | None = None
    """Seconds that its requests may take, if not those of the client."""


class Session:
    """What `Client` builds on."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None,
        name: str | None,
        timeout: float,
        autostart: bool,
        metadata: Any = None,
        heartbeat: float | None = HEARTBEAT_SECONDS,
        cache: bool = True,
    ) -> None:
        check_timeout(timeout)
        check_heartbeat(heartbeat)
        self.address = resolve_address(address)
        """The path of the socket."""
        self.timeout = min(timeout, TIMEOUT_MOST)
        """Seconds that a request may take."""
        self.name = name
        self._metadata = None if metadata is None else encode(metadata)
        self._autostart = autostart
        self._heartbeat = heartbeat
        self._caches = cache
        self._cache = Cache(NO_PAGE)
        """What is remembered of keys."""
        self._closed = False
        self._own = Own()
        self._connections: Members[Connection] = Members()
        self._session = os.urandom(8).hex()
        """By which the broker knows all these connections for one client's."""
        self._lanes = itertools.count(1)
        self._stays = False
        """Something belongs to this client, so it must not be without a connection for long."""
        self._forks = len(FORKS)

    @property
    def session(self) -> str:
        """The name by which the broker, and the others, know this client; in a child after a fork
        it is another."""
        if self.inherited:
            self.after_fork_in_child()
        return self._session

    @property
    def inherited(self) -> bool:
        """This is a child after a fork, in which nobody has told this client so yet."""
        return self._forks != len(FORKS)

    def _hello(
        self, lane: int = 0, heartbeat: float | None = None, page: bool = False
    ) -> Call[dict[str, Any]]:
        """What each connection begins with."""
        return requests.hello(
            self.name, self.session, lane, self._metadata, heartbeat=heartbeat, page=page
        )

    def _begin(self) -> None:
        """Connect, at once: who cannot shall hear of it now."""
        if self._autostart:
            self._start_broker()
        try:
            self._own.connection = self._connect(None)
        except Vanished:
            self._own.connection = self._reconnect(None)

    def _options(self) -> dict[str, Any]:
        """What another client like this one is made with."""
        metadata = None if self._metadata is None else decode(self._metadata)
        return {
            "name": self.name,
            "timeout": self.timeout,
            "autostart": self._autostart,
            "metadata": metadata,
            "heartbeat": self._heartbeat,
            "cache": self._caches,
        }

    # --- the way of a request ---------------------------------------------------------------

    @contextlib.contextmanager
    def timeout_of(self, seconds: float) -> Iterator[None]:
        """Within the block, a request of this thread may take so many seconds, whatever the
        client's `timeout` is.

        with client.timeout_of(0.5):
            client.get("colour")
        """
        check_timeout(seconds)
        before, self._own.timeout = self._own.timeout, min(seconds, TIMEOUT_MOST)
        try:
            yield
        finally:
            self._own.timeout = before

    @property
    def _patience(self) -> float:
        """Seconds that a request of this thread may take."""
        seconds = self._own.timeout
        return self.timeout if seconds is None else seconds

    def _call(self, call: Call[T]) -> T:
        """The way of every request."""
        own = self._own
        connection = own.connection
        if connection is None or not connection.ready or connection.forks != len(FORKS):
            connection = self._usable(connection)
        again = 0
        for _ in range(ATTEMPTS):
            try:
                return call.read(connection.request(call, own.timeout or self.timeout, again))
            except ConnectionEnded as ended:
                last = str(ended)  # not the exception: its traceback holds the connection
                if again or (ended.sent and not call.repeatable):
                    again = again or ended.msgid
                    connection = self._resume(connection, last, call.fleeting)
                else:
                    connection = self._own.connection = self._reconnect(connection)
            except RequestTimeout as error:
                raise (error if call.repeatable else _uncertain_timeout(error)) from None
        raise BrokerUnavailable(f"{self.address}: the connection was lost {ATTEMPTS} times: {last}")

    def _call_waiting(
        self,
        ask: Callable[[float | None], Call[T]],
        timeout: float | None,
        attempt: Attempt | None = None,
    ) -> T:
        """The way of a request that the broker answers when the time has come, but within
        `timeout` seconds (None: whenever). `ask` makes the request for the seconds that are left;
        it must do no harm to ask again. If it would, there is an `attempt`, to know it by."""
        until = None if timeout is None else time.monotonic() + timeout
        connection = self._own.connection
        lost, sent = 0, False
        while True:
            if connection is None or not connection.ready or connection.forks != len(FORKS):
                connection = self._usable(connection)
            if attempt is not None:
                attempt.connection = connection
                attempt.msgid = attempt.msgid or connection.next_msgid()
            again = 0 if attempt is None else attempt.msgid
            now = time.monotonic()
            left = None if until is None else max(0.0, until - now)
            patience = TIMEOUT_MOST if left is None else left + self._patience
            try:
                call = ask(left)
                return call.read(connection.request(call, patience, again))
            except ConnectionEnded as ended:
                last, sent = str(ended), sent or ended.sent
            lost = 1 if time.monotonic() > now + LASTED_SECONDS else lost + 1
            if lost == ATTEMPTS:
                raise BrokerUnavailable(
                    f"{self.address}: the connection was lost {ATTEMPTS} times: {last}"
                )
            if attempt is not None and sent:
                connection = self._resume(connection, last, call.method == "publish")

    def _call_many(self, many: Many) -> None:
        """Fill in the results and refusals of a pipeline."""
        connection = self._own.connection
        if connection is None or not connection.ready or connection.forks != len(FORKS):
            connection = self._usable(connection)
        attempts = 0
        while attempts < ATTEMPTS:
            done = len(many.results)
            try:
                connection.request_many(many, self._patience)
                return
            except ConnectionEnded as ended:
                last = str(ended)
                if many.frames:
                    connection = self._resume(connection, last)
                else:
                    connection = self._own.connection = self._reconnect(connection)
            except RequestTimeout as error:
                raise _uncertain_timeout(error) from None
            attempts = 1 if len(many.results) > done else attempts + 1
        raise BrokerUnavailable(f"{self.address}: the connection was lost {ATTEMPTS} times: {last}")

    def _resume(self, lost: Connection, why: str, same_broker: bool = False) -> Connection:
        """A connection over which what was sent over `lost` can be sent again: the broker knows
        what it has answered, and so does one that comes after it with the same state.

        `same_broker`: but it must be the same one. Raises BrokerUnavailable if that cannot be, and
        then nobody knows whether a request was carried out.
        """
        since = time.monotonic()
        try:
            connection = self._reconnect(lost)
        except Error as error:
            raise self._uncertain(why, f" ({error})") from None
        self._own.connection = connection
        same = connection.bus == lost.bus if same_broker else connection.bus[0] == lost.bus[0]
        away = time.monotonic() - since
        if not lost.lane or not same:
            raise self._uncertain(why, ", since it is another broker that answers now")
        if away > RESUME_SECONDS / 2:
            raise self._uncertain(
                why, f", since it took {away:.0f} s until one answered, and answers are forgotten"
            )
        return connection

    # --- what the async client does otherwise ---------------------------------------------------

    def _notice_fork(self) -> None:
        """In a child after a fork, be a client of its own."""
        if self.inherited:
            self.after_fork_in_child()

    def _stay(self) -> None:
        """Keep a connection, also while nothing is asked: something is to go when none is left."""
        self._stays = True

    def _owner(self) -> int:
        """Who holds a lock, in this client: the thread."""
        return threading.get_native_id()

    def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """What reads files, and takes a while: here it is a call like any other."""
        return function(*args)

    def _outcome(self, result: T) -> T:
        """What a function of the user's has returned."""
        return result

    def _give_way(self) -> None:
        """Now and then, between reads from memory. There is nobody to give way to here, but should
        the kernel have failed to mark the page of a dead broker, the connection tells."""
        connection = self._own.connection
        if connection is not None and connection.ready and connection.has_news():
            self._cache = Cache(NO_PAGE, self._cache)

    def _undisturbed(self) -> contextlib.AbstractContextManager[object]:
        """What must be done although this is being ended."""
        return contextlib.nullcontext()

    # --- connections ------------------------------------------------------------------------

    def _usable(self, connection: Connection | None) -> Connection:
        """A connection for this thread, when it has none that is ready."""
        if self.inherited:
            self.after_fork_in_child()
            connection = None
        if connection is not None and not connection.closed:
            if connection.in_exchange():
                # This is a signal handler, or a destructor. It gets a connection of its own, for
                # one request.
                return self._connect(None)
            connection.close()
        self._own.connection = self._reconnect(connection)
        return self._own.connection

    def _connect(self, before: Connection | None, closing: bool = False) -> Connection:
        """A new connection that goes on with the lane of the one before, or begins one."""
        sock = open_socket(self.address, self._patience)
        if before is None:
            connection = Connection(sock, next(self._lanes))
        else:
            connection = Connection(sock, before.lane, before.msgid)
        self._connections.add(connection)
        try:
            if not closing:
                self._check_open()  # `close` may just have missed this one
            self._greet(connection)
        except ConnectionEnded as ended:
            raise not_greeted(self.address, ended.told) from None
        except Conflict as conflict:  # it was kicked, and what belonged to it is being removed
            connection.close()
            raise Vanished(f"{self.address}: {conflict}") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _greet(self, connection: Connection) -> None:
        page = not self._cache.active
        answer = self._say_hello(connection, page)
        if not page and self._cache.broker != who_greets(answer):
            self._say_hello(connection, True)

    def _say_hello(self, connection: Connection, page: bool) -> dict[str, Any]:
        hello = self._hello(connection.lane, page=page)
        answer: dict[str, Any]
        answer, files = connection.request_with_files(hello, self._patience)
        connection.bus = answer["bus"], answer["epoch"]
        if page:
            found = mapped(answer.get("page"), files)
            connection.heed(found.words)
            if not self._caches:
                return answer
            if self._cache.active:
                # That broker lives, but somebody has taken its address away. All threads of this
                # client go to the new one: what one has read there, others compare with its page.
                self._leave_all_but(connection)
            self._cache = Cache(found, self._cache, who_greets(answer))
        else:
            connection.heed(self._cache.words)
        return answer

    def _leave_all_but(self, connection: Connection) -> None:
        for other in self._connections.all():
            if other is not connection:
                other.interrupt()

    def _reconnect(self, before: Connection | None) -> Connection:
        """A new connection in the place of the one before; while there is no broker, try again
        until the time-out."""
        until = time.monotonic() + self._patience
        delay = RECONNECT_FIRST
        while True:
            self._check_open()
            try:
                if self._autostart:
                    self._start_broker()
                return self._connect(before)
            except BrokerUnavailable:
                left = until - time.monotonic()
                if left <= 0:
                    raise
            time.sleep(min(jittered(delay), left))
            delay = min(2 * delay, RECONNECT_MOST)

    def _start_broker(self) -> None:
        from .spawning import autostart_broker  # most programs never start one

        autostart_broker(self.address)

    def _uncertain(self, why: str, then: str = "") -> Error:
        return BrokerUnavailable(
            f"{self.address}: {why} before it answered; nobody knows whether the request was "
            f"carried out, so it was not sent again{then}"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this client is closed")

    # --- ends -------------------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        """So that what belongs to this client goes at once. Whoever cannot be told will notice."""
        connection = self._own.connection
        if connection is not None and connection.ready and connection.forks == len(FORKS):
            with contextlib.suppress(ConnectionEnded):  # by a kick, after which others came back
                self._goodbye_over(connection)
                return
        if self._stays:
            with contextlib.suppress(Error, ConnectionEnded):
                self._goodbye_over(self._connect(None, closing=True))

    def _goodbye_over(self, connection: Connection) -> None:
        with contextlib.suppress(Error):
            connection.request(requests.goodbye(), min(self._patience, GOODBYE_SECONDS))

    def _make_sure(self, call: Call[Any]) -> None:
        """Have something carried out, however long it takes, by a thread that no signal interrupts;
        after whatever this thread has sent, and does not know the fate of."""
        connection = self._own.connection
        self._own.connection = None
        make_sure(self, connection, call)

    def _put_right(
        self,
        call: Call[Any],
        attempt: Attempt | None = None,
        then: Callable[[Any], Call[Any] | None] | None = None,
    ) -> None:
        """The same, also when this client is closed meanwhile, or the program ends. With `attempt`,
        `call` is sent in its place; and `then` makes of its result what is to be sent after it."""
        connection = self._own.connection
        if attempt is None or attempt.connection in (None, connection):
            self._own.connection = None
        else:
            connection = attempt.connection
        put_right(self, connection, call, 0 if attempt is None else attempt.msgid, then)

    def _interrupt(self) -> None:
        """End all that is under way, in any thread."""
        self._cache = Cache(NO_PAGE, self._cache)
        for connection in self._connections.all():
            connection.interrupt()

    def after_fork_in_child(self) -> None:
        """The last step of it: `_forget_parent` and all that belongs to events come before."""
        self._forks = len(FORKS)

    def _forget_parent(self) -> None:
        self._session = os.urandom(8).hex()
        self._stays = False
        self._cache = self._cache.emptied()
        timeout, self._own = self._own.timeout, Own()
        self._own.timeout = timeout  # the block that this may be in goes on
        for connection in self._connections.all():
            connection.close()
        self._connections = Members()


def _uncertain_timeout(error: RequestTimeout) -> RequestTimeout:
    return RequestTimeout(f"{error}; nobody knows whether the request was carried out")

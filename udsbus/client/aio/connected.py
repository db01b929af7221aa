"""How an async client gets its connection, and another when that is lost."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import msgpack

from ...errors import BrokerUnavailable, Conflict, Error
from ...limits import RECONNECT_FIRST, RECONNECT_MOST, UNANSWERED_MOST
from ...terms import CloseReason
from .. import requests
from ..cache import NO_PAGE, Cache, mapped, who_greets
from ..connecting import Vanished, jittered, not_greeted, open_at_once, open_socket
from ..pulse import Pulse
from ..requests import error_from
from .asked import NEVER, wake, waker, woken
from .link import Link
from .session import AsyncSession

log = logging.getLogger("udsbus.client")

GOODBYE_SECONDS = 1.0
LANE = 1


class AsyncConnected(AsyncSession):
    """Connects when there is something to ask, to follow, or to keep, until it is closed."""

    _tasks: anyio.abc.TaskGroup
    _scopes: set[anyio.CancelScope]
    """Of the tasks that go on until the end."""

    def _start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that this client needs until it has ended: also while the block is cancelled
        and says goodbye."""
        self._tasks.start_soon(self._until_the_end, function)

    async def _until_the_end(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await function()
            finally:
                self._scopes.discard(scope)

    def _begin(self) -> None:
        super()._begin()
        self._pulse = Pulse(self._heartbeat, self.timeout)
        self._needed = waker(self._loop)
        """Wakes the task that connects."""
        self._changed = waker(self._loop)
        """Wakes it when the broker has greeted us, or the connection is over."""
        self._bus: tuple[str, int] | None = None
        """Which state the last connection led to, and its epoch."""
        self._since = 0.0
        """When the connection was there, or was lost."""
        self._told: tuple[str, str] | None = None
        """Why the broker ends this connection: (reason, message)."""
        self._refused: Error | None = None
        """Why it does not greet us."""

    async def _connect_first(self) -> None:
        """Who cannot connect shall hear of it now; but one that vanishes may have a successor."""
        until = monotonic() + self.timeout
        delay = RECONNECT_FIRST
        while True:
            try:
                await self._connect()
                return
            except Vanished:
                if monotonic() > until:
                    raise
            await anyio.sleep(jittered(delay))
            delay = min(2 * delay, RECONNECT_MOST)

    async def _keep_connected(self) -> None:
        delay = 0.0
        while True:
            if self._link is not None:
                self._changed = waker(self._loop)
                with anyio.move_on_after(self._pulse.left(monotonic())):
                    await woken(self._changed)
                self._look_for_signs()
                delay = 0.0
                continue
            if not self._wanted():
                self._needed = waker(self._loop)
                await woken(self._needed)
                delay = 0.0
            try:
                await self._connect()
            except Error as error:
                log.log(
                    logging.DEBUG if delay else logging.WARNING,
                    "%s: no connection: %s", self.address, error,
                )  # fmt: skip
                self._unreachable = error
                if not isinstance(error, BrokerUnavailable):
                    self._fail_all(error)
                delay = min(max(RECONNECT_FIRST, delay * 2), RECONNECT_MOST)
                self._needed = waker(self._loop)  # before the pause: somebody may ask in it
                await anyio.sleep(RECONNECT_FIRST)
                with anyio.move_on_after(jittered(delay) - RECONNECT_FIRST):
                    await woken(self._needed)  # by who has something new to ask

    def _look_for_signs(self) -> None:
        """Give the connection up when the broker has missed so many beats that it must hang."""
        link, now = self._link, monotonic()
        if link is None or self._pulse.left(now) > 0:
            return
        if not self._follows():
            self._pulse.rest(now)  # it beats for those who follow something
            return
        link._read()  # it may have beaten while this process was stopped
        now = monotonic()
        if self._pulse.is_over(now):
            silence = now - self._pulse.heard
            link._end(
                f"nothing was heard of the broker for {silence:.3g} s; it is stopped, or it hangs"
            )

    def _follows(self) -> bool:
        """Whether the broker was asked to tell of something over this connection."""
        return False

    def _wanted(self) -> bool:
        """Whether a connection is needed now."""
        return bool(self._asked) or self._stays

    def _need_connection(self) -> None:
        if self._link is None and self._thread:
            wake(self._needed)

    async def _connect(self) -> None:
        """Raises BrokerUnavailable, AccessDenied, or what the broker refuses us with."""
        if self._autostart:
            from ..spawning import autostart_broker  # most programs never start one

            await anyio.to_thread.run_sync(autostart_broker, self.address)
        sock = open_at_once(self.address) or await self._open()
        self._told = self._refused = None
        self._changed = waker(self._loop)
        link = self._link = Link(sock, self._received, self._ended)
        try:
            link.start(self._start)
            hello = requests.hello(
                self.name, self.session, LANE, self._metadata, UNANSWERED_MOST, self._heartbeat,
                page=self._caches,
            )  # fmt: skip
            link.send(msgpack.packb((0, 0, hello.method, hello.params)), True)
            with anyio.move_on_after(self.timeout):
                await woken(self._changed)
        finally:
            hung = not link.greeted and not link.closed
            if not link.greeted:
                link.close()
                self._link = None
        if isinstance(self._refused, Conflict):  # it was kicked; what was its is being removed
            raise Vanished(f"{self.address}: {self._refused}")
        if self._refused is not None:
            raise self._refused
        if hung:
            raise BrokerUnavailable(
                f"{self.address}: the broker is there, but did not answer within {self.timeout:g} s"
            )
        if not link.greeted:
            raise not_greeted(self.address, self._told)
        self._unreachable = None

    async def _open(self) -> socket.socket:
        """In a thread, because it takes a connect that blocks to wait for room in a listen queue;
        cancelled or not, its socket is not forgotten."""
        opened: list[socket.socket] = []
        given_up = False

        def open_one() -> None:
            opened.append(open_socket(self.address, self.timeout))
            if given_up:
                opened.pop().close()

        try:
            await anyio.to_thread.run_sync(open_one, abandon_on_cancel=True)
        except BaseException:
            given_up = True
            while opened:
                opened.pop().close()
            raise
        return opened.pop()

    # --- called by the link -------------------------------------------------------------------

    def _greeted(self, error: Any, result: Any) -> None:
        link = self._link
        assert link is not None
        if error is not None:
            self._refused = error_from(error, result)
            wake(self._changed)
            return
        link.greeted = True
        self._pulse.agree(result.get("heartbeat"), monotonic())
        found = mapped(result.get("page"), link.take_files())
        if self._caches:
            self._cache = Cache(found, self._cache, who_greets(result))
        before, self._bus = self._bus, (result["bus"], result["epoch"])
        away, self._since = monotonic() - self._since, monotonic()
        same_state = before is None or before[0] == self._bus[0]
        self._send_again(same_state, before == self._bus, away if before else 0.0)
        self._follow_again(same_state)
        wake(self._changed)

    def _follow_again(self, same_bus: bool) -> None:
        """Take up what is followed, on a connection that has just been made."""

    def _ended(self, why: str) -> None:
        """The connection is lost."""
        link, self._link = self._link, None
        self._cache = Cache(NO_PAGE, self._cache)
        if link is not None and link.greeted:
            lasted, self._since = monotonic() - self._since, monotonic()
            if self._told is not None:
                why = self._told[1]
            log.log(
                logging.INFO if self._closed else logging.WARNING,
                "%s: connection lost: %s", self.address, why,
            )  # fmt: skip
            self._unreachable = BrokerUnavailable(f"{self.address}: {why}")
            self._lost(lasted)
        wake(self._changed)

    def _received(self, messages: list[Any]) -> None:
        self._pulse.hear(monotonic())
        super()._received(messages)

    def _notified(self, kind: str, params: list[Any]) -> None:
        if kind == "closing":
            self._told = params[0], params[1]

    # --- ends ---------------------------------------------------------------------------------

    async def _say_goodbye(self) -> None:
        """So that what belongs to this client goes at once; after what has to be put right."""
        link = self._link
        if link is None and (self._stays or any(not a.abandoned for a in self._asked.values())):
            with anyio.move_on_after(GOODBYE_SECONDS):
                while self._link is None:
                    self._need_connection()
                    await anyio.sleep(RECONNECT_FIRST)
        with anyio.move_on_after(self.timeout):
            while self._link is not None and any(
                asked.then is not None or asked.insists for asked in self._asked.values()
            ):
                await anyio.sleep(RECONNECT_FIRST)
        if self._link is not None:
            asked = self._send(requests.goodbye(), NEVER, False)
            # What tasks that are woken by now would ask for has no session any more.
            self._closed = True
            with anyio.move_on_after(min(self.timeout, GOODBYE_SECONDS)):
                await self._answered(asked)
            if asked.error is not None:
                log.debug("%s: no goodbye: %s", self.address, asked.error)

    def _hang_up(self) -> None:
        self._cache = Cache(NO_PAGE, self._cache)
        link, self._link = self._link, None
        if link is not None:
            link.close()

    @property
    def _was_kicked(self) -> bool:
        return self._told is not None and self._told[0] == CloseReason.KICKED.value

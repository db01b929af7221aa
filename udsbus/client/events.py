"""The event connection of a sync client: one thread that reads what the broker sends unasked.

It starts with the first watch or subscription. Other threads note what is to be followed, and wake
it up; it compares that with what the broker was asked for, and asks for the rest. So nothing is
forgotten, whatever an interrupt cut short. When the connection is lost it reconnects, for as long
as it takes, and takes everything up again where it was.

One thing it shares: a thread that waits in `Watch.get` reads the connection itself. Handing each
event from this thread to the consumer would cost a second wake-up, which takes longer than all the
rest. Of several that wait one *leads*: it reads for all, and when it leaves, another does (the
leader/followers pattern of Schmidt et al.). While somebody leads, and for a moment after, this
thread steps aside; when the consumer is busy for longer, it reads. What keeps that in order:

    _reading   a lock; held by whoever reads and routes, for as long as that takes
    _taking    a lock for each thread; held by a consumer while it takes, mostly waiting
    _leader    the `_taking` of the consumer that leads; nobody does when it is not locked
    _waiting   the backlogs of the others that wait; the first is rung when the leader leaves
    _terms     counts who began to lead: it has changed, so the consumers are at it
    _resting   the event thread waits to be woken, and the leader does so when it leaves

Only the locks must be right. The others may be wrong for a moment, and after an interrupt for
longer: then two read in turn, or nobody does until RECHECK_SECONDS have passed.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

import msgpack

from ..errors import BrokerUnavailable, Error, InvalidRequest, RequestTimeout
from ..limits import RECONNECT_FIRST, RECONNECT_MOST, TIMEOUT_MOST
from ..terms import CloseReason
from ..wire.framing import NOTIFICATION, RESPONSE, Decoder
from .backlog import Backlog
from .connecting import jittered, open_socket
from .followed import Answer
from .follower import Follower
from .forks import FORKS, release
from .pulse import Pulse
from .requests import Call, error_from

log = logging.getLogger("udsbus.client")

ASIDE_SECONDS = 0.02
"""How long the event thread waits for a consumer to come back before it reads itself."""
RECHECK_SECONDS = 1.0
"""How long anybody relies on being woken up: an interrupt between two instructions can lose it."""
SWEEP_SECONDS = 10.0
"""How long the event thread does, which has more time: nobody waits for it."""
TORN = "interrupted while it was read"
CLOSE_SECONDS = 2.0
"""How long `close` waits for the thread to end; it ends by itself all the same."""

T = TypeVar("T")


class Taking(threading.local):
    """A lock for each thread, held while it is in `Events.take`, where it may hold others that the
    event thread needs. A mark would do, but no interrupt can leave `with lock` half done."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reads = False
        """It is in `Events._receive`, so that nobody can read until it goes on."""


def _await(backlog: Backlog[Any], poll: select.poll, seconds: float) -> list[int]:
    """The descriptors that are ready, the bell of `backlog` among them."""
    try:
        return [fd for fd, _ in poll.poll(seconds * 1000)]
    finally:
        backlog.forgo_bell()


class Events:
    def __init__(
        self,
        address: str,
        timeout: float,
        hello: Callable[[], Call[dict[str, Any]]],
        heartbeat: float | None,
    ) -> None:
        """`hello` says whose connection it is, and asks for the `heartbeat`."""
        self._address = address
        self._timeout = timeout
        self._hello = hello
        self._bus: str | None = None
        """Which start of the broker the followers' revisions belong to."""
        self.when_kicked: list[Callable[[], object]] = []
        """To be called when somebody ends this client's session."""
        self._followers: dict[int, weakref.ref[Follower[Any, Any]]] = {}
        """By serial number. Weak: a watch that nobody holds any more is over."""
        # A `hello` has as long as any request, or longer.
        self._pulse = Pulse(heartbeat, timeout)
        self._reset()

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a signal handler may come in the midst of this
        self._socket: socket.socket | None = None
        self._wake_read: socket.socket | None = None
        self._wake_write: socket.socket | None = None
        self._closing = False
        self._reading = threading.RLock()
        """Held by whoever reads the connection and routes what has come."""
        self._taking = Taking()
        self._leader: threading.Lock | None = None
        """The lock of the thread that leads: it does for as long as it holds the lock, so nobody
        can seem to lead who was interrupted. Two may lead for once; the second has nothing to
        read."""
        self._terms = 0
        """How often somebody began to lead."""
        self._waiting: list[Backlog[Any]] = []
        """What the others that wait want to take from."""
        self._resting = False
        """The event thread leaves the connection to the leader, until it is woken up."""
        self._unreachable: Error | None = None
        """Why there is no connection now."""
        self._failure: Exception | None = None
        """Why it cannot be read any more: for the event thread, if another has found out."""
        self._torn = False
        """What was received is being handed on; after that, this was interrupted."""
        self._answers: dict[int, tuple[Answer, Callable[[Error], None] | None]] = {}
        self._greeted = False
        self._begun: dict[int, Callable[[], Call[Any] | None]] = {}
        """What the broker was asked for on this very connection, by serial number, and how to tell
        it that it is over."""
        self._msgid = 0
        self._output = bytearray()
        self._forks = len(FORKS)

    # --- from any thread --------------------------------------------------------------------

    def follow(self, follower: Follower[Any, Any], timeout: float) -> None:
        """Start following and wait until the broker has confirmed it, at most `timeout` seconds.

        Raises what the broker refuses it with, RequestTimeout.
        """
        if self._taking.lock.locked():
            raise InvalidRequest("nothing can be watched from here: this interrupts `Watch.get`")
        try:
            self._followers[follower.serial] = weakref.ref(follower, self.look)
            if self._closing:  # only now: `close` may just have gone through the followers
                raise InvalidRequest("this client is closed")
            self.ensure_running()
            self.look()
            if not follower.confirmed.wait(timeout):
                raise self._unreachable or RequestTimeout(
                    f"no answer from the broker within {timeout:g} s"
                )
            if follower.refusal is not None:
                raise follower.refusal
        except BaseException:  # Ctrl-C too leaves nothing behind
            self.leave(follower)
            raise

    def leave(self, follower: Follower[Any, Any]) -> None:
        """Stop following. Does not wait."""
        self._followers.pop(follower.serial, None)
        follower.wake()
        self.look()

    @property
    def heard(self) -> float:
        """When something came over the connection last, by `monotonic`."""
        return self._pulse.heard

    @property
    def in_sync(self) -> bool:
        """Whether all that is followed is live, and the broker was heard of lately."""
        followers = self.followers()
        if not followers:
            return True
        if self._forks != len(FORKS) or self._socket is None or self._failure is not None:
            return False
        fresh = self._greeted and self._pulse.is_fresh(monotonic())
        return fresh and all(follower.live for follower in followers)

    def look(self, _: object = None) -> None:
        """Wake the event thread up. Takes no lock: the collector may call this anywhere."""
        if self._wake_write is not None:
            with contextlib.suppress(OSError):  # full: it will wake up anyway
                self._wake_write.send(b"!")

    def take(
        self, backlog: Backlog[Any], take: Callable[[], T | None], timeout: float | None
    ) -> T | None:
        """What `take` takes from `backlog`; None when nothing comes within `timeout` seconds, or it
        is closed. While it waits, the calling thread reads the connection too."""
        if self._taking.lock.locked():  # a signal handler: what it interrupted may be reading
            return self._take(backlog, take, timeout, may_lead=False)
        with self._taking.lock:
            return self._take(backlog, take, timeout, may_lead=True)

    def _take(
        self,
        backlog: Backlog[Any],
        take: Callable[[], T | None],
        timeout: float | None,
        may_lead: bool,
    ) -> T | None:
        if timeout is not None and type(timeout) not in (int, float):
            raise InvalidRequest(f"timeout must be a number of seconds, not {timeout!r}")
        until = None if timeout is None else monotonic() + min(timeout, TIMEOUT_MOST)
        while (item := take()) is None:
            self.ensure_running()
            left = RECHECK_SECONDS if until is None else min(until - monotonic(), RECHECK_SECONDS)
            if backlog.closed or left <= 0:
                return None
            if self._taking.reads:
                raise InvalidRequest("nothing can be waited for here: this interrupts `Watch.get`")
            bell = backlog.await_bell()
            if bell is None:
                continue
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            me = self._taking.lock
            try:
                if may_lead and not self._is_led():
                    self._leader = me
                    self._lead(backlog, poll, left)
                else:
                    if self._leader is me:
                        self._leader = None  # it is interrupted by this very call
                        self._hand_over()
                    self._waiting.append(backlog)
                    _await(backlog, poll, left)
            finally:
                if backlog in self._waiting:
                    self._waiting.remove(backlog)
                if may_lead and self._leader is me:
                    self._leader = None
                    self._hand_over()
        return item

    def _lead(self, backlog: Backlog[Any], poll: select.poll, seconds: float) -> None:
        """Wait for the connection too, and read what comes."""
        self._terms += 1
        sock = self._socket
        fd = sock.fileno() if sock is not None and self._failure is None else -1
        if fd >= 0:
            poll.register(fd, select.POLLIN)
        for ready in _await(backlog, poll, seconds):
            if ready == fd:
                self._read_aside()

    def _is_led(self) -> bool:
        return self._leader is not None and self._leader.locked()

    def _hand_over(self) -> None:
        """Nobody leads any more: let another consumer do it, else the event thread in time."""
        for backlog in self._waiting[:1]:
            backlog.ring()
        if self._resting:
            self.look()

    def _read_aside(self) -> None:
        """Read what has come, in another thread than the event thread."""
        with self._reading:
            if self._socket is None or self._failure is not None:
                return
            try:
                self._receive(self._socket)
            except Exception as failure:
                self._failure = failure
            except BaseException:  # Ctrl-C: what was received and not handed on yet is lost
                self._failure = ConnectionResetError(TORN)
                raise
            finally:
                if self._output or self._failure is not None:
                    self.look()

    def standstill(self) -> contextlib.AbstractContextManager[object]:
        """Within it nothing is read or routed: what has come has come to all who follow."""
        return self._reading

    def close(self) -> None:
        """End the thread and wake whoever waits. May be called in a callback."""
        with self._lock:
            self._closing = True
            thread = self._thread
        for follower in self.followers():
            self._followers.pop(follower.serial, None)
            if not follower.started:
                follower.refusal = InvalidRequest("this client is closed")
                follower.confirmed.open()
            follower.wake()
        if thread is not None and thread is not threading.current_thread():
            self.look()
            if not self._taking.lock.locked():  # else it may wait for what we interrupt
                thread.join(min(self._timeout, CLOSE_SECONDS))

    def abandon(self) -> None:
        """End the thread, since nobody can follow anything any more. Takes no lock, like `look`."""
        self._closing = True
        self.look()

    def pause(self) -> None:
        """Before a fork: let nobody be in the midst of routing, where the child would find a change
        that is noted as told and is in no backlog."""
        if not self._taking.lock.locked():
            self._reading.acquire()

    def go_on(self) -> None:
        """After the fork, in the parent."""
        if not self._taking.lock.locked():
            release(self._reading)

    def after_fork(self) -> None:
        """In a child: nothing of the parent's connection is ours, not even its thread."""
        for inherited in (self._socket, self._wake_read, self._wake_write):
            if inherited is not None:
                inherited.close()
        torn = self._torn
        self._reset()
        self._torn = torn
        self._interrupt()
        for follower in self.followers():
            follower.after_fork()

    def followers(self) -> list[Follower[Any, Any]]:
        """Those that are still held by somebody."""
        found = [reference() for reference in list(self._followers.values())]
        return [follower for follower in found if follower is not None]

    def ensure_running(self) -> None:
        """Start the thread if it is not there: at the first use, and in a child after a fork."""
        if self._forks != len(FORKS):
            self.after_fork()
        with self._lock:
            if self._thread is not None or self._closing:
                return
            self._wake_read, self._wake_write = socket.socketpair()
            self._wake_read.setblocking(False)
            self._wake_write.setblocking(False)
            try:
                self._thread = threading.Thread(target=self._run, name="udsbus-events", daemon=True)
                self._thread.start()
            except BaseException:
                self._thread = None
                raise

    # --- in the event thread ----------------------------------------------------------------

    def _run(self) -> None:
        with self._lock:
            if threading.current_thread() is not self._thread:
                return  # an interrupt came while this was started
        delay = 0.0
        while not self._closing:
            try:
                self._connect()
                self._unreachable = None
                self._serve()
            except (Error, OSError) as error:
                if self._closing:
                    break
                if isinstance(error, Error):
                    self._unreachable = error
                log.log(
                    logging.DEBUG if delay else logging.WARNING,
                    "events of %s interrupted: %s", self._address, error,
                )  # fmt: skip
            except Exception:
                log.exception("events of %s: unexpected failure; reconnecting", self._address)
            finally:
                self._disconnect()
            if self._greeted:
                delay, self._greeted = 0.0, False
            delay = min(max(RECONNECT_FIRST, delay * 2), RECONNECT_MOST)
            self._pause(jittered(delay))
        for wake in (self._wake_read, self._wake_write):
            if wake is not None:
                wake.close()

    def _pause(self, seconds: float) -> None:
        """Wait, but not for a client that is being closed."""
        assert self._wake_read is not None
        if not self._closing:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            poll.poll(seconds * 1000)
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)

    def _connect(self) -> None:
        self._socket = open_socket(self._address, self._timeout)
        self._leader = None  # who led the last connection does not lead this one
        self._decoder = Decoder()
        self._told = ""
        """Why the broker ends this connection."""
        self._failure = None
        self._answers.clear()
        self._begun.clear()
        self._output.clear()
        self._greeted = False
        self._pulse.begin(monotonic())
        self._ask(self._hello(), self._read_hello)

    def _read_hello(self, hello: Any) -> None:
        same_bus = self._bus in (None, hello["bus"])
        self._bus = hello["bus"]
        self._greeted = True
        self._pulse.agree(hello.get("heartbeat"), monotonic())
        self._reconcile(same_bus)

    def _reconcile(self, same_bus: bool = True) -> None:
        """Ask the broker for what is followed and was not asked for; end what is not followed."""
        if not self._greeted:
            return
        for serial, reference in list(self._followers.items()):
            follower = reference()
            if follower is None:
                self._followers.pop(serial, None)
            elif serial not in self._begun:
                self._begin(follower, same_bus)
        for serial in self._begun.keys() - self._followers.keys():
            self._tell_ceased(self._begun.pop(serial)())

    def _begin(self, follower: Follower[Any, Any], same_bus: bool) -> None:
        serial = follower.serial
        cease = self._begun[serial] = follower.ceaser()

        def ask(call: Call[Any], answer: Answer) -> None:
            def answered(result: Any) -> None:
                answer(result)
                if serial not in self._begun:
                    self._tell_ceased(cease())  # it was left before it had an answer

            if serial in self._begun:
                self._ask(call, answered, follower.refuse)

        try:
            follower.begin(ask, same_bus)
        except (ValueError, TypeError, OverflowError) as error:
            follower.refuse(InvalidRequest(f"this cannot be asked for: {error}"))

    def _tell_ceased(self, call: Call[Any] | None) -> None:
        if call is not None:
            self._ask(call, lambda _: None)

    def _ask(
        self, call: Call[Any], answer: Answer, refused: Callable[[Error], None] | None = None
    ) -> None:
        self._msgid = (self._msgid + 1) & 0xFFFF_FFFF
        self._answers[self._msgid] = answer, refused
        self._output += msgpack.packb((0, self._msgid, call.method, call.params))

    def _disconnect(self) -> None:
        with self._reading:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            self._interrupt()

    def _interrupt(self) -> None:
        """Tell those who follow that the connection is lost."""
        torn, self._torn = self._torn, False
        for follower in self.followers():
            if torn:
                follower.doubt()
            follower.interrupted(self.heard)

    def _serve(self) -> None:
        """Read and route until the connection ends."""
        assert self._socket is not None
        assert self._wake_read is not None
        sock, wake = self._socket, self._wake_read
        waker, everything = select.poll(), select.poll()
        waker.register(wake, select.POLLIN)
        everything.register(wake, select.POLLIN)
        terms = self._terms
        while not self._closing:
            with self._reading:
                if self._failure is not None:
                    raise self._failure
                self._flush()
                output = select.POLLOUT if self._output else 0
            terms, terms_before = self._terms, terms
            self._look_for_signs(sock)
            left = self._pulse.left(monotonic())
            aside = not output
            if aside and terms != terms_before:
                ready = waker.poll(ASIDE_SECONDS * 1000)
            elif aside and self._is_led():
                self._resting = True
                # Who has led until now sees that; who leads now will.
                seconds = min(RECHECK_SECONDS, left)
                ready = waker.poll(seconds * 1000) if self._is_led() else []
                self._resting = False
            else:
                everything.register(sock, select.POLLIN | output)
                ready = everything.poll(min(SWEEP_SECONDS, left) * 1000)
                if not ready:
                    with self._reading:
                        self._reconcile()
            for fd, events in ready:
                if fd == wake.fileno():
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(4096)
                    with self._reading:
                        self._reconcile()
                elif events & ~select.POLLOUT:
                    with self._reading:
                        if self._failure is None:
                            self._receive(sock)

    def _look_for_signs(self, sock: socket.socket) -> None:
        """Raise BrokerUnavailable when the broker has missed so many beats that it must hang."""
        now = monotonic()
        if self._greeted and not self._begun:
            self._pulse.rest(now)  # it beats for those who follow something
        elif self._pulse.left(now) <= 0:
            with self._reading:
                if self._failure is None:
                    self._receive(sock)  # it may have beaten while this process was stopped
            now = monotonic()
            if self._pulse.is_over(now):
                raise BrokerUnavailable(
                    f"nothing was heard of the broker for {now - self.heard:.3g} s; it is stopped, "
                    "or it hangs"
                )

    def _flush(self) -> None:
        assert self._socket is not None
        if self._output:
            with contextlib.suppress(BlockingIOError):
                del self._output[: self._socket.send(self._output)]

    def _receive(self, sock: socket.socket) -> None:
        """Read and route what has come. Not in the midst of itself: a signal handler, or a
        destructor that the collector calls here, is told by `take`."""
        if self._torn:
            raise ConnectionResetError(TORN)
        self._taking.reads = self._torn = True
        try:
            self._route(sock)
        except Exception:
            self._torn = False
            raise
        else:
            self._torn = False
        finally:
            self._taking.reads = False

    def _route(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(self._decoder.share)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError(self._told or "the broker closed the connection")
        self._pulse.hear(monotonic())
        for message in self._decoder.feed(data):
            if message[0] == RESPONSE:
                self._answered(message)
            elif message[1] == "closing":
                self._told = message[2][1]
                log.info("%s closes the event connection: %s", self._address, self._told)
                if message[2][0] == CloseReason.KICKED.value:
                    self._tell_kicked()
            elif message[1] == "ping":
                self._beat(message[2][0])
            else:
                for reference in list(self._followers.values()):
                    follower = reference()
                    if follower is not None:
                        follower.notified(message[1], message[2])
        if self._decoder.cause is not None:
            raise ConnectionResetError(f"the broker sent something else: {self._decoder.cause}")

    def _beat(self, revision: int) -> None:
        self._output += msgpack.packb((NOTIFICATION, "pong", (revision,)))
        for follower in self.followers():
            follower.beat(revision)

    def _tell_kicked(self) -> None:
        for function in self.when_kicked:
            try:
                function()
            except Exception:
                log.exception("%r failed, which was called because of a kick", function)

    def _answered(self, message: list[Any]) -> None:
        _, msgid, error, result = message
        answer, refused = self._answers.pop(msgid)
        if error is None:
            answer(result)
        elif refused is not None:
            refused(error_from(error, result))
        else:
            raise error_from(error, result)

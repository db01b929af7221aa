"""The process that serves, for functions that are no coroutines: one loop over its connections.

    wait → receive → call → send

With one call at a time, which is the rule, the function is called in the thread of the loop: what
waits for a thread to be woken takes longer than the rest of a call. With more at a time each has a
thread of its own. While a function runs in the loop, nothing is read; nobody sends anything either,
because nothing is free (free.py).
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from ..client.connection import ADVICE
from ..client.forks import FORKS
from ..errors import Error
from ..hub import READ, best_hub
from ..limits import REPLY_SPIN_SECONDS
from ..peers import peer_credentials
from ..spinning import Spinning
from ..wire.encoding import refusal
from .caller import BEAT_SECONDS, Caller
from .current import CurrentCall, current
from .endpoint import Endpoint, is_waited_for
from .frames import (
    Called,
    called,
    end_frame,
    failure_frame,
    fault_frame,
    item_frame,
    leaving_frame,
    refusal_frame,
    result_frame,
    stream_frame,
)
from .free import IDLE_SECONDS, Missing
from .offered import Function, Offered

log = logging.getLogger("udsbus.services")

COMING_SECONDS = 1.0
"""How long a worker that leaves waits for a call that somebody was about to send."""
AT_ONCE_BYTES = 64 * 1024
"""An answer that the kernel takes in any case, when nothing else is on its way."""
FULL_SECONDS = 0.01
"""Pause when there is no room for another connection."""


class Watchers(NamedTuple):
    """Who wants to know how a worker gets on, besides those who call."""

    done: Callable[[], None] = lambda: None
    """Told after each call."""
    beat: Callable[[float | None], None] = lambda since: None
    """Told now and then that it lives, with the time at which the oldest call in hand began; None:
    there is none."""


NOBODY = Watchers()


class Worker:
    """Serves one service. `run` is for one thread, `stop` for any."""

    def __init__(
        self,
        offered: Offered,
        endpoint: Endpoint,
        size: int,
        words: Callable[[], Sequence[int]],
        watchers: Watchers = NOBODY,
    ) -> None:
        """`size`: calls at once. `words` are of the version page, which says whether to poll."""
        self.offered = offered
        self.endpoint = endpoint
        self._size = size
        self._words = words
        self._done, self._beat = watchers
        self._slots = endpoint.slots
        self._callers: dict[int, Caller] = {}
        self._in_hand = 0
        self._begun = 0
        """Calls, ever."""
        self._missing = Missing()
        self._sending = 0
        """Answers on their way out."""
        self._began: dict[int, float] = {}
        """When each call in hand began, by the descriptor of its connection; not while whoever
        called is waited for."""
        self._counting = threading.Lock()
        self._spinning = Spinning(REPLY_SPIN_SECONDS)
        self._hub = best_hub()
        self._hub.add(endpoint.socket.fileno(), READ)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub.add(self._woken, READ)
        self._finished: deque[Caller] = deque()
        """Those whose call a thread has finished."""
        self._threads: SimpleQueue[tuple[Caller, Called] | None] | None = None
        """What the threads are to carry out, if there is more than one call at a time; None: they
        are to end."""
        if size > 1:
            self._threads = SimpleQueue()
            for number in range(size):
                name = f"udsbus {offered.service} {number}"
                threading.Thread(target=self._carry_out_apart, name=name, daemon=True).start()
        self._leaving = False
        self._coming = 0
        """Calls that somebody may have been about to send when it began to leave."""
        self._coming_until = 0.0
        self._until: float | None = None
        """When it leaves, whatever is in hand."""
        self._stop: float | None = None
        self._forks = len(FORKS)
        self._loop_thread = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Serve until it has left."""
        self._loop_thread = threading.get_ident()
        try:
            while not self._has_left():
                self._turn()
        finally:
            self._close()
            self.ended.set()

    def runs_here(self) -> bool:
        """Whether this thread is the one of the loop, or carries out a call."""
        return threading.get_ident() == self._loop_thread or current.get(None) is not None

    def stop(self, grace: float) -> None:
        """Take no more calls, finish those in hand within `grace` seconds, and end `run`."""
        self._stop = monotonic() + grace
        self._wake_up()

    def _wake_up(self) -> None:
        """The loop, from any thread, unless it has ended: the number may be another file's then."""
        with self._counting:
            if self._wake >= 0:
                with contextlib.suppress(BlockingIOError):  # it will wake up in any case
                    os.write(self._wake, b".")

    def leave(self, grace: float) -> None:
        """The same, for the thread of the loop."""
        if self._leaving:
            return
        now = monotonic()
        with self._counting:
            self._leaving = True
            self._coming = self._size - self._in_hand - self._slots.take_all()
        self._until = now + grace
        self._coming_until = now + COMING_SECONDS

    # --- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        ready = self._spinning.spin(self._hub.poll) if self._words()[ADVICE] else []
        if not ready:
            self._show()
            missing = self._put_lost_back()
            ready = self._hub.poll(self._patience(missing))
        for fd, _ in ready:
            caller = self._callers.get(fd)
            if caller is not None:
                self._read(caller)
            elif fd == self._woken:
                self._look()
            else:
                self._accept()
        if self._stop is not None:
            self.leave(max(0.0, self._stop - monotonic()))
            self._stop = None

    def _put_lost_back(self) -> bool:
        """Whether bytes are missing that may come back by themselves."""
        if self._leaving:
            return False
        with self._counting:
            lost = self._look_for_missing()
            if lost:
                self._slots.give(lost, self._in_hand)
            return self._missing.suspects or lost > 0

    def _look_for_missing(self) -> int:
        missing = self._size - self._in_hand - self._slots.free()
        return self._missing.look(missing, self._begun, monotonic())

    def _show(self) -> None:
        """Show that it lives, and since when the oldest call has been in hand."""
        self._beat(min(list(self._began.values()), default=None))

    def _patience(self, missing: bool) -> float:
        if self._leaving:
            return 0.02
        return IDLE_SECONDS if missing else BEAT_SECONDS

    def _has_left(self) -> bool:
        if not self._leaving:
            return False
        now = monotonic()
        if (self._in_hand or self._sending) and now < (self._until or now):
            return False
        return self._coming <= 0 or now > self._coming_until

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.endpoint.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                full = error.errno in (errno.EMFILE, errno.ENFILE)
                if not full or not is_waited_for(self.endpoint.socket) or not self._make_room():
                    return
                continue
            if peer_credentials(sock).uid not in (os.getuid(), 0):
                sock.close()
                continue
            sock.setblocking(False)
            caller = Caller(sock)
            self._callers[caller.fd] = caller
            self._hub.add(caller.fd, READ)

    def _make_room(self) -> bool:
        """This process can open no more files: close the connection that has been there longest and
        asks nothing. Who has it makes another when it wants to call."""
        idle = next((caller for caller in self._callers.values() if caller.idle), None)
        if idle is None:
            time.sleep(FULL_SECONDS)  # it would be told at once that somebody waits
            return False
        log.warning("%s: too many open files; a connection is closed", self.offered.service)
        idle.refuse()
        self._drop(idle)
        return True

    def _read(self, caller: Caller) -> None:
        alive = caller.receive()
        if caller.waiting:
            self._next(caller)
        elif not alive:
            self._drop(caller)

    def _next(self, caller: Caller) -> None:
        """Begin with what has come over a connection."""
        while caller.waiting and not caller.closed:
            message = caller.waiting.popleft()
            call = called(message)
            if call is None:
                log.warning("a connection is closed: %.100r is no call", message)
                self._drop(caller)
                return
            if self._leaving and self._coming <= 0:
                caller.send(leaving_frame(call.msgid))
                continue
            with self._counting:
                if self._leaving:
                    self._coming -= 1
                self._in_hand += 1
                self._begun += 1
                if self._missing.suspects:
                    self._look_for_missing()
            if self._threads is None:
                self._finish(caller, self._carry_out(caller, call))
            else:
                self._hub.remove(caller.fd)  # nobody reads it meanwhile
                caller.busy = True
                self._threads.put((caller, call))
                return

    def _finish(self, caller: Caller, good: bool) -> None:
        if not good:
            self._drop(caller)
        self._done()

    # --- one call -----------------------------------------------------------------------------

    def _carry_out_apart(self) -> None:
        """In a thread, until the worker has left."""
        assert self._threads is not None
        while (given := self._threads.get()) is not None:
            caller, call = given
            caller.failed = not self._carry_out(caller, call)
            self._finished.append(caller)
            self._wake_up()

    def _look(self) -> None:
        """What other threads have told."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)
        while self._finished:
            caller = self._finished.popleft()
            caller.busy = False
            if not caller.failed:
                self._hub.add(caller.fd, READ)
            self._finish(caller, not caller.failed)
            if caller.waiting and not caller.failed:
                self._next(caller)

    def _carry_out(self, caller: Caller, call: Called) -> bool:
        """Call the function and send what comes of it. False: nobody is there any more."""
        began = self._began[caller.fd] = monotonic()
        self._show()
        try:
            frame = self._called(caller, call, began)
        except BaseException:  # of what somebody has written, while it was looked at
            log.exception("%s: a call ended in a way that cannot be told", self.offered.service)
            frame = fault_frame(call)
        self._began.pop(caller.fd, None)
        if frame is None or (len(frame) <= AT_ONCE_BYTES and not caller.streams):
            # It is free before its answer is sent: whoever gets it may call again at once.
            self._is_free(sending=1)
            sent = frame is None or caller.send(frame)
            with self._counting:
                self._sending -= 1
        else:  # whoever called may take his time, in which nothing else could be done
            sent = caller.send(frame)
            self._is_free()
        caller.streams = False
        return sent and not caller.lost

    def _is_free(self, sending: int = 0) -> None:
        with self._counting:
            self._in_hand -= 1
            self._sending += sending
            self._slots.give(1, self._in_hand)

    def _called(self, caller: Caller, call: Called, began: float) -> bytes | None:
        """What to answer, at last; None: nothing any more."""
        until = None if call.seconds is None else began + call.seconds
        try:
            function = self.offered.find(call.method)
            args, kwargs = call.arguments()
            function.check(args, kwargs)
        except Error as error:
            return refusal_frame(call, refusal(error))
        if caller.given_up():
            caller.lost = True
            return None
        token = current.set(CurrentCall(function.name, until, caller.given_up))
        try:
            result = function.function(*args, **kwargs)
            if inspect.isgenerator(result):
                return self._stream(caller, call, function, result)
            frame = result_frame(call, function.name, result)
        except BaseException as error:
            if not isinstance(error, Exception):
                log.exception("%s raised %r", function.name, error)
            frame = failure_frame(call, error)
        finally:
            current.reset(token)
        late = until is not None and monotonic() > until
        return None if late else frame  # whoever called has given up, or is about to

    def _stream(
        self, caller: Caller, call: Called, function: Function, items: Iterator[Any]
    ) -> bytes | None:
        """Send what it yields. Returns its end; None: nobody takes it."""
        caller.streams = True
        if not caller.send(stream_frame(call)):
            caller.lost = True
            return None
        try:
            while not caller.given_up():
                try:
                    frame = item_frame(function.name, next(items))
                except StopIteration:
                    return end_frame()
                self._began.pop(caller.fd, None)  # whoever called takes his time, and not the call
                self._show()
                if not caller.send(frame, None, self._show):
                    break
                self._began[caller.fd] = monotonic()
                self._show()
                current.get().wait_for_more(call.seconds)
            caller.lost = True
            return None
        except BaseException as error:
            return end_frame(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                with contextlib.suppress(BaseException):
                    close()

    # --- ends ---------------------------------------------------------------------------------

    def _drop(self, caller: Caller) -> None:
        if self._callers.pop(caller.fd, None) is not None and not caller.closed:
            with contextlib.suppress(OSError, KeyError):
                self._hub.remove(caller.fd)
        caller.close()

    def _close(self) -> None:
        if self._forks == len(FORKS):  # else these are the parent's
            self.endpoint.close()
        for caller in list(self._callers.values()):
            caller.close()
        if self._threads is not None:
            for _ in range(self._size):
                self._threads.put(None)
        self._hub.close()
        os.close(self._woken)
        with self._counting:
            os.close(self._wake)
            self._wake = -1

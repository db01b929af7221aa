"""What the client's tests share: forked children, a proxy that cuts connections, a fake broker."""

from __future__ import annotations

import contextlib
import dis
import faulthandler
import functools
import itertools
import os
import pickle
import random
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Generic, TypeVar

import msgpack

import udsbus
import udsbus.client
import udsbus.primitives
from udsbus import CaughtUp
from udsbus.wire.encoding import encode_error
from udsbus.wire.framing import NOTIFICATION, REQUEST, Decoder

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something is taken to hang. Nothing that works comes near it."""


# --- children ---------------------------------------------------------------------------------


class Child(Generic[T]):
    """A forked process that carries out a function and hands back what it returns."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._results, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: "is multi-threaded"
            self.pid = os.fork()
        if self.pid == 0:
            _carry_out(function, theirs)
        os.close(theirs)
        self._ended = False

    def result(self) -> T:
        """What the function returned, when it has. Its exception fails the test."""
        data = b""
        until = time.monotonic() + PATIENCE
        try:
            while True:
                left = until - time.monotonic()
                if not select.select([self._results], [], [], max(left, 0))[0]:
                    os.kill(self.pid, signal.SIGUSR1)  # which makes it say where
                    time.sleep(0.5)
                    raise AssertionError(f"child {self.pid} hangs")
                part = os.read(self._results, 1 << 16)
                if not part:
                    break
                data += part
        finally:
            self.kill()
        assert data, f"child {self.pid} died without a word"
        succeeded, outcome = pickle.loads(data)
        assert succeeded, f"in child {self.pid}: {outcome}"
        return outcome  # type: ignore[no-any-return]

    def kill(self) -> None:
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._results)

    def __enter__(self) -> Child[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _carry_out(function: Callable[[], Any], results: int) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1)
        outcome = True, function()
    except BaseException:
        outcome = False, traceback.format_exc()
    with open(results, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))
    os._exit(0)


class Ticks:
    """SIGALRM again and again, without an exception; for the main thread of a child.

    Those that come while `tick` is called do not count.
    """

    def __init__(self, interval: float, most: int, tick: Callable[[int], object] = id) -> None:
        self.number = 0
        self._interval = interval
        self._most = most
        self._tick = tick
        self._busy = False

    def _handle(self, *_: object) -> None:
        if self._busy:
            return
        self.number += 1
        if self.number > self._most:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise AssertionError(f"after {self._most} signals it still waits")
        self._busy = True
        self._tick(self.number)
        self._busy = False

    def __enter__(self) -> Ticks:
        signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, self._interval, self._interval)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def in_child(function: Callable[[], T]) -> T:
    """What `function` returns in a forked process."""
    with Child(function) as child:
        return child.result()


def in_children(*functions: Callable[[], T]) -> list[T]:
    """The same for several at once."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(function)) for function in functions]
        return [child.result() for child in children]


# --- signals at every moment ------------------------------------------------------------------


def at_every_moment(
    action: Callable[[], object],
    strike: Callable[[], object],
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """Carry `action` out with `strike` at the first moment within the client at which CPython could
    call a signal handler, then at the second, and so on. Yields the number after each. `prepare` is
    called before each action.

    Such moments are the entry of a function, the end of a call of a C function, and the end of a
    turn of a loop; not, for one, between the end of a `with` block and its `__exit__`. CPython
    raises at the end of the instruction, and this at the start of the next, so moments between
    instructions with different exception handlers are left out.
    """
    for moment in itertools.count(1):
        prepare()
        if not _carry_out_struck(action, moment, strike):
            return
        yield moment


def _carry_out_struck(
    action: Callable[[], object], moment: int, strike: Callable[[], object]
) -> bool:
    passed = 0
    last: dict[FrameType | None, tuple[str, int | None]] = {}
    """The instruction that a frame has carried out last, and where it handles exceptions."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal passed
        if event == "call":
            if frame.f_back in last:
                last[frame.f_back] = "CALL of a Python function", None
            if not frame.f_code.co_filename.startswith(CLIENT):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            now = instructions(frame.f_code)[frame.f_lasti]
            before, handler = last.get(frame, ("", None))
            if before in HANDLING and handler == now[1]:
                passed += 1
                if passed == moment:
                    sys.settrace(None)
                    strike()
            last[frame] = now
        return trace

    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return passed >= moment


CLIENT = tuple(path for package in (udsbus.client, udsbus.primitives) for path in package.__path__)
HANDLING = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
"""Instructions after which CPython looks whether a signal has come."""


@functools.cache
def instructions(code: CodeType) -> dict[int, tuple[str, int | None]]:
    """By offset: the name of the instruction, and the offset of its exception handler."""
    bytecode = dis.Bytecode(code)

    def handler(offset: int) -> int | None:
        for entry in bytecode.exception_entries:  # type: ignore[attr-defined]
            if entry.start <= offset < entry.end:
                return int(entry.target)
        return None

    return {each.offset: (each.opname, handler(each.offset)) for each in bytecode}


# --- threads ----------------------------------------------------------------------------------


class Task(Generic[T]):
    """A function in a thread of its own, with its result."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._function())
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, seconds: float = PATIENCE) -> T:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def in_threads(*functions: Callable[[], T]) -> list[T]:
    """What the functions return, all of them carried out at once."""
    return [task.result() for task in [Task(function) for function in functions]]


# --- changes ----------------------------------------------------------------------------------


def take(
    source: udsbus.Watch[Any], until: Callable[[udsbus.Change], bool], most: int = 1_000_000
) -> list[udsbus.Change]:
    """The changes from `source`, up to the first for which `until` is true."""
    changes: list[udsbus.Change] = []
    while len(changes) < most:
        change = source.get(timeout=PATIENCE)
        assert change is not None, f"no more changes after {changes[-3:]}"
        if isinstance(change, CaughtUp):
            continue
        changes.append(change)
        if until(change):
            return changes
    raise AssertionError(f"not among {most} changes")


def take_number(source: udsbus.Watch[Any], number: int) -> list[udsbus.Change]:
    """The next `number` changes."""
    found: list[udsbus.Change] = []
    while len(found) < number:
        change = source.get(timeout=PATIENCE)
        assert change is not None, f"{number - len(found)} changes are missing"
        if not isinstance(change, CaughtUp):
            found.append(change)
    return found


def catches_up(source: udsbus.Watch[udsbus.Change | CaughtUp]) -> CaughtUp:
    """The next thing that `source` tells, which is that it has caught up."""
    told = source.get(timeout=PATIENCE)
    assert isinstance(told, CaughtUp), told
    return told


def replay(changes: list[udsbus.Change], state: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state that a follower of `changes` comes to believe in."""
    state = {} if state is None else state
    for change in changes:
        if change.kind in ("deleted", "expired"):
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


def catch_up(source: udsbus.Watch[Any], state: dict[str, Any], truth: dict[str, Any]) -> None:
    """Follow `source` until the state that it tells of is the truth."""
    until = time.monotonic() + PATIENCE
    while state != truth:
        change = source.get(timeout=max(until - time.monotonic(), 0))
        assert change is not None, f"{state} is told of, {truth} is the truth"
        if not isinstance(change, CaughtUp):
            replay([change], state)


# --- a proxy ----------------------------------------------------------------------------------


class Proxy:
    """Stands before a broker and cuts the connections of watches and subscriptions at will, at any
    byte."""

    def __init__(self, address: str, broker: str) -> None:
        self.cuts = 0
        self._broker = broker
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(100)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._followers: set[socket.socket] = set()
        """The broker's side of the connections that have asked to be told of something."""
        self._wanted = 0
        self._cut = threading.Event()
        self._stopping = False
        self._open = True
        self._random = random.Random(1)
        self._task = Task(self._run)

    def cut(self) -> None:
        """Cut each connection that watches or subscribes. Waits until there is one."""
        self._cut.clear()
        self._wanted += 1
        assert self._cut.wait(PATIENCE)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Cut them, and let nobody in meanwhile."""
        self._open = False
        self.cut()
        yield
        self._open = True

    def close(self) -> None:
        self._stopping = True
        self._task.result()
        for sock in [*self._peers, self._listener]:
            sock.close()
        self._selector.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        done = 0
        while not self._stopping:
            if done != self._wanted and self._followers:
                done = self._wanted
                for sock in list(self._followers):
                    self._cut_off(sock)
                self._cut.set()
            for key, _ in self._selector.select(0.002):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._peers:
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._open:
            client.close()
            return
        broker = socket.socket(socket.AF_UNIX)
        broker.connect(self._broker)
        self._peers[client], self._peers[broker] = broker, client
        for sock in (client, broker):
            self._selector.register(sock, selectors.EVENT_READ, data=sock is client)

    def _forward(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
            if self._selector.get_key(sock).data and (b"\xa5watch" in data or b"\xa9subsc" in data):
                self._followers.add(self._peers[sock])
            self._peers[sock].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(sock)

    def _cut_off(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            waiting = sock.recv(1 << 16, socket.MSG_DONTWAIT)
            self._peers[sock].sendall(waiting[: self._random.randrange(len(waiting) + 1)])
        self.cuts += 1
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        for each in (sock, self._peers.pop(sock)):
            self._peers.pop(each, None)
            self._followers.discard(each)
            self._selector.unregister(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # to close is not enough: forked children hold it
            each.close()


# --- a fake broker ----------------------------------------------------------------------------


class Hangup(Exception):
    """Raised by the answering function of a `FakeBroker`: the connection ends here."""


class Silence(Exception):
    """Raised by the answering function of a `FakeBroker`: there will be no answer."""


class FakeBroker:
    """Speaks the protocol and answers what a test tells it to.

    `answer(method, params)` returns the result, or bytes to send instead of a response, or raises
    what refuses. `hello` it answers by itself.
    """

    def __init__(
        self, address: str, answer: Callable[[str, list[Any]], Any], *, queue: int = 100
    ) -> None:
        self.requests: list[str] = []
        """The methods asked for, without `hello`."""
        self.accepting = threading.Event()
        """While it is cleared, connections wait in the listen queue, of length `queue`."""
        self.accepting.set()
        self.answer = answer
        """May be replaced at any time."""
        self.hello: bytes | None = None
        """What it responds to `hello`, if not the usual."""
        self.bus = "fake"
        self.epoch = 1
        self.sent: list[tuple[int, str, list[Any]]] = []
        """Each request, `hello` too: msgid, method, params."""
        self.heartbeat: float | None = None
        """What it agrees to; it does not beat by itself."""
        self.page: Any = None
        """What it says of its version page."""
        self.files: list[int] = []
        """Descriptors that it hands over with the answer to `hello`."""
        self.notified: list[tuple[str, list[Any]]] = []
        """Each notification."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(queue)
        self._connections: list[socket.socket] = []
        self._task = Task(self._accept)

    def send(self, data: bytes) -> None:
        """To everyone who is connected."""
        for sock in list(self._connections):
            with contextlib.suppress(OSError):
                sock.sendall(data)

    def hang_up(self) -> None:
        """End every connection."""
        while self._connections:
            with contextlib.suppress(OSError):
                self._connections.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.accepting.set()
        self._task.result()
        self._listener.close()
        self.hang_up()

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while self.accepting.wait():
                select.select([self._listener], [], [])
                if not self.accepting.is_set():
                    continue
                sock, _ = self._listener.accept()
                self._connections.append(sock)
                Task(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        decoder = Decoder()
        with sock, contextlib.suppress(OSError, Hangup):
            while data := sock.recv(1 << 16):
                for message in decoder.feed(data):
                    if message[0] == NOTIFICATION:
                        self.notified.append((message[1], message[2]))
                        continue
                    kind, msgid, method, params = message
                    assert kind == REQUEST
                    with contextlib.suppress(Silence):
                        response = self._respond(msgid, method, params)
                        if method == "hello" and self.files:
                            sent = socket.send_fds(sock, [response], self.files)
                            response = response[sent:]
                        sock.sendall(response)

    def _respond(self, msgid: int, method: str, params: list[Any]) -> bytes:
        self.sent.append((msgid, method, params))
        if method == "hello":
            result: Any = self.hello or {
                "bus": self.bus, "epoch": self.epoch, "revision": 0, "heartbeat": self.heartbeat,
                "page": self.page,
            }  # fmt: skip
        elif method == "batch":
            self.requests += [each for each, _ in params[0]]
            results = [self.answer(*request) for request in params[0]]
            broken = [each for each in results if isinstance(each, bytes)]
            result = broken[0] if broken else [results, {}]
        else:
            self.requests.append(method)
            try:
                result = self.answer(method, params)
            except udsbus.Error as error:
                return encode_error(msgid, error)
        if isinstance(result, bytes):
            return result
        return msgpack.packb([1, msgid, None, result])  # type: ignore[no-any-return]


def notification(name: str, *params: Any) -> bytes:
    return msgpack.packb([NOTIFICATION, name, list(params)])  # type: ignore[no-any-return]


def fill_queue(address: str) -> list[socket.socket]:
    """Connect until the listen queue is full."""
    waiting: list[socket.socket] = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:
            sock.close()
            return waiting
        waiting.append(sock)


# --- processes --------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still, as one that hangs; and goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone that need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(PATIENCE * 1000), f"process {pid} goes on"
    finally:
        os.close(descriptor)

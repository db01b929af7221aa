"""A program in any language that is asked over its stdin and answers over its stdout.

    {"id": 1, "method": "add", "args": [2, 3], "kwargs": {}}
    {"id": 1, "result": 5}                or   {"id": 1, "error": "why not"}

One line of JSON each, or with `msgpack` the same maps, back to back (forms.py). One request at a
time. What the program writes to stderr is its log. A program that may print anything is asked over
pipes of its own instead, and what it prints to stdout is log too.

A worker has one program, and they end together. When the program ends, or closes its stdin or
stdout, the worker ends as one that has crashed. When what the program says next could be the answer
to something else, the worker ends too, after the call in hand has got its error, so that another
begins afresh. No other call is begun in between: those that have been sent already go to others.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn, TypeGuard

from ..errors import InvalidRequest, ProtocolError, RemoteError
from ..services.current import CurrentCall, current_call
from ..services.offered import AnyMethod
from .descendants import with_descendants
from .forms import FORMS, NOTHING

READ_BYTES = 256 * 1024
LOOK_SECONDS = 0.1
"""So often it is looked whether anybody still waits, and whether the program still runs."""
ENDING_SECONDS = 1.0
"""So long a program may take to end that has closed its stdin or stdout."""
SHOWN_LINES = 10
"""Of what is printed between two calls."""
SHOWN_BYTES = 500
"""Of each of these lines."""
KEPT_BYTES = 64 * 1024
"""Of what it prints while it ends."""


REQUESTS, ANSWERS = "UDSBUS_REQUESTS", "UDSBUS_ANSWERS"
"""Variables with the names by which a program opens its private pipes."""


class _Ended(Exception):
    """The program has; or as good as: how."""


class Program:
    """Owns the process. `offered` is called, then `done`, in one thread, `end` in any."""

    def __init__(
        self,
        command: list[str],
        form: str,
        renew: Callable[[], NoReturn],
        ended: Callable[[], NoReturn],
        private: bool = False,
    ) -> None:
        """`renew` ends this worker so that another takes its place, `ended` as one that has
        crashed. `private`: what it prints is its log, and it is asked over pipes that two variables
        name. Raises InvalidRequest when there is no such program."""
        self._command = command[0]
        self._form = FORMS[form]()
        self._renew, self._ended = renew, ended
        self._number = 0
        self._over = False
        """What it says next could be the answer to something else."""
        self._calling = False
        self._in_hand = threading.Lock()
        """Held while a call is, until its answer is sent; by whoever ends the program, too."""
        requests, self._in = os.pipe()
        self._out, answers = os.pipe()
        for end in (self._in, self._out):  # of ours only: the program has others
            os.set_blocking(end, False)
        try:
            self._process = (
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=(requests, answers),
                    env={
                        **os.environ,
                        REQUESTS: f"/dev/fd/{requests}", ANSWERS: f"/dev/fd/{answers}",
                    },
                )
                if private
                else subprocess.Popen(command, stdin=requests, stdout=answers)
            )  # fmt: skip
        except OSError as error:
            raise InvalidRequest(f"cannot start {self._command!r}: {error.strerror}") from None
        finally:
            os.close(requests)
            os.close(answers)
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._woken, self._wake = os.pipe()
        """For whoever watches it, to stop that."""
        threading.Thread(target=self._watch, daemon=True).start()

    def offered(self) -> AnyMethod:
        """What is served: whatever is called is passed on."""
        return AnyMethod(self._method)

    def pids(self) -> list[int]:
        """Its own, and those of all that it has started."""
        return with_descendants(self._process.pid)

    def done(self) -> None:
        """Called when the answer to a call was sent. This worker may end now."""
        if self._over:
            self._process.kill()
            self._renew()
        if self._calling:
            self._calling = False
            self._in_hand.release()

    def end(self, seconds: float) -> None:
        """Close its stdin, and wait until it ends, for so long at most. It is killed then."""
        if not self._in_hand.acquire(blocking=False):
            return  # its call is still in hand, or it has just ended by itself
        until = monotonic() + seconds
        os.write(self._wake, b".")  # for the kernel keeps a file open for whoever polls it
        os.close(self._in)
        said, more = bytearray(), 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            while self._process.poll() is None and (left := until - monotonic()) > 0:
                if not self._poll.poll(min(left, LOOK_SECONDS) * 1000):
                    continue
                data = self._read()
                if data == b"":
                    self._process.wait(left)
                kept = (data or b"")[: KEPT_BYTES - len(said)]
                said += kept
                more += len(data or b"") - len(kept)
        self._log(self._form.rest() + bytes(said) + self._there(), more)
        if self._process.poll() is None:
            self._say("it has not ended within the grace, and is killed")
            self._process.kill()
        elif self._process.returncode:
            self._say(f"has ended ({_how(self._process.returncode)})")

    # --- one call -----------------------------------------------------------------------------

    def _method(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            return self._ask({"method": name, "args": list(args), "kwargs": kwargs})

        return ask

    def _ask(self, request: dict[str, Any]) -> Any:
        packed = self._form.pack({"id": self._number + 1, **request})
        self._in_hand.acquire()
        self._calling = True
        self._number += 1
        self._log(self._form.rest() + self._there())  # since its last answer: it is nobody's
        try:
            answer = self._exchange(packed)
        except _Ended as ended:
            self._die(str(ended))
        except BaseException as error:
            self._over = True
            self._say(f"{error}; another is started in its place")
            raise
        if answer.get("error") is not None:
            raise RemoteError(str(answer["error"]))
        if "result" not in answer:
            raise ProtocolError(f"the program answered without a result: {answer!r:.200}")
        return answer["result"]

    def _exchange(self, packed: bytes) -> Any:
        """Write the request, and read until its answer is there.

        Raises ProtocolError, TimeoutError, _Ended.
        """
        call = current_call()
        rest = memoryview(packed)
        answer: Any = NOTHING
        look = monotonic() + LOOK_SECONDS
        while rest or answer is NOTHING:
            ended = ""
            try:
                rest = self._write(rest)
            except BrokenPipeError:
                ended = "has closed its stdin"
            if not ended:
                self._wait(bool(rest))
                if monotonic() > look:
                    ended = self._looked(call, rest)
                    look = monotonic() + LOOK_SECONDS
            data = self._there() if ended else self._read()
            if data:
                self._form.feed(data)
            elif data == b"":
                ended = ended or "has closed its stdout"
            if answer is NOTHING:
                answer = self._next()
            if ended and answer is NOTHING:
                raise _Ended(ended)
            if ended:  # these were its last words
                return answer
        return answer

    def _looked(self, call: CurrentCall, rest: memoryview) -> str:
        """How the program has ended; "": it has not. Raises TimeoutError when nobody waits."""
        if self._process.poll() is not None:
            return "has ended"
        if not call.cancelled:
            return ""
        said = self._form.begun()
        if rest:
            what = "it has not read all of the call"
        else:
            what = f"nothing but {said}" if said else "nothing at all; does it flush its answers?"
        who = "in time" if call.seconds_left == 0.0 else "before whoever called was gone"
        raise TimeoutError(f"has not answered {call.function} {who} ({what})")

    def _next(self) -> Any:
        """The answer to this call, or NOTHING; those to earlier ones are left out."""
        while True:
            answer = self._form.next()
            if answer is NOTHING:
                return answer
            number = answer.get("id") if type(answer) is dict else None
            if not _is_number(number) or not 0 < number <= self._number:
                raise ProtocolError(
                    f"the program answered with {answer!r:.200}, which is no answer"
                )
            if number == self._number:
                return answer

    # --- its pipes, which never block ---------------------------------------------------------

    def _write(self, rest: memoryview) -> memoryview:
        """Some of it. Returns what is left. Raises BrokenPipeError."""
        try:
            return rest[os.write(self._in, rest) :] if rest else rest
        except BlockingIOError:
            return rest

    def _read(self) -> bytes | None:
        """Some of what it has said; None: it has said nothing; b"": that was the end."""
        try:
            return os.read(self._out, READ_BYTES)
        except BlockingIOError:
            return None

    def _there(self) -> bytes:
        """What it has said and nobody has read, now: it may say more and more."""
        count = array.array("i", [0])
        fcntl.ioctl(self._out, termios.FIONREAD, count)
        return os.read(self._out, count[0]) if count[0] else b""

    def _wait(self, writing: bool) -> None:
        """Until something can be read or written, or it is time to look."""
        if writing:
            self._poll.register(self._in, select.POLLOUT)
        self._poll.poll(LOOK_SECONDS * 1000)
        if writing:
            self._poll.unregister(self._in)

    # --- its end ------------------------------------------------------------------------------

    def _watch(self) -> None:
        """In a thread: when the program ends, so does this worker, though nobody asks it."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._in, 0)
        poll.register(self._out, 0)
        patience: float | None = LOOK_SECONDS * 1000
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                poll.register(os.pidfd_open(self._process.pid), select.POLLIN)
                patience = None
        while not (ready := poll.poll(patience)) and self._process.poll() is None:
            pass
        closed = {fd for fd, _ in ready}
        if self._woken not in closed:
            self._in_hand.acquire()  # its last answer may still be read
            self._die("has closed its stdout" if self._out in closed else "has closed its stdin")

    def _die(self, how: str) -> NoReturn:
        """End at once: whoever called sees that its call is lost, and tries again if it may."""
        try:
            how = f"has ended ({_how(self._process.wait(ENDING_SECONDS))})"
        except subprocess.TimeoutExpired:
            self._process.kill()
            how = f"{how}, and is killed"
        self._log(self._form.rest() + self._there())
        self._say(how)
        self._ended()

    # --- the log ------------------------------------------------------------------------------

    def _log(self, said: bytes, more: int = 0) -> None:
        """What it has printed and nobody has asked for, and so many bytes that were not kept."""
        lines = said.split(b"\n")
        for line in lines[:SHOWN_LINES]:
            text = line[:SHOWN_BYTES].decode(errors="backslashreplace").rstrip()
            if text:
                self._say(f"has printed what is no answer: {text}")
            more += len(line[SHOWN_BYTES:])
        more += len(b"\n".join(lines[SHOWN_LINES:]))
        if more:
            self._say(f"… and {more} bytes more")

    def _say(self, what: str) -> None:
        with contextlib.suppress(OSError):  # the pool is dead, and nobody reads it
            print(f"{self._command}: {what}", file=sys.stderr, flush=True)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"

"""A program in any language that is asked over its stdin and answers over its stdout.

    {"id": 1, "method": "add", "args": [2, 3], "kwargs": {}}
    {"id": 1, "result": 5}                or   {"id": 1, "error": "why not"}

One line of JSON each, or with `msgpack` the same maps, back to back. One request at a time. What
the program writes to stderr is its log. An answer that is none fails the call that it came for, and
no other. When the program ends, the worker ends with it, as one that has crashed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack

from ..errors import InvalidRequest, ProtocolError
from ..limits import FRAME_BYTES
from ..services.current import current_call
from ..services.offered import AnyMethod

ENDED = 1
"""The exit code of a worker whose program has ended."""


class CommandFailed(Exception):
    """The program has answered with an error."""


class Program:
    def __init__(
        self, command: list[str], form: str, started: Callable[[int], None] = lambda pid: None
    ) -> None:
        """`started` is told each pid. Raises InvalidRequest when there is no such program."""
        self._started = started
        self._command = command
        self._form = form
        self._number = 0
        self._asking = False
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def offered(self) -> AnyMethod:
        """What is served: whatever is called is passed on."""
        return AnyMethod(self._method)

    def _method(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            return self._ask({"method": name, "args": list(args), "kwargs": kwargs})

        return ask

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise InvalidRequest(f"cannot start {self._command[0]!r}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._started(self._process.pid)
        watching = threading.Thread(target=self._watch, args=(self._process,), daemon=True)
        watching.start()
        self._begun = b""
        self._unpacker = msgpack.Unpacker(max_buffer_size=FRAME_BYTES)

    def _restart(self) -> None:
        """What it says now is the answer to something else."""
        before, self._process = self._process, None
        if before is not None:
            before.kill()
            before.wait()
        self._start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """In a thread: when the program ends, so does this worker, though nobody asks it."""
        process.wait()
        while self._asking and process is self._process:
            time.sleep(0.01)  # its last answer may still be read
        if process is self._process:
            self._died()

    def _ask(self, request: dict[str, Any]) -> Any:
        self._number += 1
        request = {"id": self._number, **request}
        try:
            packed: bytes = (
                json.dumps(request).encode() + b"\n"
                if self._form == "json"
                else msgpack.packb(request)
            )
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the arguments have no form in {self._form}: {error}") from None
        self._asking = True
        try:
            self._discard()
            self._write(packed)
            answer = self._answer()
            while type(answer) is dict and self._is_late(answer.get("id")):
                answer = self._answer()
        except BrokenPipeError:
            self._died()
        finally:
            self._asking = False
        if type(answer) is not dict or answer.get("id") != self._number:
            raise ProtocolError(f"the program answered with {answer!r:.200}, which is no answer")
        if answer.get("error") is not None:
            raise CommandFailed(str(answer["error"]))
        if "result" not in answer:
            raise ProtocolError(f"the program answered without a result: {answer!r:.200}")
        return answer["result"]

    def _is_late(self, number: Any) -> bool:
        """Whether an answer is to a call that has failed already."""
        return type(number) is int and 0 < number < self._number

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._in, rest) :]

    def _discard(self) -> None:
        """What it has printed since its last answer is nobody's."""
        while select.select([self._out], [], [], 0)[0]:
            if not self._receive():
                self._died()
        if self._begun:
            print(f"printed unasked: {self._begun[:200]!r}", file=sys.stderr)
            self._begun = b""

    def _answer(self) -> Any:
        call = current_call()
        while True:
            if self._form == "json":
                line, newline, rest = self._begun.partition(b"\n")
                if newline:
                    self._begun = rest
                    try:
                        return json.loads(line)
                    except ValueError:
                        raise ProtocolError(
                            f"the program answered with {line[:200]!r}, which is no JSON"
                        ) from None
            else:
                try:
                    for answer in self._unpacker:
                        return answer
                except Exception as error:  # msgpack raises many kinds
                    self._restart()
                    raise ProtocolError(f"the program sent no MessagePack: {error}") from None
            if len(self._begun) > FRAME_BYTES:
                self._restart()
                raise ProtocolError(f"the program answered with more than {FRAME_BYTES} bytes")
            if not select.select([self._out], [], [], 0.1)[0]:
                if call.cancelled:  # nobody waits, and its answer must not be the next one's
                    self._restart()
                    raise TimeoutError("nobody waits any more; the program was started again")
            elif not self._receive():
                self._died()

    def _receive(self) -> bool:
        """Take what has come. False: it was the end."""
        try:
            data = os.read(self._out, 256 * 1024)
        except BlockingIOError:
            return True
        if self._form == "json":
            self._begun += data
        elif data:
            self._unpacker.feed(data)
        return bool(data)

    def _died(self) -> Any:
        """End at once: whoever called sees that its call is lost, and tries again if it may."""
        assert self._process is not None
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        print(f"{self._command[0]} has ended ({how})", file=sys.stderr, flush=True)
        os._exit(ENDED)

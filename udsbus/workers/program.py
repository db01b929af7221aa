"""What runs in a process of the pool: `python -m udsbus.workers.program CONFIGURATION`.

It tells the pool over a socket, in lines: `ready`, and `renew REASON` when another should take its
place; it goes on until that is there. When the pool is dead, that socket is at its end, and the
worker ends too.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from ..client.sync import Client
from ..errors import BrokerUnavailable, InvalidRequest, RequestTimeout
from ..limits import MIB
from ..services.collection import Declared
from ..services.serving import Served, serve_until_told
from ..services.worker import Watchers
from .beats import Beats

if TYPE_CHECKING:
    from .stdio import Program

NOT_LOADED = 78
"""The exit code when there is nothing to serve (EX_CONFIG of sysexits.h)."""
RENEW = 79
"""When another is to begin afresh in the place of this one, which is well but for what it asks."""
ENDED = 1
"""When the program has ended that this one asks."""
NO_BROKER = 69
"""When there is no broker to tell that it serves (EX_UNAVAILABLE)."""
FAILED = 1
WRONG = (SyntaxError, ImportError, NameError, AttributeError, TypeError, SystemExit)
"""What a module raises that is not as it should be, so that to load it again would not help."""
OURS = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(importlib.__file__) + os.sep,
    "<frozen importlib",
)
"""How the names of files begin that load it."""
TOLD_SECONDS = 60.0
"""After so long a worker tells again that another should take its place: that may have failed."""
MEMORY_SECONDS = 0.25
"""So often at most a worker looks how much memory it uses."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the pool tells its workers."""

    address: str
    name: str
    """Of the client."""
    app: str | None
    """`module:app`; None: a command is asked over its stdin."""
    command: list[str]
    format: str
    """How the command is spoken to: `json` or `msgpack`."""
    service: str | None
    retry: int
    concurrency: int
    max_calls: int | None
    max_bytes: int | None
    grace: float
    private: bool = False
    """The command is asked over pipes of its own, and not over its stdin."""
    control: int = -1
    """The descriptor of the socket to the pool."""
    beats: int = -1
    """The descriptor of its beats."""

    def packed(self, control: int, beats: int) -> str:
        return json.dumps({**asdict(self), "control": control, "beats": beats})


class Limits:
    """After how much another worker is to begin afresh in the place of this one."""

    def __init__(self, configuration: Configuration, pids: Callable[[], list[int]]) -> None:
        """`pids`: of the processes whose memory counts."""
        self._pids = pids
        most = configuration.max_calls
        # Not all of a pool at once.
        self._calls = None if most is None else max(1, round(most * random.uniform(0.9, 1.1)))
        self._most_bytes = configuration.max_bytes
        self._bytes: int | None = None
        """None: they do not count, or not yet."""
        self.done = 0
        """Calls."""
        self._looked = 0.0

    def begin(self) -> None:
        """It has loaded what it serves."""
        most = self._most_bytes
        if most is None or (used := self._used()) <= most:
            self._bytes = most
        else:
            print(
                f"udsbus worker: --max-memory is less than what a worker uses when it begins "
                f"({used / MIB:.0f} MiB), so it does not count",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def _used(self) -> int:
        return sum(map(resident_bytes, self._pids()))

    def reached(self) -> str | None:
        """Why that is so now; None: it is not."""
        if self._calls is not None and self.done >= self._calls:
            return f"it has carried out {self.done} calls"
        if self._bytes is not None and monotonic() - self._looked > MEMORY_SECONDS:
            self._looked = monotonic()
            if (used := self._used()) > self._bytes:
                return f"it uses {used / MIB:.0f} MiB of memory"
        return None


def resident_bytes(pid: int) -> int:
    """Memory of a process. Where the system does not say, the most that this one ever had."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if pid == os.getpid() else 0


def main() -> int:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    configuration = Configuration(**json.loads(sys.argv[1]))
    control = socket.socket(fileno=configuration.control)
    atexit.register(_end_group, control)  # what is registered first comes last
    threading.Thread(target=_end_with_pool, args=(control,), daemon=True).start()
    beats = Beats(configuration.beats)
    try:
        declared, program = _declared(configuration, control)
        return _serve(configuration, control, beats, declared, program)
    except (BrokerUnavailable, RequestTimeout) as error:
        print(f"udsbus worker: {error}", file=sys.stderr)
        return _leave(control, NO_BROKER)
    except InvalidRequest as error:
        print(f"udsbus worker: {error}", file=sys.stderr)
        return _leave(control, NOT_LOADED)
    except BaseException as error:
        _print(error)
        return _leave(control, NOT_LOADED if isinstance(error, WRONG) else FAILED)


def _print(error: BaseException) -> None:
    """Without the frames of what has only loaded it."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename.startswith(OURS):
        found = found.tb_next
    if isinstance(error, SystemExit):
        print(f"udsbus worker: the module ends its process: {error}", file=sys.stderr)
    else:
        traceback.print_exception(type(error), error, found)


def _serve(
    configuration: Configuration,
    control: socket.socket,
    beats: Beats,
    declared: list[Declared],
    program: Program | None,
) -> int:
    """Until it is told to end."""
    told = 0.0
    limits = Limits(configuration, lambda: [os.getpid(), *(program.pids() if program else [])])

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):  # the pool is dead, and so shall we be
            control.send(line.encode() + b"\n")

    def done() -> None:
        nonlocal told
        if program is not None:
            program.done()
        limits.done += 1
        look()

    def look() -> None:
        nonlocal told
        why = limits.reached() if monotonic() > told + TOLD_SECONDS or not told else None
        if why is not None:
            told = monotonic()
            tell(f"renew {why}")

    def beat(number: int, since: float | None) -> None:
        beats.beat(number, since)
        if since is None:
            look()

    with Client(configuration.address, name=configuration.name) as client:
        for number, (name, target, retry, concurrency) in enumerate(declared):
            watchers = Watchers(done, partial(beat, number))
            client._served.append(Served(client, name, target, retry, concurrency, watchers))
        limits.begin()
        since = serve_until_told(client._served, configuration.grace, lambda: tell("ready"))
    if program is not None:
        program.end(configuration.grace - (monotonic() - since))
        return _leave(control, 0)
    # What the program has left to be done at its end is done, but a thread that carries out a call
    # for ever does not keep it alive.
    left = max(0.0, configuration.grace - (monotonic() - since))
    last = threading.Timer(left, _leave, (control, 0))
    last.daemon = True
    last.start()
    return 0


def _declared(
    configuration: Configuration, control: socket.socket
) -> tuple[list[Declared], Program | None]:
    if configuration.app is not None:
        from .loading import load

        return load(
            configuration.app, configuration.service, configuration.retry,
            configuration.concurrency,
        ), None  # fmt: skip
    from .stdio import Program

    renew, ended = partial(_leave, control, RENEW), partial(_leave, control, ENDED)
    program = Program(
        configuration.command, configuration.format, renew, ended, configuration.private
    )
    assert configuration.service is not None
    declared = Declared(configuration.service, program.offered(), configuration.retry, 1)
    return [declared], program


def _leave(control: socket.socket, code: int) -> NoReturn:
    """End at once: a thread that carries out a call for ever would keep it alive. What this process
    has started ends too: the pool sees to that, or if it is dead, this does."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # of a dead pool, nobody reads it
            stream.flush()
    _end_group(control)
    os._exit(code)


def _end_group(control: socket.socket) -> None:
    """If the pool is dead: all that this process has started, and itself."""
    if _is_closed(control) and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _is_closed(control: socket.socket) -> bool:
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:  # it died without reading what we told
        return True


def _end_with_pool(control: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it died without reading what we told
        while control.recv(100):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

"""`udsbus serve` and `udsbus takeover`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from importlib.util import find_spec
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from ..errors import BrokerUnavailable, Conflict, RequestTimeout
from ..interpreter import python
from ..limits import HISTORY_CHANGES, HISTORY_SECONDS, HUNG_SECONDS, SNAPSHOTS_KEPT
from ..paths import default_state, lock_path, log_path
from .options import (
    COUNT,
    Age,
    Command,
    PatternAge,
    Seconds,
    Whole,
    address,
    socket_option,
    timeout,
    timeout_option,
)
from .outcomes import DONE, REFUSED
from .output import complain, shown, write_line

if TYPE_CHECKING:
    from ..broker import Inherited, Settings
    from ..faults import Fault

READY = b"ready\n"
OF_THE_FIRST = {
    "--detach": False,
    "--ready-fd": True,
    "--inherit": True,
    "--from": True,
    "--faults": True,
    "--socket": True,
}
"""Options that a standby is not given, or not as they were, and whether a value follows."""


@click.command("takeover", cls=Command)
@timeout_option
@socket_option
def takeover_command() -> int:
    """Let a new process go on with the bus, without an interruption.

    For an upgrade: the new process is the program as it is installed now. It inherits the socket;
    clients reconnect by themselves, and what they had asked is answered once. Prints its pid.
    """
    from ..client import requests
    from .asking import Asker

    where, seconds = address(), timeout()
    until = monotonic() + seconds
    bus = Asker(where, seconds)
    before = bus.ask(requests.info())
    if before["durability"] == "none":
        raise Conflict("this broker keeps nothing, so no other process can go on with its state")
    while before["standby"] is None:
        if monotonic() > until:
            raise Conflict("this broker has no standby; was it started with --alone?")
        sleep(0.05)
        before = bus.ask(requests.info())
    os.kill(before["pid"], signal.SIGUSR2)
    epoch = bus.ask(requests.hello(None))["epoch"]
    while monotonic() < until:
        with contextlib.suppress(BrokerUnavailable):
            now = Asker(where, until - monotonic()).ask(requests.hello(None))
            if now["epoch"] > epoch:
                write_line(str(now["pid"]))
                return DONE
        sleep(0.02)
    raise RequestTimeout(f"no other process had taken over within {seconds:g} s; see the log")


@click.command("serve", cls=Command)
@socket_option
@click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True,
    help="Event loop to run on.",
)  # fmt: skip
@click.option(
    "--durability", type=click.Choice(["none", "process", "disk"]), default="process",
    show_default=True,
    help="What a reply to a write promises: nothing beyond the life of the broker; that the write "
    "survives the end of every process, and after a second a power failure too; or that it is on "
    "the disk.",
)  # fmt: skip
@click.option(
    "--state", metavar="DIR", type=click.Path(file_okay=False),
    help="Directory for what is to survive. Default: one for each socket, under "
    "$XDG_STATE_HOME/udsbus or ~/.local/state/udsbus.",
)  # fmt: skip
@click.option(
    "--alone", is_flag=True,
    help="Run without a standby, the second process that takes over when this one dies or hangs.",
)  # fmt: skip
@click.option(
    "--hung-after", metavar="SECONDS", type=Seconds(1e6, least=1.0), default=HUNG_SECONDS,
    show_default=True,
    help="Broker and standby take each other for hung when they have heard nothing for so long.",
)  # fmt: skip
@click.option(
    "--history", metavar="AGE", type=Age(), default=HISTORY_SECONDS, show_default="7d",
    help="How long to keep the history of changes: 90s, 15m, 12h, 7d; 0 for not at all.",
)  # fmt: skip
@click.option(
    "--history-changes", metavar="N", type=Whole(0), default=HISTORY_CHANGES, show_default=True,
    help="How many changes of it to keep.",
)  # fmt: skip
@click.option(
    "--history-of", metavar="PATTERN=AGE", type=PatternAge(), multiple=True,
    help="How long to keep that of the keys that match; may be given again, the first one counts.",
)  # fmt: skip
@click.option(
    "--from", "snapshot", metavar="SNAPSHOT", type=click.Path(dir_okay=False),
    help="Begin with what a snapshot holds. The state directory must be empty.",
)  # fmt: skip
@click.option(
    "--snapshot-every", metavar="AGE", type=Age(), default=0.0,
    help="Take a snapshot so often, 1d for instance, into `snapshots` in the state directory.",
)  # fmt: skip
@click.option(
    "--snapshots", metavar="N", type=COUNT, default=SNAPSHOTS_KEPT, show_default=True,
    help="How many of these to keep.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log connections too.")
@click.option(
    "--detach", is_flag=True,
    help="Go on in the background once it serves, and log to a file beside the socket.",
)  # fmt: skip
@click.option("--lifeline-fd", type=int, hidden=True, help="Stop when its other end closes.")
@click.option("--ready-fd", type=int, hidden=True, help="Tell `ready` here.")
@click.option("--faults", hidden=True, help="What shall go wrong, for a test, in JSON.")
@click.option("--inherit", hidden=True, help="Stand by, with what the broker has left.")
def serve_command(
    backend: str,
    durability: str,
    state: str | None,
    alone: bool,
    hung_after: float,
    history: float,
    history_changes: int,
    history_of: tuple[tuple[str, float], ...],
    snapshot: str | None,
    snapshot_every: float,
    snapshots: int,
    verbose: bool,
    detach: bool,
    lifeline_fd: int | None,
    ready_fd: int | None,
    faults: str | None,
    inherit: str | None,
) -> int:
    """Run a broker until SIGTERM or Ctrl-C, and its standby.

    Either is a success. Refuses (exit code 3) when another one serves that socket, and names its
    pid; takes over the socket that a dead one has left behind. What was in the state directory is
    there again.
    """
    if durability == "none" and state is not None:
        raise click.UsageError("--state is for what survives: not with --durability none")
    if durability == "none" and (snapshot is not None or snapshot_every):
        raise click.UsageError("snapshots are for what survives: not with --durability none")
    if find_spec(backend) is None:
        raise click.UsageError(f"--backend {backend} needs a package: pip install {backend}")
    from ..broker import Inherited, Settings
    from ..broker.pair import can_pair
    from ..broker.supervised import given_socket
    from ..journal.folding import Retention

    given = given_socket()
    where = address() if given is None else given[1]
    pair = durability != "none" and not alone and can_pair()
    settings = Settings(
        where,
        backend,  # type: ignore[arg-type]
        lifeline_fd,
        durability=durability,  # type: ignore[arg-type]
        state=_state_directory(where, durability, state),
        standby=_standby_command(where) if pair else (),
        folds=durability != "none" and not pair,
        hung_seconds=hung_after,
        retention=Retention(history, history_changes, history_of, snapshot_every, snapshots),
        faults=_faults(faults),
        given=None if given is None else given[0],
        snapshot=None if snapshot is None else os.path.abspath(os.path.expanduser(snapshot)),
    )
    if inherit is not None:
        return _serve(settings, verbose, None, inherited=Inherited.from_text(inherit))
    if not detach:
        return _serve(settings, verbose, ready_fd)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child:
        theirs.close()
        if ours.recv(len(READY)) != READY:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ready_fd is None:
            write_line(f"pid {child}, log {shown(log_path(where))}")
        return DONE
    ours.close()
    os.setsid()
    return _serve(settings, verbose, ready_fd, parent=theirs)


def _standby_command(where: str) -> tuple[str, ...]:
    """This command once more, as it was given, with what a standby needs to know as its end."""
    arguments, skip = [], False
    for argument in sys.argv[1:]:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif name in OF_THE_FIRST:
            skip = OF_THE_FIRST[name] and not equals
        else:
            arguments.append(argument)
    # The address too: it may come from the environment, or from the service manager.
    return (*python(), "-m", "udsbus", *arguments, "--socket", where, "--inherit")


def _faults(text: str | None) -> tuple[Fault, ...]:
    if text is None:
        return ()
    from ..faults import Fault

    return tuple(Fault(**fields) for fields in json.loads(text))


def _state_directory(where: str, durability: str, state: str | None) -> str:
    if durability == "none":
        return ""
    return default_state(where) if state is None else os.path.abspath(os.path.expanduser(state))


def _serve(
    settings: Settings,
    verbose: bool,
    ready_fd: int | None,
    parent: socket.socket | None = None,
    inherited: Inherited | None = None,
) -> int:
    from ..broker import run

    early = _log_to_stderr(verbose)
    where = settings.address

    def started() -> None:
        if parent is not None:
            _leave_terminal(where)
            early.tell_again()
        early.close()
        logging.getLogger("udsbus.broker").info("serving %s", where)
        for waiting in (parent, socket.socket(fileno=ready_fd) if ready_fd is not None else None):
            if waiting is not None:
                with waiting:
                    waiting.sendall(READY)

    try:
        over = run(settings, started, inherited)
        if over and settings.lifeline is not None:
            _remove_traces(where)
    except BrokerUnavailable as error:
        # Not "no broker": there is one, and that is the trouble.
        complain(str(error))
        return REFUSED
    except OSError as error:
        if not error.errno:  # one of ours, which says more
            raise
        complain(f"cannot serve {where}: {error.strerror}; choose another --socket")
        return REFUSED
    return DONE


def _remove_traces(where: str) -> None:
    """Of a private broker: if its program was killed, nobody else does."""
    with contextlib.suppress(OSError):
        os.unlink(lock_path(where))
        os.unlink(log_path(where))
        os.rmdir(os.path.dirname(where))


class _Early(logging.Handler):
    """What is logged before a broker serves: for whoever starts it, and for the log file too."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def tell_again(self) -> None:
        for record in self._records:
            self._handler.handle(record)

    def close(self) -> None:
        logging.getLogger().removeHandler(self)
        self._records.clear()
        super().close()


def _log_to_stderr(verbose: bool) -> _Early:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _SafeFormatter("%(asctime)s udsbus[%(process)d] %(levelname)s %(message)s")
    )
    early = _Early(handler)
    logging.basicConfig(level=logging.INFO, handlers=[handler, early])
    logging.getLogger("udsbus").setLevel(logging.DEBUG if verbose else logging.INFO)
    return early


class _SafeFormatter(logging.Formatter):
    """One line a record, whatever a client calls itself; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, *info: Any) -> str:
        return shown(super().formatException(*info), keep="\n")


def _leave_terminal(where: str) -> None:
    """Errors until now were for whoever started us; from here on the log is."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    log = os.open(log_path(where), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for opened, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(opened, standard)
    os.close(null)
    os.close(log)

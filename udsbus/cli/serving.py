"""`udsbus serve`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from ..errors import BrokerUnavailable
from ..paths import default_state, lock_path, log_path
from .options import Command, address, socket_option
from .outcomes import DONE, REFUSED
from .output import complain, shown, write_line

if TYPE_CHECKING:
    from ..broker import Settings

READY = b"ready\n"


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
@click.option("-v", "--verbose", is_flag=True, help="Log connections too.")
@click.option(
    "--detach", is_flag=True,
    help="Go on in the background once it serves, and log to a file beside the socket.",
)  # fmt: skip
@click.option("--lifeline-fd", type=int, hidden=True, help="Stop when its other end closes.")
@click.option("--ready-fd", type=int, hidden=True, help="Tell `ready` here.")
def serve_command(
    backend: str,
    durability: str,
    state: str | None,
    verbose: bool,
    detach: bool,
    lifeline_fd: int | None,
    ready_fd: int | None,
) -> int:
    """Run a broker until SIGTERM or Ctrl-C.

    Either is a success. Refuses (exit code 3) when another one serves that socket, and names its
    pid; takes over the socket that a dead one has left behind. What was in the state directory is
    there again.
    """
    if durability == "none" and state is not None:
        raise click.UsageError("--state is for what survives: not with --durability none")
    if find_spec(backend) is None:
        raise click.UsageError(f"--backend {backend} needs a package: pip install {backend}")
    from ..broker import Settings

    where = address()
    settings = Settings(
        where,
        backend,  # type: ignore[arg-type]
        lifeline_fd,
        durability=durability,  # type: ignore[arg-type]
        state=_state_directory(where, durability, state),
    )
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


def _state_directory(where: str, durability: str, state: str | None) -> str:
    if durability == "none":
        return ""
    return default_state(where) if state is None else os.path.abspath(os.path.expanduser(state))


def _serve(
    settings: Settings,
    verbose: bool,
    ready_fd: int | None,
    parent: socket.socket | None = None,
) -> int:
    from ..broker import run

    _log_to_stderr(verbose)
    where = settings.address

    def started() -> None:
        if parent is not None:
            _leave_terminal(where)
        logging.getLogger("udsbus.broker").info("serving %s", where)
        for waiting in (parent, socket.socket(fileno=ready_fd) if ready_fd is not None else None):
            if waiting is not None:
                with waiting:
                    waiting.sendall(READY)

    try:
        run(settings, started)
        if settings.lifeline is not None:
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


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _SafeFormatter("%(asctime)s udsbus[%(process)d] %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("udsbus").setLevel(logging.DEBUG if verbose else logging.INFO)


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

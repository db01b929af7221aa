"""`udsbus serve`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from importlib.util import find_spec
from typing import Any

import click

from ..errors import BrokerUnavailable
from ..paths import lock_path, log_path
from .options import Command, address, socket_option
from .outcomes import DONE, REFUSED
from .output import complain, shown, write_line

READY = b"ready\n"


@click.command("serve", cls=Command)
@socket_option
@click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True,
    help="Event loop to run on.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log connections too.")
@click.option(
    "--detach", is_flag=True,
    help="Go on in the background once it serves, and log to a file beside the socket.",
)  # fmt: skip
@click.option("--lifeline-fd", type=int, hidden=True, help="Stop when its other end closes.")
@click.option("--ready-fd", type=int, hidden=True, help="Tell `ready` here.")
def serve_command(
    backend: str, verbose: bool, detach: bool, lifeline_fd: int | None, ready_fd: int | None
) -> int:
    """Run a broker until SIGTERM or Ctrl-C.

    Either is a success. Refuses (exit code 3) when another one serves that socket, and names its
    pid; takes over the socket that a dead one has left behind. The state is in memory in this
    release: it ends with the broker.
    """
    if find_spec(backend) is None:
        raise click.UsageError(f"--backend {backend} needs a package: pip install {backend}")
    where = address()
    if not detach:
        return _serve(where, backend, verbose, lifeline_fd, ready_fd)
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
    return _serve(where, backend, verbose, lifeline_fd, ready_fd, parent=theirs)


def _serve(
    where: str,
    backend: str,
    verbose: bool,
    lifeline_fd: int | None,
    ready_fd: int | None,
    parent: socket.socket | None = None,
) -> int:
    from ..broker import Settings, run

    _log_to_stderr(verbose)

    def started() -> None:
        if parent is not None:
            _leave_terminal(where)
        logging.getLogger("udsbus.broker").info("serving %s", where)
        for waiting in (parent, socket.socket(fileno=ready_fd) if ready_fd is not None else None):
            if waiting is not None:
                with waiting:
                    waiting.sendall(READY)

    try:
        run(Settings(where, backend, lifeline_fd), started)  # type: ignore[arg-type]
        if lifeline_fd is not None:
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

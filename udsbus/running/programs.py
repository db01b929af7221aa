"""What both ways to run a command know of commands, signals and terminals."""

from __future__ import annotations

import os
import shutil
import signal

from .launching import NOT_EXECUTABLE, NOT_FOUND

PASSED_ON = ("SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2")
OF_TERMINALS = ("SIGINT", "SIGQUIT", "SIGWINCH")
"""A terminal sends these to its whole foreground."""


def why_not(program: str) -> tuple[int, str] | None:
    """If a program cannot be run, the exit code and what to say."""
    if shutil.which(program) is not None:
        return None
    if os.path.exists(program):
        text = f"{program}: this cannot be run: it is a directory, or not executable"
        return NOT_EXECUTABLE, text
    return NOT_FOUND, f"{program}: there is no such command"


def has_terminal() -> bool:
    """Whether this process belongs to a terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def exit_code(ended: int) -> int:
    """As a shell tells it; `ended` is negative for a signal.

    Raises KeyboardInterrupt if it was that of Ctrl-C, so that a shell ends its loop.
    """
    if ended == -signal.SIGINT:
        raise KeyboardInterrupt
    return ended if ended >= 0 else 128 - ended

"""How a process becomes a command: at the end of a fork, or run as a program of its own.

As a program it is for those who have threads already and therefore must not fork: the child might
wait for ever for a lock that another thread had. `posix_spawn` starts Python with this file, which
becomes the command. So it imports nothing of udsbus.

    python launching.py DESCRIPTOR PARENT PATH COMMAND [ARGUMENT]...
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SET_PARENT_DEATH_SIGNAL = 1
SET_CHILD_SUBREAPER = 36
"""Of prctl."""


def die_with_parent() -> None:
    """Be killed when the thread ends that made this process; on Linux."""
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of what children leave behind, so that its end is told; on Linux."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(argument), *[ctypes.c_ulong(0)] * 3)


def become(command: Sequence[str], fails: int, path: Sequence[str]) -> NoReturn:
    """Replace this process by a command, which is looked for in these directories; if that fails,
    write the errno to a descriptor, and end."""
    code = NOT_EXECUTABLE
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        _execute(command, path)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            code = NOT_FOUND
        os.write(fails, bytes([min(error.errno or 255, 255)]))
    finally:
        os._exit(code)


def _execute(command: Sequence[str], path: Sequence[str]) -> NoReturn:
    """As `os.execvp`, which looks where the environment says that the command is given."""
    name = command[0]
    refusal: OSError | None = None
    absence: OSError = FileNotFoundError(errno.ENOENT, name)
    for directory in [""] if os.path.dirname(name) else path:
        file = os.path.join(directory, name)
        try:
            try:
                os.execv(file, list(command))
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execv("/bin/sh", ["sh", file, *command[1:]])  # it does not say what runs it
        except (FileNotFoundError, NotADirectoryError) as error:
            absence = error
        except OSError as error:
            refusal = refusal or error
    raise refusal or absence


def _main(fails: int, parent: int, path: str, command: Sequence[str]) -> NoReturn:
    os.set_inheritable(fails, False)  # closed by becoming the command
    die_with_parent()
    if os.getppid() != parent:
        os._exit(0)  # it is dead already
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # no traceback before this
    become(command, fails, path.split(os.pathsep))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])

"""Where a worker listens: a socket and a pipe beside the broker's socket, in a directory of their
own, and with names that nobody had before.

    ADDRESS.workers/NAME.sock    calls come here
    ADDRESS.workers/NAME.free    a byte for each call that it could take (free.py)
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from pathlib import Path

from ..paths import ensure_private_directory, workers_directory
from .free import MAKING, Slots, is_stale
from .inherited import not_for_children

NAME_BYTES = 8
"""Of chance in a name, in hexadecimal."""
MAKING_TRIES = 100


class Endpoint:
    """Owns the files, and what is open of them."""

    def __init__(self, address: str, slots: int) -> None:
        """Raises OSError, AccessDenied for a directory of somebody else."""
        self.name = os.urandom(NAME_BYTES).hex()
        folder = folder_of(address)
        self.path = str(folder / self.name)
        """Without the ending."""
        for attempt in range(MAKING_TRIES):
            try:
                ensure_private_directory(str(folder))
                _sweep(folder)
                self.slots = Slots(self.path + ".free", slots)
                break
            except FileNotFoundError:  # the last worker has just gone, and its directory with it
                if attempt == MAKING_TRIES - 1:
                    raise
        try:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            self.slots.close()
            os.unlink(self.path + ".free")
            raise
        not_for_children(self.socket)
        try:
            self.socket.bind(self.path + ".sock")
            self.socket.setblocking(False)
            self.socket.listen(socket.SOMAXCONN)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove all of it."""
        self.socket.close()
        self.slots.close()
        for ending in (".sock", ".free"):
            with contextlib.suppress(OSError):
                os.unlink(self.path + ending)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.path))  # if nobody else is in it


def is_waited_for(listening: socket.socket) -> bool:
    """Whether somebody wants to connect: a process that can open no more files is not told."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def folder_of(address: str) -> Path:
    """Of all workers of a bus."""
    return Path(workers_directory(address, 2 * NAME_BYTES + len(".free")))


def _sweep(folder: Path) -> None:
    """Remove what workers have left that were killed. The pipe is made first and removed last, and
    its worker has it open in between; so a socket without a pipe is nobody's either. One that was
    just made, and not opened yet, may go too: its maker begins again."""
    for pipe in (*folder.glob("*.free"), *folder.glob("*.free" + MAKING)):
        if is_stale(str(pipe)):
            for path in (pipe.with_suffix(".sock"), pipe):
                path.unlink(missing_ok=True)

"""Who is at the other end of a Unix socket, from the kernel."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import NamedTuple

SO_PEERPIDFD = 77


class Peer(NamedTuple):
    """`pid` is 0 where the kernel does not say."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> Peer:
    """For a broker, who connected; for a client, who listens.

    SO_PEERCRED; on macOS and BSD LOCAL_PEERCRED, which has no pid.
    """
    if hasattr(socket, "SO_PEERCRED"):
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Peer(*struct.unpack("3i", data))
    # struct xucred: version, uid, number of groups, (padding), groups
    data = sock.getsockopt(0, 1, 76)
    _, uid, _, gid = struct.unpack_from("IIhxxI", data)
    return Peer(0, uid, gid)


class Process(NamedTuple):
    """A process by which no other is meant: pids come again."""

    pid: int
    started: int
    """In clock ticks since the boot."""
    boot: str


def process_of(pid: int) -> Process | None:
    """The process that has a pid now; None: there is none, or the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[19]), boot_id())


def process_descriptor(process: Process, sock: socket.socket | None = None) -> int:
    """A descriptor that becomes readable when the process ends; -1: there can be none. `sock` is a
    socket that it has connected, by which the kernel knows it for sure."""
    fd = -1
    if sock is not None:
        with contextlib.suppress(OSError):  # Linux before 6.5, and other systems
            fd = struct.unpack("i", sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    if fd < 0 and process.started and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(process.pid)
            if process_of(process.pid) != process:  # it has died, and another has its pid
                os.close(fd)
                fd = -1
    return fd


def boot_id() -> str:
    """What this boot of the machine is called; "" if the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""

"""Who is at the other end of a Unix socket, from the kernel."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple


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

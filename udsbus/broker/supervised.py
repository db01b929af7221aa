"""Under a service manager: saying how it stands, and serving a socket that was opened for us.

The protocol is that of systemd (sd_notify(3), sd_listen_fds(3)), which others speak too. After a
takeover another process is the main one, and says so; the unit needs NotifyAccess=all.
"""

from __future__ import annotations

import logging
import os
import socket

from ..errors import InvalidRequest

log = logging.getLogger("udsbus.broker")

FIRST_DESCRIPTOR = 3


def notify(**facts: object) -> None:
    """Tell the service manager, if there is one: `notify(READY=1)`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in facts.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(message.encode())
        except OSError as error:
            log.warning("the service manager cannot be told: %s", error)


def given_socket() -> tuple[int, str] | None:
    """The listening socket that the service manager has opened for this process, and its address;
    None: it has opened none.

    Raises InvalidRequest for more than one, or one of another kind.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    number = os.environ.get("LISTEN_FDS")
    if number != "1":
        raise InvalidRequest(f"the service manager passes {number} sockets; a bus has one")
    with socket.socket(fileno=os.dup(FIRST_DESCRIPTOR)) as sock:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise InvalidRequest(
                "the service manager passes a socket that is no Unix stream socket; "
                "in the socket unit: ListenStream=/a/path"
            )
        address = sock.getsockname()
    if not isinstance(address, str) or not address.startswith("/"):
        raise InvalidRequest(f"the socket of the service manager has no path: {address!r}")
    return FIRST_DESCRIPTOR, address

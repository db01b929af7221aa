"""From an address to a connected socket, and from a failure to a message that helps.

A connect to a Unix socket whose listen queue is full must wait for its turn. A non-blocking one
fails at once with EAGAIN (and asyncio, trio and `settimeout` all make it non-blocking); what waits
is a blocking one, and SO_SNDTIMEO bounds the wait.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from time import monotonic, time_ns

from ..errors import AccessDenied, BrokerUnavailable, Error
from ..peers import peer_credentials
from ..terms import CloseReason

INT_BYTES = struct.calcsize("i")
FILES_SPACE = socket.CMSG_LEN(4 * INT_BYTES)
"""Bytes for up to four descriptors that come with one receive; the kernel closes others."""


class Vanished(BrokerUnavailable):
    """The broker was there, and died before it had greeted us: another may come at once."""


def not_greeted(address: str, told: tuple[str, str] | None) -> Error:
    """For a connection that ended before the broker had greeted us. `told`: (reason, message)."""
    reason, why = (None, "the connection ended") if told is None else told
    error: type[Error] = BrokerUnavailable
    if reason == CloseReason.WRONG_USER.value:
        error = AccessDenied
    elif reason in (None, CloseReason.TAKEOVER.value):
        error = Vanished
    return error(f"{address}: {why}")


def receive_with_files(sock: socket.socket, descriptors: list[int], size: int) -> bytes:
    """The same as `sock.recv`, and the descriptors that came along are put into the list."""
    data, ancillary, _, _ = sock.recvmsg(size, FILES_SPACE, socket.MSG_CMSG_CLOEXEC)
    for level, kind, packed in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(packed) - len(packed) % INT_BYTES
            descriptors += memoryview(packed)[:whole].cast("i")
    return data


def open_at_once(address: str) -> socket.socket | None:
    """The same as `open_socket`, without waiting; None: the listen queue is full."""
    sock = _unconnected(address)
    try:
        sock.setblocking(False)
        sock.connect(address)
        _check_owner(address, sock)
    except BlockingIOError:
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise (error if isinstance(error, Error) else unavailable(address, error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def open_socket(address: str, timeout: float) -> socket.socket:
    """A connected, non-blocking socket, after at most `timeout` seconds.

    Raises BrokerUnavailable or AccessDenied, saying which socket, what is there and what to do.
    """
    until = monotonic() + timeout
    sock = _unconnected(address)
    try:
        while (left := until - monotonic()) > 0:
            wait = struct.pack("ll", *divmod(max(1, int(left * 1_000_000)), 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
            sock.connect(address)
            try:
                sock.getpeername()
            except OSError:
                continue  # a signal came, and Python took the unconnected socket for connected
            _check_owner(address, sock)
            sock.setblocking(False)
            return sock
        raise BlockingIOError
    except AccessDenied:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise unavailable(address, error) from None
    except BaseException:
        sock.close()
        raise


def _unconnected(address: str) -> socket.socket:
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:  # too many open files
        raise BrokerUnavailable(
            f"cannot connect to {address}: this process cannot make a socket: {error.strerror}"
        ) from None


def _check_owner(address: str, sock: socket.socket) -> None:
    """Never trust another user's broker: in a directory like /tmp anyone may lie in wait."""
    uid = peer_credentials(sock).uid
    if uid not in (os.getuid(), 0):
        raise AccessDenied(
            f"{address} is served by uid {uid}, not by you (uid {os.getuid()}); "
            "choose another address with UDSBUS_SOCKET or --socket"
        )


def unavailable(address: str, cause: OSError) -> BrokerUnavailable | AccessDenied:
    """What to tell a person when `address` cannot be connected to. It has the `errno` of the
    cause."""
    found = _unavailable(address, cause)
    found.errno = cause.errno
    return found


def _unavailable(address: str, cause: OSError) -> BrokerUnavailable | AccessDenied:
    start = f"start a broker with: udsbus serve --socket {address}"
    if isinstance(cause, BlockingIOError):
        return BrokerUnavailable(
            f"the broker at {address} does not accept connections: its listen queue stayed full; "
            "it is stopped, or overloaded"
        )
    if isinstance(cause, FileNotFoundError):
        return BrokerUnavailable(
            f"no broker at {address}: there is no such socket; {start}, "
            "or let the program do it with connect(autostart=True)"
        )
    if isinstance(cause, ConnectionRefusedError):
        described = _describe(address)
        if "not a socket" in described:
            return BrokerUnavailable(f"no broker at {address}: {described}")
        return BrokerUnavailable(
            f"no broker at {address}: nobody listens there any more ({described}); {start}, "
            "with the --state that it had if it was not the default"
        )
    if isinstance(cause, PermissionError):
        return AccessDenied(
            f"you (uid {os.getuid()}) may not connect to {address} ({_describe(address)}); "
            "a bus admits only the user who runs its broker"
        )
    return BrokerUnavailable(
        f"cannot connect to {address} ({_describe(address)}): {cause.strerror or cause}; {start}"
    )


def jittered(seconds: float) -> float:
    """Between half and one and a half of `seconds`, so that clients do not return in step.

    From the clock, whose nanoseconds differ between processes: importing `random` takes longer
    than a command-line `get`.
    """
    return seconds * (0.5 + time_ns() % 1_000_003 / 1_000_003)


def _describe(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"the file cannot be examined: {error.strerror}"
    what = "a socket" if stat.S_ISSOCK(status.st_mode) else "not a socket but another kind of file"
    return f"the file is {what} of uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"

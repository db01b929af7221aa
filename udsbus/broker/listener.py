"""The listening socket: who may own an address, and who may connect to it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat

from ..errors import AccessDenied, BrokerUnavailable
from ..filelock import Held, take_lock, write_pid
from ..limits import LISTEN_BACKLOG
from ..paths import ensure_private_directory, lock_path
from ..peers import Peer, peer_credentials
from ..terms import CloseReason
from ..wire.encoding import encode_closing

log = logging.getLogger("udsbus.broker")


class Claim:
    """The right to serve an address: a lock on a file beside the socket, held for life.

    The lock, not the socket, decides: `bind` must unlink what a dead broker left, and whoever
    unlinks without the lock can take a living broker's socket away. The lock file stays when the
    broker ends; removing it would let two brokers lock two files of the same name.
    """

    def __init__(self, address: str, inherited: int | None = None) -> None:
        """`inherited` is the lock's descriptor, if a broker before this one has left it.

        Raises BrokerUnavailable when a living broker has the address, AccessDenied when the
        directory will not do."""
        self.address = address
        if inherited is not None:
            self.fd = inherited
            write_pid(inherited)
            return
        try:
            ensure_private_directory(os.path.dirname(address))
            _check_place(address)
            self.fd = take_lock(lock_path(address))
        except AccessDenied:
            raise
        except OSError as error:
            raise AccessDenied(f"cannot serve {address}: {error}") from None
        except Held as held:
            raise BrokerUnavailable(
                f"{address} is served by a living broker, pid {held.pid or 'unknown'}; "
                "stop that one first, or choose another address with --socket",
                pid=held.pid,
            ) from None

    def release(self) -> None:
        os.close(self.fd)


class Listener:
    """Accepts connections of this user; answers those of others, and those it has no room for."""

    def __init__(
        self,
        address: str,
        inherited: tuple[int, int] | None = None,
        given: int | None = None,
        ours: bool = True,
    ) -> None:
        """`inherited`: the descriptors of the socket and of its lock, which a broker before this
        one has left. `given`: that of a socket which a service manager has opened. `ours`: the
        socket's file is removed at the end."""
        self.address = address
        self._uid = os.getuid()
        self._inode = 0
        """Of the socket's file, as it was when it was ours."""
        self.ours = ours and given is None
        if inherited is None and given is None:
            self._listen()
        else:
            self.claim = Claim(address, None if inherited is None else inherited[1])
            self.socket = socket.socket(fileno=given if inherited is None else inherited[0])
            self.socket.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                self._inode = os.stat(address).st_ino
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _listen(self) -> None:
        address = self.address
        self.claim = Claim(address)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale_socket(address)
            before = os.umask(0o177)
            try:
                self.socket.bind(address)
            finally:
                os.umask(before)
            self._inode = os.stat(address).st_ino
            self.socket.listen(LISTEN_BACKLOG)
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            self.claim.release()
            if isinstance(error, AccessDenied):
                raise
            raise AccessDenied(f"cannot serve {address}: {error}") from error

    def accept(self) -> tuple[socket.socket, Peer] | CloseReason | None:
        """The next connection; the reason for which one was turned away; None when none waits."""
        try:
            sock, _ = self.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return self._turn_away()
            log.error("cannot accept a connection: %s", error)  # the kernel's trouble, not ours
            return None
        sock.setblocking(False)
        peer = peer_credentials(sock)
        if peer.uid != self._uid:
            _dismiss(
                sock, CloseReason.WRONG_USER,
                f"this bus belongs to uid {self._uid}; you are uid {peer.uid}",
            )  # fmt: skip
            return CloseReason.WRONG_USER
        return sock, peer

    def _turn_away(self) -> CloseReason | None:
        """No descriptor is left: give up the spare one for as long as it takes to say so."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            sock, _ = self.socket.accept()
        except OSError:
            return None
        else:
            sock.setblocking(False)
            _dismiss(sock, CloseReason.TOO_MANY, "the broker has no descriptor left; try again")
            return CloseReason.TOO_MANY
        finally:
            with contextlib.suppress(OSError):  # somebody else was quicker; the next time, then
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def let_go(self) -> None:
        """Forget what was inherited, but leave it open for another attempt."""
        self.socket.detach()
        os.close(self._spare)

    def leave(self) -> None:
        """Close what is ours of it; another process goes on with the rest."""
        self.socket.close()
        if self._spare >= 0:
            os.close(self._spare)
        self.claim.release()

    def close(self) -> None:
        """Stop listening and remove the socket file, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.ours and os.stat(self.address).st_ino == self._inode:
                os.unlink(self.address)
        self.leave()


def _check_place(address: str) -> None:
    """Raise AccessDenied if there is something else than a socket, which is not ours."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(address).st_mode):
            raise AccessDenied(f"cannot serve {address}: there is a file, and it is no socket")


def _remove_stale_socket(address: str) -> None:
    """What a dead broker left. The lock is ours, so it is dead."""
    _check_place(address)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)


def _dismiss(sock: socket.socket, reason: CloseReason, message: str) -> None:
    with contextlib.suppress(OSError):
        sock.send(encode_closing(reason, message))
    sock.close()

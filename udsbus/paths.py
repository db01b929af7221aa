"""Where sockets live.

An address is the path of a Unix domain socket: the argument, else `UDSBUS_SOCKET`, else
`$XDG_RUNTIME_DIR/udsbus/default.sock`, else `/tmp/udsbus-UID/default.sock`. Directories are made
with mode 0700. Beside the socket stand its lock (`*.lock`), the sockets of those who serve
(`*.workers/`) and, for a broker that a client started, its log (`*.log`).

What a bus shall not forget is kept elsewhere: `$XDG_STATE_HOME/udsbus/NAME-HASH`, a directory for
each address. Sockets live where a reboot clears up, state does not.
"""

from __future__ import annotations

import contextlib
import os
import stat

from .errors import AccessDenied, InvalidRequest

SOCKET_VARIABLE = "UDSBUS_SOCKET"
SUN_PATH_BYTES = 107
"""Bytes that fit in `sockaddr_un.sun_path` on Linux, without the closing NUL (macOS: 103)."""


def default_address() -> str:
    """The address that is used when nobody names one."""
    chosen = os.environ.get(SOCKET_VARIABLE)
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return os.path.join(runtime, "udsbus", "default.sock")
    return os.path.join(_own_directory(), "default.sock")


def _own_directory() -> str:
    """Of this user, where the system names none."""
    return os.path.join("/tmp", f"udsbus-{os.getuid()}")


def resolve_address(address: str | os.PathLike[str] | None) -> str:
    """The absolute path for `address`.

    Raises InvalidRequest for one that the kernel cannot take, and for an empty one: that is a
    variable which nobody has set, and should not mean somebody's bus.
    """
    if address is not None and not isinstance(address, str | os.PathLike):
        raise InvalidRequest(f"the socket path must be text, not {type(address).__name__}")
    path = os.fspath(default_address() if address is None else address)
    if not path:
        raise InvalidRequest("the socket path is empty")
    path = os.path.abspath(os.path.expanduser(path))
    if "\0" in path:
        raise InvalidRequest(f"the socket path contains a NUL character: {path!r}")
    length = len(os.fsencode(path))
    if length > SUN_PATH_BYTES:
        raise InvalidRequest(
            f"the socket path is {length} bytes long, the kernel takes {SUN_PATH_BYTES}: {path}; "
            f"choose a shorter one with {SOCKET_VARIABLE} or --socket"
        )
    return path


def lock_path(address: str) -> str:
    return address + ".lock"


def log_path(address: str) -> str:
    return address + ".log"


def workers_directory(address: str, longest: int) -> str:
    """Where those listen who serve on the bus at `address` (absolute): beside its socket, elsewhere
    if the kernel would find the paths too long. `longest`: bytes of a name in it."""
    directory = address + ".workers"
    if len(os.fsencode(directory)) + 1 + longest <= SUN_PATH_BYTES:
        return directory
    import hashlib  # as below

    name = hashlib.sha256(os.fsencode(address)).hexdigest()[:16]
    return os.path.join(_own_directory(), name + ".workers")


def default_state(address: str) -> str:
    """The state directory of the bus at `address` (absolute), when nobody names one."""
    import hashlib  # loads all of OpenSSL, for which a `udsbus get` should not wait

    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # which the XDG specification says is invalid, and to be ignored
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    name, _ = os.path.splitext(os.path.basename(address))
    of_path = hashlib.sha256(os.fsencode(address)).hexdigest()[:8]  # for there are more of a name
    return os.path.join(home, "udsbus", f"{name}-{of_path}")


def ensure_private_directory(directory: str) -> None:
    """Make a directory for our files, or refuse one in which others could replace them.

    Raises AccessDenied for a directory that another user owns or can write to. A sticky one
    (`/tmp`) will do: nobody else can rename or remove our files there.
    """
    _make_private(directory)
    status = os.stat(directory)
    sticky = bool(status.st_mode & stat.S_ISVTX)
    if status.st_uid not in (os.getuid(), 0):
        raise AccessDenied(f"{directory} belongs to uid {status.st_uid}, not to you; use another")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise AccessDenied(
            f"others can write to {directory} and could replace what is there; "
            f"run: chmod go-w {directory}"
        )


def _make_private(directory: str) -> None:
    """Make it and what is missing above it, each with mode 0700."""
    if not os.path.isdir(directory):
        _make_private(os.path.dirname(directory))
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)

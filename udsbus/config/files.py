"""Which file is which key, what is in it, and how one is replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import InvalidRequest
from ..limits import VALUE_BYTES
from ..patterns import check_writable
from .formats import FORMATS, BlankFile, Format, UnreadableFile, format_of, is_blank, read, unknown

STDIN = "-"
OPEN_FILES = re.compile(r"/proc/\d+(/task/\d+)?/fd")
"""Where Linux has a process's descriptors, which look like links to what they are of."""
LINKS = 40
"""As many as the system follows, one after the other."""
BELOW = "config/"
"""Where the keys of files are that nobody has given another."""


class Source(NamedTuple):
    """A file, and the key that holds what is in it, or with `split` those below it."""

    path: str
    """As it was given, for messages; STDIN."""
    key: str
    form: Format
    split: bool = False

    @property
    def pattern(self) -> str:
        """Of all keys that are this file's."""
        return pattern_of(self.key, self.split)

    def values(self, *, unless_blank: bool = False) -> dict[str, Any]:
        """Key → what it is to hold. Raises UnreadableFile, LimitExceeded and MissingExtra;
        `unless_blank`, BlankFile."""
        data = self._bytes()
        if unless_blank and is_blank(data, self.form):
            raise BlankFile(f"{self.path} is empty")
        content = read(data, self.form, self.path)
        if not self.split:
            return {self.key: content}
        values = {}
        for name, item in content.items():
            if type(name) is not str or not name or "/" in name or "*" in name:
                raise UnreadableFile(
                    f"{self.path}: with --split {name!r} would be a part of a key, so it must be a "
                    "text, not empty, and without / and *"
                )
            values[f"{self.key}/{name}"] = item
        for key in values:
            check_writable(key)
        return values

    def _bytes(self) -> bytes:
        try:
            if self.path == STDIN:
                if sys.stdin is None:
                    raise UnreadableFile("standard input is closed")
                return sys.stdin.buffer.read(VALUE_BYTES + 1)
            with open(self.path, "rb") as file:
                return file.read(VALUE_BYTES + 1)
        except OSError as error:
            raise UnreadableFile(f"{self.path} cannot be read: {error.strerror}") from None


def pattern_of(key: str, split: bool) -> str:
    """Only what is right below it: what is deeper is not from a file."""
    return f"{key}/*" if split else key


def sources(
    paths: Sequence[str], *, key: str | None, form: str | None, split: bool
) -> list[Source]:
    """The files, with their keys and formats, but for those that are said here.

    Raises UnreadableFile if a format or key is not to be known, and InvalidRequest or
    AccessDenied for what is no key.
    """
    if key is not None and len(paths) > 1:
        raise UnreadableFile("--key is for one file, and these are several")
    found: dict[str, Source] = {}
    for path in paths:
        name = key or key_of(path)
        check_writable(name)
        known = FORMATS[form] if form else format_of(path)
        if known is None:
            raise unknown(path)
        if name in found:
            raise UnreadableFile(
                f"{found[name].path} and {path} would both be {name!r}: push one of them by "
                "itself, with --key"
            )
        found[name] = Source(path, name, known, split)
    return list(found.values())


def key_of(path: str) -> str:
    """`etc/app.toml` → `config/app`, `.env` → `config/env`. Raises UnreadableFile."""
    if path == STDIN:
        raise UnreadableFile("standard input has no name to make a key of: use --key")
    name = os.path.basename(path)
    known = format_of(path)
    for suffix in () if known is None else known.suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    name = name.lstrip(".")
    try:
        name.encode()
    except UnicodeEncodeError:
        name = ""
    if not name or "*" in name:
        raise UnreadableFile(f"{path!r} is no name to make a key of: use --key")
    return BELOW + name


def replace(path: str, content: bytes, *, private: bool = False) -> None:
    """Let a file hold that: at any time somebody who reads it finds all of the old, or of the new.

    A link stays one, and an existing file keeps its permissions. `private`: a new one is for its
    owner alone. The name of a descriptor
    (/dev/stdout, /proc/self/fd/3) is no file: it is written to that, wherever it leads. Raises
    InvalidRequest.
    """
    try:
        descriptor = _descriptor(path)
        if descriptor is not None:
            with open(os.dup(descriptor), "wb") as file:
                file.write(content)
            return
    except OSError as error:
        raise _cannot_write(path, error) from None
    path = os.path.realpath(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise _cannot_write(path, error) from None
    if status is not None and not stat.S_ISREG(status.st_mode):  # a pipe, say
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError as error:
            raise _cannot_write(path, error) from None
        return
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666
        )
        try:
            with open(descriptor, "wb") as file:
                if status is not None:
                    with contextlib.suppress(PermissionError):  # only root gives files away
                        os.fchown(descriptor, status.st_uid, status.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from None


def _descriptor(path: str) -> int | None:
    """The one of this process that a path is the name of, if it is. Raises OSError if that is not
    open, or is our own."""
    for _ in range(LINKS):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory)
        if OPEN_FILES.fullmatch(directory) and re.fullmatch("[0-9]{1,9}", name):
            descriptor = int(name)
            if directory.split("/")[2] != str(os.getpid()):
                return None
            if descriptor > 2 and not os.get_inheritable(descriptor):  # a connection, say
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return descriptor
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(directory, os.readlink(path))
    return None  # a circle, as whoever opens it will be told


def _cannot_write(path: str, error: OSError) -> InvalidRequest:
    return InvalidRequest(f"{path} cannot be written: {error.strerror}")

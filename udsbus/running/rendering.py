"""Values in files: templates in the syntax of `string.Template`, filled in and written at once."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from .naming import Unusable, Value


class Rendering(NamedTuple):
    template: Path
    file: Path


def overwritten(renderings: Sequence[Rendering]) -> tuple[Path, Path] | None:
    """A template, and the file that would be written over it, by whatever path."""
    for template in (one.template for one in renderings):
        for file in (one.file for one in renderings):
            if _are_one(template, file):
                return template, file
    return None


def _are_one(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return False


def rendered(rendering: Rendering, found: Mapping[str, Value]) -> bytes:
    """What the file should hold: `$db_url`, or `$DB_URL`, is the value that has this name.

    Raises Unusable.
    """
    template = rendering.template
    try:
        text = template.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise Unusable(f"the template {template} cannot be read: {error.strerror}") from None
    try:
        filled = Template(text).substitute(_Names(found))
    except KeyError as missing:
        raise Unusable(f"no key gives a value for ${missing.args[0]} in {template}") from None
    except ValueError as error:
        reason = f"{error}".replace("Invalid placeholder in string:", "no name behind the $ at")
        raise Unusable(f"{template}: {reason}; $$ stands for a $") from None
    return filled.encode("utf-8", "surrogateescape")


class _Names(Mapping[str, str]):
    """The texts of values, by their names in any case."""

    def __init__(self, found: Mapping[str, Value]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> str:
        value = self._found.get(name) or self._found.get(name.upper())
        if value is None:
            raise KeyError(name)
        return value.text

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def put(file: Path, content: bytes) -> bool:
    """Let a file hold this, at once: whoever reads it sees all of it, or all of what was before.

    One that is there keeps its permissions, its owner if we may, and its place behind a symbolic
    link; a new one is for its owner alone. False: it held that already. Raises Unusable.
    """
    target = Path(os.path.realpath(file))
    try:
        before = target.stat() if target.exists() else None
        if before is not None and not stat.S_ISREG(before.st_mode):
            raise Unusable(f"{file} is no file that could be replaced")
        if before is not None and target.read_bytes() == content:
            return False
        _replace(target, content, before)
    except OSError as error:
        raise Unusable(f"{file} cannot be written: {error.strerror}") from None
    return True


def _replace(target: Path, content: bytes, before: os.stat_result | None) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if before is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

"""The formats of configuration files, as a table, and how bytes become a dict and a dict bytes.

What is written is read back before anybody gets it: a file either says exactly what the bus holds,
or it is not written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InvalidRequest, LimitExceeded, UnsupportedValue
from ..limits import VALUE_BYTES
from ..wire.values import encode
from .differences import Place, differences, kind_of, parts, shown_place
from .reading import Unreadable, read_env, read_json, read_toml, read_yaml
from .writing import (
    as_text,
    env_lacks,
    json_lacks,
    toml_lacks,
    write_env,
    write_json,
    write_toml,
    write_yaml,
    yaml_lacks,
)

ENV = ".env"
WHITE = re.compile(r"\s*")
NO_ENTRY = re.compile(r"\s*(#.*)?|(---|\.\.\.)(\s+(#.*)?)?|%.*")
"""And what begins and ends a document."""


class UnreadableFile(InvalidRequest):
    """A file that holds no configuration: it is not there, broken, or of an unknown format. The
    message names it, and line and column if the parser knows them."""


class BlankFile(UnreadableFile):
    """Of white space and comments only, as it is in the midst of a save: cut short, and not written
    yet."""


class Format(NamedTuple):
    called: str
    suffixes: tuple[str, ...]
    read: Callable[[str], Any]
    """The value that a text stands for. Raises Unreadable, RecursionError and MissingExtra."""
    write: Callable[[dict[Any, Any]], str]
    """Of a value that lacks nothing. Raises MissingExtra."""
    lacks: Callable[[Place, Any], str]
    """What it is about a part of a value, whatever is in it, that has no form; "": nothing."""
    comes_back: Callable[[Any], Any]
    """What is read after a value was written: itself, but from a .env."""
    blank: re.Pattern[str] = re.compile(r"\s*(#.*)?")
    """A line that says nothing."""


def _itself(value: Any) -> Any:
    return value


FORMATS: dict[str, Format] = {
    "toml": Format("TOML", (".toml",), read_toml, write_toml, toml_lacks, _itself),
    "json": Format("JSON", (".json",), read_json, write_json, json_lacks, _itself, WHITE),
    "yaml": Format("YAML", (".yaml", ".yml"), read_yaml, write_yaml, yaml_lacks, _itself, NO_ENTRY),
    "env": Format("a .env", (ENV,), read_env, write_env, env_lacks, as_text),
}
"""By what `--format` calls them."""


def format_of(path: str) -> Format | None:
    """The one that the name of a file says; `.env`, `prod.env` and `.env.local` are all one."""
    name = os.path.basename(path)
    if name == ENV or name.startswith(f"{ENV}."):
        return FORMATS["env"]
    suffix = os.path.splitext(name)[1].lower()
    return next((each for each in FORMATS.values() if suffix in each.suffixes), None)


def unknown(path: str) -> UnreadableFile:
    return UnreadableFile(
        f"{path}: its name does not say in which format it is: use --format, with one of "
        f"{', '.join(FORMATS)}"
    )


def read(data: bytes, form: Format, name: str) -> dict[Any, Any]:
    """What a file of this name holds. Raises UnreadableFile, LimitExceeded and MissingExtra."""
    if len(data) > VALUE_BYTES:
        raise _too_large(f"{name} is too large", len(data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableFile(f"{name} is not UTF-8 (at line {line})") from None
    try:
        value = form.read(text)
    except Unreadable as error:
        raise UnreadableFile(f"{name} is no {form.called.split()[-1]}: {error}") from None
    except RecursionError:
        raise UnreadableFile(f"{name} is nested too deeply") from None
    if type(value) is not dict:
        raise UnreadableFile(
            f"{name} holds {kind_of(value)}, not names and values: that is no configuration"
        )
    check_sendable(value, name)
    return value


def is_blank(data: bytes, form: Format) -> bool:
    """Whether a file has no entry, and nothing that would say that this is meant."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return False
    return all(form.blank.fullmatch(line) for line in lines)


def check_sendable(value: Any, name: str) -> None:
    """Raise UnreadableFile for what the bus has no form for, with its place, and LimitExceeded."""
    try:
        size = len(encode(value))
    except UnsupportedValue as error:
        for place, part in parts(value):
            if type(part) not in (dict, list) and (reason := _refused(part)):
                raise UnreadableFile(f"{name}: {shown_place(place)}: {reason}") from None
        raise UnreadableFile(f"{name}: {error}") from None
    if size > VALUE_BYTES:
        raise _too_large(f"{name} holds too much", size)


def written(value: Any, form: Format, key: str) -> bytes:
    """The content of a file that holds `value`, which is that of `key`. Raises UnsupportedValue,
    naming the place, for what the format lacks, and MissingExtra."""
    if type(value) is not dict:
        raise UnsupportedValue(
            f"{key!r} holds {kind_of(value)}, not names and values, so it is no configuration; "
            "`udsbus get` prints it"
        )
    for place, part in parts(value):
        if what := form.lacks(place, part):
            raise _lacks(key, place, what, form)
    text = form.write(value)
    try:
        found = form.read(text)
    except Unreadable:
        found = {}
    for place, *_ in differences(form.comes_back(value), found):
        raise _lacks(key, place, "this very value", form)
    return text.encode()


def _lacks(key: str, place: Place, what: str, form: Format) -> UnsupportedValue:
    where = shown_place(place)
    return UnsupportedValue(
        f"{key!r}{where and ': '}{where}: {form.called} has no form for {what}; JSON has one for "
        "every value"
    )


def _refused(part: Any) -> str:
    try:
        encode(part)
    except UnsupportedValue as error:
        return str(error)
    return ""


def _too_large(what: str, size: int) -> LimitExceeded:
    return LimitExceeded(
        f"{what}: more than {VALUE_BYTES} bytes, the limit of a value",
        limit="value_bytes", maximum=VALUE_BYTES, actual=size,
    )  # fmt: skip

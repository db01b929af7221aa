"""Which name the value of a key has: as a variable of the environment, and in a template. Pure.

A name is what stands behind the part of the pattern that has no wildcard, and where the value is a
dict, what leads to each value in it:

    --watch 'config/app/**'    config/app/db-url = "x"               DB_URL=x
    --watch 'config/app'       config/app = {"db": {"port": 1}}      DB_PORT=1
    --watch 'config/port'      config/port = 80                      PORT=80
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import UnsupportedValue
from ..patterns import literal_prefix

VARIABLE_BYTES = 128 * 1024
"""Linux takes no variable of so much, with its name; see execve(2)."""


class Unusable(Exception):
    """What is there cannot be given to the command; says what, and why."""


class Value(NamedTuple):
    text: str
    """Bytes that are not UTF-8 are in it as surrogates."""
    source: str
    """Where it is from, for people."""


class Held(NamedTuple):
    """What a key holds."""

    revision: int
    value: Any
    encoded: bytes
    """By which it is told from another: to Python, 1 and True are the same."""


Watched = Sequence[tuple[str, Mapping[str, Held]]]
"""Each pattern, with the keys that match."""


class Values(NamedTuple):
    """What there is to give, by name."""

    derived: dict[str, Value]
    named: dict[str, Value]
    """Of keys that have been given a name of their own."""

    def together(self, prefix: str = "") -> dict[str, Value]:
        """All of them, with a prefix before the names that nobody has chosen. Raises Unusable."""
        found = dict(self.named)
        for name, value in self.derived.items():
            name = prefix + name
            _put(found, "_" + name if name[:1].isdigit() else name, value)
        return found


def values(watched: Watched, named: Mapping[str, str], to_json: Callable[[Any], str]) -> Values:
    """The values of all keys. `named`: key → the name that its whole value has.

    Raises Unusable for two values of one name, and for what has none.
    """
    found = Values({}, {})
    for pattern, held in watched:
        for key, (_, value, _) in sorted(held.items()):
            if key in named:
                found.named[named[key]] = _value(value, repr(key), to_json)
                continue
            try:
                leaves = list(_leaves(value))
            except ValueError as error:
                raise Unusable(f"a name in {key!r} cannot be told: {error}") from None
            for path, leaf in leaves:
                part = _behind(pattern, key, bool(path))
                source = f"{key!r} ({'.'.join(path)})" if path else repr(key)
                _put(found.derived, spelled([*part, *path]), _value(leaf, source, to_json))
    return found


def spelled(parts: Iterable[str]) -> str:
    """`db/url` is DB_URL: capital letters, digits and `_`."""
    return re.sub("[^A-Z0-9]", "_", "_".join(parts).upper())


def _put(found: dict[str, Value], name: str, value: Value) -> None:
    first = found.setdefault(name, value)
    if first.source != value.source:
        raise Unusable(
            f"{first.source} and {value.source} would both be {name}; --env-from KEY=NAME gives "
            "one of them another name"
        )


def environment(found: Mapping[str, Value]) -> dict[bytes, bytes]:
    """As variables. Raises Unusable for what cannot be one."""
    variables = {}
    for name, (text, source) in found.items():
        if not name:
            raise Unusable(
                f"{source} cannot be a variable: its name would be empty; --env-prefix puts "
                "something before it"
            )
        data = text.encode("utf-8", "surrogateescape")
        if b"\0" in data:
            raise Unusable(f"{source} cannot be the variable {name}: it holds a null byte")
        if len(name) + len(data) + 2 > VARIABLE_BYTES:
            raise Unusable(
                f"{source} cannot be the variable {name}: it has {len(data):,} bytes, and with its "
                f"name the system takes less than {VARIABLE_BYTES:,}; --render puts it into a file"
            )
        variables[name.encode()] = data
    return variables


def _behind(pattern: str, key: str, has_path: bool) -> list[str]:
    prefix = literal_prefix(pattern)
    if key != prefix:
        return [key.removeprefix(prefix + "/") if prefix else key]
    return [] if has_path else [key.rpartition("/")[2]]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no dict in it, and the way there. Raises ValueError for a name that no text can be
    made of: an int of thousands of digits."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves(item, (*path, str(key)))


def _value(value: Any, source: str, to_json: Callable[[Any], str]) -> Value:
    if isinstance(value, str):
        return Value(value, source)
    if isinstance(value, bytes):
        return Value(value.decode("utf-8", "surrogateescape"), source)
    try:
        return Value(to_json(value), source)
    except UnsupportedValue as error:
        raise Unusable(f"{source}: {error}") from None

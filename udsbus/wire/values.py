"""The value codec: Python objects to MessagePack bytes and back, exactly.

Everything that MessagePack has travels as itself. The types in `EXTENSIONS` travel as extension
types and come back as what they were; a tuple comes back as a tuple. Subclasses of the built-in
types are sent as the type that they extend (an OrderedDict as a dict). Codes 0 to 2 mean other
things to existing MessagePack-RPC clients and stay unused.

The modules of the extended types are not imported until a value of that type is met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import msgpack

from ..errors import UnsupportedValue
from ..limits import KEPT_BYTES, LARGE_BYTES
from .large import packed_large


class Extension(NamedTuple):
    """How one type travels: as extension `code` with the MessagePack form of `plain(value)`."""

    code: int
    module: str
    name: str
    plain: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]
    """Makes the value from the class and what `plain` gave."""

    @property
    def type(self) -> Any:
        return getattr(import_module(self.module), self.name)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


EXTENSIONS: tuple[Extension, ...] = (
    Extension(3, "builtins", "tuple", list, lambda cls, plain: cls(plain)),
    Extension(4, "builtins", "set", list, lambda cls, plain: cls(plain)),
    Extension(5, "builtins", "frozenset", list, lambda cls, plain: cls(plain)),
    Extension(6, "builtins", "complex", lambda v: [v.real, v.imag], lambda cls, p: cls(*p)),
    Extension(7, "builtins", "int", _int_bytes, lambda cls, p: cls.from_bytes(p, signed=True)),
    Extension(8, "datetime", "datetime", lambda v: v.isoformat(), lambda c, p: c.fromisoformat(p)),
    Extension(9, "datetime", "date", lambda v: v.isoformat(), lambda c, p: c.fromisoformat(p)),
    Extension(10, "datetime", "time", lambda v: v.isoformat(), lambda c, p: c.fromisoformat(p)),
    Extension(
        11, "datetime", "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds], lambda cls, plain: cls(*plain),
    ),
    Extension(12, "decimal", "Decimal", str, lambda cls, plain: cls(plain)),
    Extension(13, "uuid", "UUID", lambda v: v.bytes, lambda cls, plain: cls(bytes=plain)),
    Extension(14, "pathlib", "PurePath", str, lambda cls, p: import_module("pathlib").Path(p)),
)  # fmt: skip

NESTING = 32
"""Extension types within one another. Each level is another call into msgpack with a large frame on
the C stack: without a bound, a value could end every process that reads it."""
INNER_DEPTH = 32
"""Lists and dicts within one another inside an extension type that is itself inside one. msgpack's
own bound, about a thousand, begins anew with each; together they would overrun the C stack."""

_BY_CODE = {extension.code: extension for extension in EXTENSIONS}
_TO_BASE: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),  # str(value) of an enumeration's member would be its name
    (bytes, bytes.__bytes__),
    (list, list),
    (dict, dict),
)
_packb = msgpack.packb
# One packer for all threads: packing a scalar calls no Python code, so no other thread gets the
# interpreter meanwhile. Making a packer each time, as `packb` does, costs three times as much.
_SCALARS = frozenset((str, bytes, float, bool, type(None)))
_SIZED = frozenset((str, bytes))
_pack_scalar = msgpack.Packer(autoreset=True).pack
_unpackb = msgpack.unpackb


def extension_of(value: object) -> Extension | None:
    """The extension by which `value` travels; None for a plain or an unsupported type."""
    for cls in type(value).__mro__:
        for extension in EXTENSIONS:
            if cls.__name__ == extension.name and (
                getattr(sys.modules.get(extension.module), extension.name, None) is cls
            ):
                return extension
    return None


def encode(value: Any) -> bytes:
    """The MessagePack form of `value`.

    Raises UnsupportedValue, naming the type and its place, for what has none.
    """
    global _pack_scalar
    try:
        if type(value) in _SCALARS:
            if type(value) in _SIZED and len(value) > LARGE_BYTES:
                return packed_large(value)
            data: bytes = _pack_scalar(value)
            if len(data) > KEPT_BYTES:
                _pack_scalar = msgpack.Packer(autoreset=True).pack
            return data
        return _packb(value, default=_EXTENDERS[0], strict_types=True)  # type: ignore[no-any-return]
    except _Unsupported as error:
        culprit = error.value
        raise UnsupportedValue(
            f"a value of type {_type_name(culprit)} cannot be sent "
            f"(at {_place(value, culprit)}): {_advice(culprit)}"
        ) from None
    except (ValueError, OverflowError, RecursionError, BufferError) as error:
        raise UnsupportedValue(f"this {_type_name(value)} cannot be sent: {error}") from None


def decode(data: bytes) -> Any:
    """The object whose MessagePack form is `data`. Raises UnsupportedValue for anything else."""
    try:
        return _unpackb(data, ext_hook=_RESTORERS[0], strict_map_key=False)
    except UnsupportedValue:
        raise
    except Exception as error:  # msgpack raises many kinds, a hostile payload any
        raise UnsupportedValue(
            f"the stored {len(data)} bytes are no value that this version reads: "
            f"{type(error).__name__}: {error}"
        ) from None


class Undecodable(NamedTuple):
    """In the place of a value: what was written is none."""

    size: int
    """Bytes."""
    reason: str


def decode_if_possible(data: bytes) -> Any:
    """As `decode`, but `Undecodable` for anything else."""
    try:
        return decode(data)
    except UnsupportedValue as error:
        return Undecodable(len(data), str(error))


class _Unsupported(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


def _extender(level: int) -> Callable[[Any], Any]:
    """What msgpack calls, at this level, for an object that is not exactly of its own types."""

    def extend(value: Any) -> Any:
        extension = extension_of(value)
        if extension is not None and (extension.name != "int" or _is_large(value)):
            if level == NESTING:
                raise UnsupportedValue(f"more than {NESTING} tuples, sets, … within one another")
            plain = extension.plain(value)
            if level > 0 and not _is_shallow(plain, 1 + INNER_DEPTH):
                raise UnsupportedValue(
                    f"more than {INNER_DEPTH} lists or dicts within one another inside tuples, "
                    "sets, … that are within one another"
                )
            packed = _packb(plain, default=_EXTENDERS[level + 1], strict_types=True)
            return msgpack.ExtType(extension.code, packed)
        if isinstance(value, memoryview):
            return bytes(value)
        for base, convert in _TO_BASE:
            if isinstance(value, base) and type(value) is not base:
                return convert(value)
        raise _Unsupported(value)

    return extend


def _restorer(level: int) -> Callable[[int, bytes], Any]:
    """What msgpack calls, at this level, for an extension type."""

    def restore(code: int, payload: bytes) -> Any:
        extension = _BY_CODE.get(code)
        if extension is None:
            raise UnsupportedValue(f"extension type {code} is unknown to this version of udsbus")
        if level == NESTING:
            raise UnsupportedValue(f"more than {NESTING} extension types within one another")
        plain = _unpackb(payload, ext_hook=_RESTORERS[level + 1], strict_map_key=False)
        return extension.restore(extension.type, plain)

    return restore


def _is_shallow(plain: Any, most: int) -> bool:
    """Whether at most so many lists and dicts are within one another in `plain`."""
    if not isinstance(plain, list | dict):
        return True
    items = plain.values() if isinstance(plain, dict) else plain
    return most > 0 and all(
        _is_shallow(item, most - 1) for item in items if isinstance(item, list | dict)
    )


def _is_large(value: int) -> bool:
    return not -(2**63) <= value < 2**64


_EXTENDERS = [_extender(level) for level in range(NESTING + 1)]
_RESTORERS = [_restorer(level) for level in range(NESTING + 1)]


# --- error messages; nothing below runs while all is well -----------------------------------


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def _advice(value: object) -> str:
    if hasattr(value, "__dataclass_fields__"):
        return "send dataclasses.asdict(...) of it"
    if hasattr(value, "model_dump"):
        return "send its .model_dump()"
    if hasattr(value, "plain"):
        return "send its .plain()"
    if hasattr(value, "tolist"):
        return "send its .tolist() or .tobytes()"
    return "send plain data (docs/values.md lists the types)"


def _place(value: Any, culprit: Any, path: str = "value", depth: int = 0) -> str:
    """Where in `value` the culprit is, in Python's own notation: `value['a'][3]`."""
    return _find(value, culprit, path, depth) or path


def _find(value: Any, culprit: Any, path: str, depth: int) -> str | None:
    if value is culprit:
        return path
    if depth > 100:
        return None
    steps: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            steps += [(f"{path} (a key)", key), (f"{path}[{_shown(key)}]", item)]
    elif isinstance(value, list | tuple):
        steps = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, set | frozenset):
        steps = [(f"{path} (a member)", item) for item in value]
    for step, item in steps:
        found = _find(item, culprit, step, depth + 1)
        if found:
            return found
    return None


def _shown(key: Any) -> str:
    try:
        return f"{key!r:.40}"
    except Exception:  # of the user's own class
        return f"<a {_type_name(key)}>"

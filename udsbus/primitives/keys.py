"""What a key of a dict is called on the bus, and back: each has one name, and each name one key.

A text is its own name, with its `/`. What would be none, or the name of something else, is escaped:

    key of the dict       on the bus
    "a*b"                 a%2Ab
    "", "a//b"            %, a/%/b
    5, True, -2.0         %=5, %=1, %=-2
    (1, "a")              %~ and the encoding of the value in hexadecimal
    "%2A", "%", "%=5"     %252A, %25, %25=5

The last line is for texts that look like an escape: `25` is put in after their `%`, even if there
are such already. Every other `%` stays, so that the dict has a key for whatever others write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import Error, LimitExceeded, UnsupportedValue
from ..limits import KEY_BYTES
from ..wire.values import decode, encode, extension_of

is_plain = re.compile(r"[^%*/\ud800-\udfff]+(?:/[^%*/\ud800-\udfff]+)*").fullmatch
"""Whether a text is a name as it is."""
_ESCAPE = re.compile(r"%(?:25)*2A|(?<![^/])%(?:25)*(?![^/])")
"""In a text: a star or an empty segment; with `25`, a text that looks like that."""
_TYPED = re.compile(r"%((?:25)*)(=-?[0-9]+|~(?:[0-9a-f]{2})+)")
"""A key that is no text; with `25`, a text that looks like that."""
_MEANS = {"%2A": "*", "%": ""}
_INT_BITS = 4 * KEY_BYTES
"""An int of more has more digits than a key may have bytes."""


def name_of(key: Any) -> str:
    """What `key` is called, below the name of its dict.

    Raises TypeError for what is not hashable, and UnsupportedValue, which is one, for what cannot
    be sent or is not equal to what would come back: NaN, say.
    """
    if isinstance(key, str):
        return key if is_plain(key) else _escaped(key)
    hash(key)
    try:
        normal = _normal(key)
    except (RecursionError, OverflowError) as error:
        raise UnsupportedValue(f"{key!r:.60} cannot be a key: {error}") from None
    if type(normal) is int:
        if (bits := normal.bit_length()) > _INT_BITS:
            raise LimitExceeded(
                f"an int of {bits} bits is too long for a key of {KEY_BYTES} bytes",
                limit="key_bytes", maximum=KEY_BYTES, actual=bits // 3,
            )  # fmt: skip
        return f"%={normal}"
    data = encode(normal)
    if decode(data) != key:
        raise UnsupportedValue(f"{key!r:.60} cannot be a key: it would not come back as it is")
    return f"%~{data.hex()}"


def key_of(name: str) -> Any:
    """The key that is called `name`."""
    if "%" not in name:
        return name
    if (typed := _TYPED.fullmatch(name)) and (found := _of_type(typed[2])):
        return "%" + name[3:] if typed[1] else found[0]
    return _ESCAPE.sub(lambda escape: _MEANS.get(escape[0], "%" + escape[0][3:]), name)


def _escaped(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedValue(f"this text cannot be sent: {error}") from None
    if (typed := _TYPED.fullmatch(text)) and _of_type(typed[2]):
        return "%25" + text[1:]
    text = _ESCAPE.sub(lambda escape: "%25" + escape[0][1:], text).replace("*", "%2A")
    return "/".join(segment or "%" for segment in text.split("/"))


def _of_type(written: str) -> tuple[Any] | None:
    """The key that is called `%` and this; None if none is."""
    try:
        key = int(written[1:]) if written[0] == "=" else decode(bytes.fromhex(written[1:]))
        if name_of(key) != f"%{written}":
            return None
    except (Error, TypeError, ValueError):
        return None
    return (key,)


# --- of keys that are equal, one stands for all -----------------------------------------------


def _normal(key: Any) -> Any:
    if isinstance(key, int):
        return int.__int__(key)
    if isinstance(key, float):
        return int(key) if key.is_integer() else float.__float__(key)
    extension = extension_of(key)
    normal = None if extension is None else _NORMAL.get(extension.name)
    return key if normal is None else normal(key)


class _InOrder(frozenset[Any]):
    """Goes through its members in an order that is the same in each process."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__(), key=encode))


def _normal_complex(key: complex) -> Any:
    if key.imag == 0:
        return _normal(key.real)
    return complex(key.real + 0.0, key.imag + 0.0)  # of -0.0 too this makes 0.0


def _normal_decimal(key: Any) -> Any:
    if not key.is_finite() or float(key) == key:
        return _normal(float(key))
    if key == key.to_integral_value() and key.adjusted() <= KEY_BYTES:
        return int(key)
    sign, digits, exponent = key.as_tuple()
    while digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    return type(key)((sign, digits, exponent))


def _normal_datetime(key: Any) -> Any:
    from datetime import UTC

    if key.utcoffset() is None:
        return key.replace(tzinfo=None)
    return key.astimezone(UTC)


def _normal_time(key: Any) -> Any:
    from datetime import time, timedelta, timezone

    offset = key.utcoffset()
    if offset is None:
        return key.replace(tzinfo=None)
    seconds = key.hour * 3600 + key.minute * 60 + key.second - offset // timedelta(seconds=1)
    inside = min(max(seconds, 0), 24 * 3600 - 1)  # UTC, unless it is of the day before or after
    return time(
        inside // 3600, inside // 60 % 60, inside % 60, key.microsecond,
        tzinfo=timezone(timedelta(seconds=inside - seconds)),
    )  # fmt: skip


_NORMAL: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda key: tuple(map(_normal, key)),
    "frozenset": lambda key: _InOrder(map(_normal, key)),
    "complex": _normal_complex,
    "Decimal": _normal_decimal,
    "datetime": _normal_datetime,
    "time": _normal_time,
}
"""By the names of `wire.values.EXTENSIONS`. Of the other types there, what is equal is encoded the
same way."""

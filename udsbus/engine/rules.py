"""What a request must satisfy, shared by single commands and transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, Protocol

from ..errors import Conflict, InvalidRequest, LimitExceeded
from ..limits import FRAME_BYTES, NUMBER_BYTES, VALUE_BYTES
from ..patterns import shown
from .keyspace import Entry

_REPLY_BYTES = FRAME_BYTES - 1024 * 1024
"""Bytes of values that fit in one response, whatever else stands in it."""


Check = Callable[[str, bytes], None]
"""Raises an Error unless the value may be stored under the key."""


class Codec(Protocol):
    """What the engine needs to know of values: of numbers, and of its own keys."""

    def decode(self, data: bytes) -> Any: ...
    def encode(self, value: Any) -> bytes: ...


def check_value(key: str, value: bytes) -> None:
    """Raise unless `value` may be stored under `key`, or published."""
    if 0 < len(value) <= VALUE_BYTES:
        return
    if not value:
        raise InvalidRequest(f"{shown(key)}: an empty `bin` is no encoded value; nil is b'\\xc0'")
    raise LimitExceeded(
        f"{shown(key)}: a value of {len(value)} bytes; the limit is {VALUE_BYTES}",
        limit="value_bytes", maximum=VALUE_BYTES, actual=len(value),
    )  # fmt: skip


def check_revision(key: str, expected: int, entry: Entry | None) -> None:
    """Raise Conflict unless the key is at `expected`; 0 stands for absent."""
    revision = 0 if entry is None else entry[1]
    if revision != expected:
        wanted = "absent" if expected == 0 else f"at revision {expected}"
        found = "absent" if entry is None else f"at revision {revision}"
        raise Conflict(
            f"{shown(key)} is {found}, not {wanted}", key=key, expected=expected, revision=revision
        )


def check_reply(values: Iterable[Any]) -> None:
    """Raise LimitExceeded when the values read are too much for one response."""
    size = sum(len(value) for value in values if type(value) is bytes)
    if size > _REPLY_BYTES:
        raise LimitExceeded(
            f"these values are {size} bytes together; one response holds {_REPLY_BYTES}; "
            "ask for fewer at once",
            limit="frame_bytes", maximum=_REPLY_BYTES, actual=size,
        )  # fmt: skip


def incremented(key: str, by: int | float, entry: Entry | None, codec: Codec) -> tuple[Any, bytes]:
    """The number that `increment` makes, and its encoding.

    Raises InvalidRequest if the key holds something else than a number, or the result is none that
    can be counted on from (infinite, or not a number), LimitExceeded if it is longer than
    `number_bytes`.
    """
    number: Any = 0
    if entry is not None:
        number = codec.decode(entry[0]) if len(entry[0]) <= NUMBER_BYTES else None
        if type(number) is not int and type(number) is not float:
            raise InvalidRequest(f"{shown(key)} does not hold a number")
    number += by
    if not isfinite(number):
        raise InvalidRequest(f"{shown(key)} would hold {number}, which cannot be counted on from")
    value = codec.encode(number)
    if len(value) > NUMBER_BYTES:
        raise LimitExceeded(
            f"{shown(key)} would hold an integer beyond 64 bits, "
            "which `increment` does not count to",
            limit="number_bytes", maximum=NUMBER_BYTES, actual=len(value),
        )  # fmt: skip
    return number, value

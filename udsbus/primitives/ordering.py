"""The order of an item in a priority queue, as bytes whose order is the same.

The broker does not look into items, so it cannot compare them as Python does. The client that puts
one tells it where it belongs: the encoding here keeps order, as that of the tuple layer of
FoundationDB does. Where Python would refuse to compare, numbers come before texts, these before
bytes, these before times and these before tuples.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UnsupportedValue
from ..limits import ORDER_BYTES

NUMBER, TEXT, BYTES, TIME, TUPLE = b"\x10", b"\x20", b"\x30", b"\x40", b"\x50"
END = b"\x00"
"""Of a text, bytes or a tuple: before whatever a longer one goes on with."""
_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_TOP_BIT, _ALL_BITS = 1 << 63, (1 << 64) - 1


class _NoOrder(Exception):
    """This has none."""


def order_of(item: Any) -> bytes:
    """At most ORDER_BYTES bytes; what is equal so far comes in the order of being put.

    A tuple or a list is compared by its items up to the first that has no order, a dict say: so in
    `(priority, job)` the job may be anything. Raises UnsupportedValue (a TypeError) when there is
    nothing to compare by.
    """
    out: list[bytes] = []
    try:
        _append(item, out)
    except _NoOrder:
        if not isinstance(item, tuple | list) or len(out) < 2:
            raise UnsupportedValue(
                f"a priority queue cannot put items of type {type(item).__name__} in order; put "
                "(priority, item)"
            ) from None
    return b"".join(out)[:ORDER_BYTES]


def _append(value: Any, out: list[bytes]) -> None:
    for types, encode in _ENCODERS:
        if isinstance(value, types):
            encode(value, out)
            return
    raise _NoOrder


def _append_number(value: int | float, out: list[bytes]) -> None:
    """As a float, and then by how much an integer differs from that."""
    try:
        near = float(value)
    except OverflowError:
        raise _NoOrder from None
    beyond = int(value) - int(near) if isinstance(value, int) else 0
    if math.isnan(near) or abs(beyond) >= _TOP_BIT:
        raise _NoOrder
    (bits,) = struct.unpack(">Q", struct.pack(">d", near + 0.0))  # and never -0.0
    bits = bits ^ _ALL_BITS if bits & _TOP_BIT else bits | _TOP_BIT
    out.append(NUMBER + struct.pack(">QQ", bits, beyond + _TOP_BIT))


def _append_text(value: str, out: list[bytes]) -> None:
    out.append(TEXT + _ended(value.encode("utf-8", "surrogatepass")))


def _append_bytes(value: bytes, out: list[bytes]) -> None:
    out.append(BYTES + _ended(value))


def _append_time(value: Any, out: list[bytes]) -> None:
    """In microseconds; one with a time zone by when it is."""
    if isinstance(value, datetime.datetime):
        offset = value.utcoffset() or datetime.timedelta()
        value = value.replace(tzinfo=None) - _EPOCH - offset
    elif isinstance(value, datetime.date):
        value = datetime.datetime(value.year, value.month, value.day) - _EPOCH
    out.append(TIME + (value // _MICROSECOND + (1 << 79)).to_bytes(10, "big"))


def _append_items(value: Iterable[Any], out: list[bytes]) -> None:
    out.append(TUPLE)
    for item in value:
        _append(item, out)
    out.append(END)


def _ended(data: bytes) -> bytes:
    return data.replace(b"\x00", b"\x00\xff") + END


_ENCODERS: tuple[tuple[Any, Callable[[Any, list[bytes]], None]], ...] = (
    ((int, float), _append_number),
    (str, _append_text),
    (bytes, _append_bytes),
    ((datetime.date, datetime.timedelta), _append_time),
    ((tuple, list), _append_items),
)

"""Messages with large values: how to pack and to receive them without copying them over and over.

A packer and an unpacker grow a buffer of their own for what they are given, and copy from there
once more. For small things that is quickest. For a value of some MiB, most of the time goes on
memory that is touched for the first time. Here what is large is copied once, from where it is to
where it shall be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from ..limits import LARGE_BYTES
from ..memory import keep_freed

_BIN_32: Final = 0xC6
HEAD_BYTES: Final = 4096
"""In so many bytes stands what comes before a large value: a method, a key."""
_HEAD_ITEMS: Final = 16

_pack_array: Callable[[int], bytes] = msgpack.Packer(autoreset=True).pack_array_header


def packed_large(value: bytes | str) -> bytes:
    """One of more than LARGE_BYTES bytes, or characters, as a packer packs it."""
    if type(value) is str:
        data = value.encode()
        return b"\xdb" + len(data).to_bytes(4, "big") + data
    return _bin_header(value) + value  # type: ignore[arg-type, operator]


def _bin_header(value: bytes) -> bytes:
    return b"\xc6" + len(value).to_bytes(4, "big")


def is_large(item: Any) -> bool:
    """Whether it is a large value."""
    return type(item) is bytes and len(item) > LARGE_BYTES


def holds_large(items: tuple[Any, ...]) -> bool:
    """Whether one of the items is a large value."""
    for item in items:  # noqa: SIM110  (`any` takes twice as long)
        if type(item) is bytes and len(item) > LARGE_BYTES:
            return True
    return False


def packed(pack: Callable[[Any], bytes], message: tuple[Any, ...]) -> bytes:
    """What `pack` makes of `message`, which holds a large value somewhere in its tuples."""
    parts: list[bytes] = []
    _gather(pack, message, parts)
    keep_freed(sum(map(len, parts)))
    return b"".join(parts)


def _gather(pack: Callable[[Any], bytes], item: Any, parts: list[bytes]) -> None:
    if is_large(item):
        parts += _bin_header(item), item
    elif type(item) is tuple:
        parts.append(_pack_array(len(item)))
        for each in item:
            _gather(pack, each, parts)
    else:
        parts.append(pack(item))


def end_of_large(begin: bytes | bytearray) -> int:
    """Where the large value ends that the message beginning with `begin` holds; 0 if there is none
    in sight. Before that the message is not complete."""
    head = begin[:HEAD_BYTES]
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(head)
    at = 0
    try:
        for _ in range(_HEAD_ITEMS):
            kind = head[at]
            if kind == _BIN_32 and at + 5 <= len(head):
                return at + 5 + int.from_bytes(head[at + 1 : at + 5], "big")
            if kind & 0xF0 == 0x90 or kind in (0xDC, 0xDD):
                unpacker.read_array_header()
            elif kind & 0xF0 == 0x80 or kind in (0xDE, 0xDF):
                unpacker.read_map_header()
            else:
                unpacker.skip()
            at = unpacker.tell()
    except Exception:  # of many kinds; whatever it is, it is for who decodes the message
        pass
    return 0

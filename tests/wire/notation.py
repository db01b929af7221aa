"""The notation of the examples in docs/protocol.md: messages as people read them, and as bytes.

    # [0, 1, "get", ["colour"]]
    > 94 00 01 a3 67 65 74 91 a6 63 6f 6c 6f 75 72
    # [1, 1, nil, nil]
    < 94 01 01 c0 c0

The page itself says what the lines mean.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any, NamedTuple

import msgpack

Placeholder = type
"""A form may hold a type where it does not say which object of that type is meant."""


def _bin(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


NAMES: dict[str, Any] = {
    "nil": None,
    "true": True,
    "false": False,
    "bin": _bin,
    "raw": bytes.fromhex,
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "map": dict,
}


class Step(NamedTuple):
    """One line of bytes with the form above it, or the end of one direction."""

    connection: str
    to_broker: bool
    form: str
    """What `#` says; empty if nothing does."""
    bytes: str
    """Hexadecimal, with `..` for what differs and `6b*1025` for a repeated byte; or `end`."""


def parse(block: str) -> list[Step]:
    """The steps of one example."""
    steps: list[Step] = []
    form: list[str] = []
    for line in block.strip().splitlines():
        if line.startswith("#"):
            form.append(line[1:].strip())
        elif match := re.fullmatch(r"([a-z]?)([<>]) (.+)", line):
            connection, arrow, data = match.groups()
            steps.append(Step(connection, arrow == ">", " ".join(form), data))
            form = []
        else:
            assert line.startswith("  "), f"not the notation: {line!r}"
            steps[-1] = steps[-1]._replace(bytes=f"{steps[-1].bytes} {line.strip()}")
    assert not form, f"nothing follows {form}"
    return steps


def evaluate(form: str) -> Any:
    """The message that a form describes, with a type for each placeholder."""
    return eval(form, {"__builtins__": {}}, NAMES)


def encoded(form: Any) -> str:
    """The bytes of a form as they are written."""
    return " ".join(_shortened(_pieces(form).split()))


def _pieces(form: Any) -> str:
    packer = msgpack.Packer()
    if isinstance(form, Placeholder):
        return ".."
    if isinstance(form, list):
        return " ".join([packer.pack_array_header(len(form)).hex(" "), *map(_pieces, form)])
    if isinstance(form, dict):
        inside = [_pieces(part) for item in form.items() for part in item]
        return " ".join([packer.pack_map_header(len(form)).hex(" "), *inside])
    text: str = packer.pack(form).hex(" ")
    return text


def _shortened(parts: list[str]) -> list[str]:
    written: list[str] = []
    for part, run in groupby(parts):
        times = len(list(run))
        written += [f"{part}*{times}"] if times > 20 else [part] * times
    return written


def to_bytes(written: str) -> bytes:
    """The bytes of a line to the broker."""
    data = b""
    for part in written.split():
        byte, _, times = part.partition("*")
        data += bytes.fromhex(byte) * int(times or 1)
    return data


def matches(written: str, data: bytes) -> bool:
    """Whether `data` is what a line from the broker says."""
    pattern = b""
    for part in written.split():
        pattern += b".*" if part == ".." else re.escape(to_bytes(part))
    return re.fullmatch(pattern, data, re.DOTALL) is not None


def fits(form: Any, message: Any) -> bool:
    """Whether `message` is what a form describes."""
    if isinstance(form, Placeholder):
        return type(message) is form
    if isinstance(form, list):
        return (
            isinstance(message, list)
            and len(form) == len(message)
            and all(map(fits, form, message))
        )
    if isinstance(form, dict):
        return (
            isinstance(message, dict)
            and form.keys() == message.keys()
            and all(fits(form[key], message[key]) for key in form)
        )
    return type(form) is type(message) and bool(form == message)

"""Messages to bytes. Each function returns one whole frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from ..errors import Error
from ..limits import CHANGES_BYTES, LARGE_BYTES
from ..messages import Change, Message
from ..terms import CloseReason
from .large import holds_large, is_large, packed

# One packer for the thread of the broker; a client has one for each connection.
_pack = msgpack.Packer(autoreset=True).pack
_pack_array: Callable[[int], bytes] = msgpack.Packer(autoreset=True).pack_array_header


def forget_buffer() -> None:
    """After a frame above KEPT_BYTES."""
    global _pack
    _pack = msgpack.Packer(autoreset=True).pack


def encode_error(msgid: int | None, error: Error) -> bytes:
    """A response that refuses: `[number, message]`, and the details where the result would be."""
    return _pack((1, msgid, *refusal(error)))  # type: ignore[no-any-return]


def refusal(error: Error) -> tuple[tuple[int, str], dict[str, Any]]:
    return (error.number, str(error)), {"error": error.word, **error.details}


def encode_result(msgid: int | None, result: Any) -> bytes:
    # As `is_large` does; each answer comes along here.
    if type(result) is bytes:
        large = len(result) > LARGE_BYTES
    else:
        large = type(result) is tuple and holds_large(result)
    if large:
        return packed(_pack, (1, msgid, None, result))
    return _pack((1, msgid, None, result))  # type: ignore[no-any-return]


def _notification(method: str, params: tuple[Any, ...], value: bytes | None) -> bytes:
    """`value` is what may be large of `params`."""
    if is_large(value):
        return packed(_pack, (2, method, params))
    return _pack((2, method, params))  # type: ignore[no-any-return]


def encode_change(change: Change, detail: bool = False) -> bytes:
    """The notification of a change; `detail`: with the value before and the session."""
    revision, kind, key, value, _, _, before, session = change
    if detail:
        return _notification("change", (revision, kind, key, value, before, session), value)
    return _notification("change", (revision, kind, key, value), value)


def encode_part(change: Change, detail: bool = False) -> bytes:
    """What stands for one change in `encode_changes`: no frame, but a part of many."""
    _, kind, key, value, _, _, before, session = change
    if detail:
        return _pack((kind, key, value, before, session))  # type: ignore[no-any-return]
    return _pack((kind, key, value))  # type: ignore[no-any-return]


def encode_changes(revision: int, parts: list[bytes]) -> list[bytes]:
    """The notifications of changes that share a revision: one, or as many as it takes to keep each
    below CHANGES_BYTES, unless a single change is larger."""
    frames = []
    some: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > CHANGES_BYTES and some:
            frames.append(encode_some(revision, some, more=True))
            some, size = [], 0
        some.append(part)
        size += len(part)
    frames.append(encode_some(revision, some, more=False))
    return frames


def encode_some(revision: int, parts: list[bytes], more: bool) -> bytes:
    """One notification of changes that share a revision; `more` of them follow."""
    begin = _pack_array(3) + _pack(2) + _pack("changes") + _pack_array(3 if more else 2)
    array = _pack(revision) + _pack_array(len(parts))
    return b"".join([begin, array, *parts, _pack(True) if more else b""])


def encode_message(topic: str, message: bytes) -> bytes:
    return _notification("message", (topic, message), message)


def encode_behind(revision: int, left_out: int, dropped: int) -> bytes:
    return _pack((2, "behind", (revision, left_out, dropped)))  # type: ignore[no-any-return]


def encode_in_step(revision: int) -> bytes:
    return _pack((2, "in_step", (revision,)))  # type: ignore[no-any-return]


def encode_detailed(message: Message) -> bytes:
    """The same for those who want to know more of it."""
    params = message.topic, message.message, *message.about
    return _notification("message", params, message.message)


def encode_ping(revision: int) -> bytes:
    return _pack((2, "ping", (revision,)))  # type: ignore[no-any-return]


def encode_closing(reason: CloseReason, message: str) -> bytes:
    return _pack((2, "closing", (reason.value, message)))  # type: ignore[no-any-return]

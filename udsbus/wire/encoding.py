"""Messages to bytes. Each function returns one whole frame."""

from __future__ import annotations

from typing import Any

import msgpack

from ..errors import Error
from ..messages import Change, CloseReason, Message

# One packer for the thread of the broker; a client has one for each connection.
_pack = msgpack.Packer(autoreset=True).pack


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
    return _pack((1, msgid, None, result))  # type: ignore[no-any-return]


def encode_change(change: Change) -> bytes:
    return _pack((2, "change", (change.revision, change.kind, change.key, change.value)))  # type: ignore[no-any-return]


def encode_message(topic: str, message: bytes) -> bytes:
    return _pack((2, "message", (topic, message)))  # type: ignore[no-any-return]


def encode_detailed(message: Message) -> bytes:
    """The same for those who want to know more of it."""
    return _pack((2, "message", (message.topic, message.message, *message.about)))  # type: ignore[no-any-return]


def encode_ping(revision: int) -> bytes:
    return _pack((2, "ping", (revision,)))  # type: ignore[no-any-return]


def encode_closing(reason: CloseReason, message: str) -> bytes:
    return _pack((2, "closing", (reason.value, message)))  # type: ignore[no-any-return]

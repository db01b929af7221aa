"""MessagePack-RPC framing, sans I/O: bytes in, messages out; messages in, bytes out.

    request       [0, msgid, method, params]
    response      [1, msgid, error, result]
    notification  [2, method, params]

stand back to back on a stream, without a length prefix. A `Decoder` is fed what a socket gave and
returns the messages that are complete. Bytes that are no such message end it: it keeps the
`cause`, returns what was good before, and takes nothing more. It never raises, because it runs
inside the broker's loop, where one bad peer must not matter to the others.
"""

from __future__ import annotations

from reprlib import repr as short_repr
from typing import Any, Final

import msgpack

from ..limits import FRAME_BYTES, KIB, LARGE_RECEIVE_BYTES, RECEIVE_BYTES
from ..memory import keep_freed
from ..terms import CloseReason
from .large import HEAD_BYTES, end_of_large

REQUEST: Final = 0
RESPONSE: Final = 1
NOTIFICATION: Final = 2
MSGID_MOST: Final = 0xFFFF_FFFF

_unpackb = msgpack.unpackb


class Decoder:
    """Cuts a stream of bytes into messages.

    A receive that holds exactly one message, the rule for a peer that waits for each answer, is
    decoded by `unpackb` (0.15 µs); the streaming `Unpacker` (0.54 µs for one message, 0.13 µs each
    for many) takes over when a message arrives in parts or with others. Of a message with a large
    value, all is put together before either sees it.
    """

    __slots__ = (
        "_alone", "_fed", "_large", "_least", "_swollen", "_unpacker", "_whole", "cause", "reason",
        "share",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cause: str | None = None
        """Why decoding ended, for people; None while all is well."""
        self.reason = CloseReason.BAD_BYTES
        self.share = RECEIVE_BYTES
        """How much to receive next, at most."""
        self._large = bytearray()
        """What has come of a message with a large value."""
        self._least = 0
        """Bytes that it will have, at least."""
        self._unpacker: Any = None
        self._fed = 0
        self._whole = 0
        self._alone = True
        self._swollen = False

    @property
    def partial(self) -> bool:
        """A message has come, but for its rest."""
        return bool(self._large) or (self._unpacker is not None and self._fed > self._whole)

    def feed(self, data: bytes | bytearray) -> list[Any]:
        """The messages that `data` completes: lists of the length and types of the framing."""
        if self._large:
            self._large += data
            if len(self._large) < self._least:
                return []
            data, self._large = self._large, bytearray()
            self.share = RECEIVE_BYTES
        if self._alone:
            try:
                message = _unpackb(data, strict_map_key=False)
            except Exception:
                # Several messages, a part of one, or rubbish: the Unpacker tells which.
                if len(data) >= HEAD_BYTES and self._begins_large(data):
                    return []
                self._alone = False
            else:
                if _is_call(message) or _is_notification(message):
                    return [message]
                return self._well_formed([message])
        if self.cause is not None:
            return []
        if self._unpacker is None:
            self._unpacker = msgpack.Unpacker(
                strict_map_key=False, max_buffer_size=2 * FRAME_BYTES, read_size=64 * KIB
            )
            self._fed = self._whole = 0
        messages: list[Any] = []
        try:
            self._unpacker.feed(data)
            self._fed += len(data)
            tell = self._unpacker.tell
            for message in self._unpacker:
                messages.append(message)
                self._whole = tell()  # not after the loop: that would count a part of a message
        except Exception as error:  # many kinds, depending on what is wrong with the bytes
            self.cause = f"not MessagePack: {type(error).__name__}: {error}".rstrip(": ")
        else:
            self._look_at_rest(len(messages))
        return self._well_formed(messages)

    def _begins_large(self, data: bytes | bytearray) -> bool:
        """Whether the rest of a large value is to be waited for."""
        end = end_of_large(data)
        if end <= len(data) or end > FRAME_BYTES:  # which is for the Unpacker to find out
            return False
        keep_freed(max(end, LARGE_RECEIVE_BYTES))
        self._large = bytearray(data)
        self._least = end
        self.share = LARGE_RECEIVE_BYTES
        return True

    def _well_formed(self, messages: list[Any]) -> list[Any]:
        """The requests, responses and notifications before the first message that is none."""
        for index, message in enumerate(messages):
            if not _is_call(message) and not _is_notification(message):
                self._alone = False
                self.reason = CloseReason.BAD_BYTES
                self.cause = (
                    "not MessagePack-RPC: expected [0, msgid, method, params], "
                    "[1, msgid, error, result] or [2, method, params], "
                    f"got {short_repr(message)}"
                )
                return messages[:index]
        return messages

    def _look_at_rest(self, completed: int) -> None:
        """Decide how to go on, from how much of a message is waiting for its rest."""
        waiting = self._fed - self._whole
        if not waiting:
            self._alone = completed == 1
            if self._swollen:  # the Unpacker's buffer never shrinks
                self._unpacker = None
                self._swollen = False
        elif waiting > 4 * RECEIVE_BYTES:
            self._swollen = True
            if waiting > FRAME_BYTES:
                self.reason = CloseReason.TOO_LARGE
                self.cause = f"a message is larger than {FRAME_BYTES} bytes"
                self._unpacker = None


def _is_call(message: Any) -> bool:
    """Whether it is a request or a response."""
    if type(message) is not list or len(message) != 4:
        return False
    kind, msgid, _, _ = message
    # REQUEST or RESPONSE, and up to MSGID_MOST. All that comes is looked at here, and to shift is
    # quicker than to compare with two bounds.
    return type(kind) is int and not kind >> 1 and type(msgid) is int and not msgid >> 32


def _is_notification(message: Any) -> bool:
    return (
        type(message) is list
        and len(message) == 3
        and type(message[0]) is int
        and message[0] == NOTIFICATION
    )

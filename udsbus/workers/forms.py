"""How a program is spoken to: lines of JSON, or MessagePack. Requests to bytes, and back."""

from __future__ import annotations

import json
from typing import Any, Protocol

import msgpack

from ..errors import InvalidRequest, ProtocolError
from ..limits import FRAME_BYTES

NOTHING = object()
"""No answer is whole yet."""
SHOWN_BYTES = 200
"""Of what is no answer, so much is shown."""


class Form(Protocol):
    def pack(self, request: dict[str, Any]) -> bytes:
        """Raises InvalidRequest for arguments that cannot be said like this."""

    def feed(self, data: bytes) -> None:
        """Take what the program has said. Raises ProtocolError when it is too much."""

    def next(self) -> Any:
        """What is whole of that, or NOTHING. Raises ProtocolError for what is none of this form."""

    def begun(self) -> str:
        """For people: what there is of an answer that is not whole."""

    def rest(self) -> bytes:
        """What was not read of all that was fed. It begins afresh."""


class Json:
    def __init__(self) -> None:
        self._come = bytearray()
        self._searched = 0
        """So much of it has no newline."""

    def pack(self, request: dict[str, Any]) -> bytes:
        try:
            _check_keys(request)
            return json.dumps(request, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the arguments have no form in json: {error}") from None

    def feed(self, data: bytes) -> None:
        self._come += data
        if len(self._come) > FRAME_BYTES:
            raise _too_much()

    def next(self) -> Any:
        end = self._come.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._come)
            return NOTHING
        with memoryview(self._come) as come:
            line = bytes(come[:end])
        del self._come[: end + 1]
        self._searched = 0
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise ProtocolError(
                f"the program answered with {line[:SHOWN_BYTES]!r}, which is no JSON"
            ) from None

    def begun(self) -> str:
        return f"{bytes(self._come[:SHOWN_BYTES])!r} without a newline" if self._come else ""

    def rest(self) -> bytes:
        rest, self._come, self._searched = bytes(self._come), bytearray(), 0
        return rest


class MessagePack:
    def __init__(self) -> None:
        self._unpacker = _unpacker()
        self._unread = 0
        """Bytes since the last answer that was whole."""

    def pack(self, request: dict[str, Any]) -> bytes:
        try:
            packed: bytes = msgpack.packb(request)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(f"the arguments have no form in msgpack: {error}") from None
        return packed

    def feed(self, data: bytes) -> None:
        self._unread += len(data)
        if self._unread > FRAME_BYTES:
            raise _too_much()
        self._unpacker.feed(data)

    def next(self) -> Any:
        try:
            for answer in self._unpacker:
                self._unread = 0
                return answer
        except Exception as error:  # msgpack raises many kinds
            raise ProtocolError(f"the program answered with no MessagePack: {error}") from None
        return NOTHING

    def begun(self) -> str:
        return f"{self._unread} bytes, which are no whole answer" if self._unread else ""

    def rest(self) -> bytes:
        rest: bytes = self._unpacker.read_bytes(FRAME_BYTES)
        self._unpacker, self._unread = _unpacker(), 0
        return rest


def _unpacker() -> msgpack.Unpacker:
    return msgpack.Unpacker(max_buffer_size=2 * FRAME_BYTES, strict_map_key=False)


FORMS: dict[str, type[Json] | type[MessagePack]] = {"json": Json, "msgpack": MessagePack}


def _too_much() -> ProtocolError:
    return ProtocolError(f"the program answered with more than {FRAME_BYTES} bytes")


def _check_keys(request: dict[str, Any]) -> None:
    """Raise TypeError for a key that json would make text of."""
    todo: list[Any] = [request]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r:.100} is no text")
            each = each.values()
        todo += [value for value in each if isinstance(value, dict | list | tuple)]

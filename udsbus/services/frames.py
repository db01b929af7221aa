"""The messages between whoever calls and a worker (docs/protocol.md, Calls). Pure.

[0, msgid, "call", [method, payload, seconds]]     payload: bin, the value [args, kwargs]
[1, msgid, nil, payload]                           the value that the function has returned
[1, msgid, [number, message], details]             or why there is none
[1, msgid, nil, {"stream": true}]                  it yields: then follow, until the end,
[2, "item", [payload]]
[2, "end", [nil or [number, message], details]]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from ..errors import Error, InternalError, LimitExceeded, ProtocolError, UnsupportedValue
from ..limits import FRAME_BYTES, VALUE_BYTES
from ..wire.encoding import refusal
from ..wire.values import decode, encode
from .failures import Refusal, failure

LEAVING = -1
"""In the place of an error's number: the worker leaves, and has not begun with the call."""
AGAIN = -2
"""It has not begun with the call, and wants it over another connection."""
_pack = msgpack.packb
_STREAM = {"stream": True}


def arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The payload of a call. Raises UnsupportedValue, LimitExceeded."""
    try:
        payload = encode([list(args), kwargs])
    except UnsupportedValue as error:
        raise UnsupportedValue(f"an argument of {name}: {error}") from None
    check_size(f"the arguments of {name}", payload)
    return payload


def check_size(what: str, payload: bytes) -> None:
    if len(payload) > VALUE_BYTES:
        raise LimitExceeded(
            f"{what} take {len(payload)} bytes; the limit is {VALUE_BYTES}",
            limit="value_bytes", maximum=VALUE_BYTES, actual=len(payload),
        )  # fmt: skip


def call_frame(msgid: int, method: str, payload: bytes, seconds: float) -> bytes:
    frame: bytes = _pack((0, msgid, "call", (method, payload, seconds)))
    return frame


def answer_of(message: list[Any], msgid: int, service: str) -> tuple[Any, Any]:
    """The error and the result of the answer to a call. Raises ProtocolError for what is none."""
    if len(message) != 4 or message[:2] != [1, msgid]:
        raise ProtocolError(f"{service}: the worker sent something else than the answer to a call")
    return message[2], message[3]


def is_stream(result: Any) -> bool:
    return type(result) is dict


class Called(NamedTuple):
    """A call, as the worker gets it."""

    msgid: int
    method: str
    payload: bytes
    seconds: float | None
    """How long whoever calls waits."""

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Raises UnsupportedValue."""
        found = decode(self.payload)
        if type(found) is list and len(found) == 2:
            args, kwargs = found
            named = type(kwargs) is dict and (not kwargs or all(type(k) is str for k in kwargs))
            if named and type(args) is list:
                return args, kwargs
        raise UnsupportedValue("the payload of a call is [array of arguments, map of named ones]")


def called(message: list[Any]) -> Called | None:
    """The call that a message is; None: it is none."""
    if len(message) != 4 or message[0] != 0 or message[2] != "call":
        return None
    params = message[3]
    if type(params) is not list or len(params) != 3:
        return None
    method, payload, seconds = params
    if type(method) is not str or type(payload) is not bytes:
        return None
    if type(seconds) not in (int, float, type(None)):
        return None
    return Called(message[1], method, payload, seconds)


def result_frame(call: Called, name: str, result: Any) -> bytes:
    """The answer; that it cannot be sent, if so."""
    try:
        payload = _result(name, result)
    except Error as error:
        return refusal_frame(call, refusal(error))
    frame: bytes = _pack((1, call.msgid, None, payload))
    return frame


def _result(name: str, result: Any) -> bytes:
    try:
        payload = encode(result)
    except UnsupportedValue as error:
        raise UnsupportedValue(f"what {name} returned: {error}") from None
    check_size(f"the results of {name}", payload)
    return payload


def refusal_frame(call: Called, why: Refusal) -> bytes:
    frame: bytes = _pack((1, call.msgid, *why))
    return frame if len(frame) <= FRAME_BYTES else _pack((1, call.msgid, *_shortened(why)))


def _shortened(why: Refusal) -> Refusal:
    """What is left of one that would be no message."""
    (number, message), _ = why
    return (number, message[:1000]), {}


def failure_frame(call: Called, error: BaseException) -> bytes:
    return refusal_frame(call, failure(error))


def fault_frame(call: Called) -> bytes:
    """When even that cannot be said."""
    fault = InternalError("the worker failed to carry out the call, or to say how it ended")
    return refusal_frame(call, refusal(fault))


def leaving_frame(msgid: int) -> bytes:
    frame: bytes = _pack((1, msgid, (LEAVING, "this worker leaves"), {}))
    return frame


def again_frame(msgid: int) -> bytes:
    frame: bytes = _pack((1, msgid, (AGAIN, "this worker closes the connection"), {}))
    return frame


def stream_frame(call: Called) -> bytes:
    frame: bytes = _pack((1, call.msgid, None, _STREAM))
    return frame


def item_frame(name: str, item: Any) -> bytes:
    """Raises UnsupportedValue, LimitExceeded."""
    frame: bytes = _pack((2, "item", (_result(name, item),)))
    return frame


def end_frame(error: BaseException | None = None) -> bytes:
    if error is None:
        why: Any = (None, None)
    elif isinstance(error, UnsupportedValue | LimitExceeded):
        why = refusal(error)
    else:
        why = failure(error)
    frame: bytes = _pack((2, "end", why))
    return frame if len(frame) <= FRAME_BYTES else _pack((2, "end", _shortened(why)))

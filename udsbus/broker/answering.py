"""How a request becomes a result, or an error: the method's route, its command, its handler.

The turn calls this for each message; a `batch` comes back to it for each request inside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from reprlib import repr as short_repr
from time import monotonic
from typing import Any

from ..errors import (
    Error,
    InternalError,
    InvalidRequest,
    LimitExceeded,
    StorageFailed,
    UnknownMethod,
    UnsupportedValue,
)
from ..limits import FRAME_BYTES, KEPT_BYTES, PAGE_BYTES, SHARE_SECONDS
from ..messages import WRITES, Batch, Command, Get, Later, Publish, Transaction
from ..wire.encoding import encode_result, forget_buffer, refusal
from ..wire.methods import BATCHED, METHODS, Method
from .statistics import Statistics

log = logging.getLogger("udsbus.broker")

Handler = Callable[..., Any]
"""Carries out a command, called with (connection's number, now, *command)."""

Routes = dict[str, tuple[int, Handler, Method]]
"""Method name → what `answer` needs of it, looked up once instead of each time."""

ENDING = ("get", "entry")
"""The requests after which a batch may end: those whose results may be large or slow to make."""


class Answering:
    """Carries out requests, alone or in a `batch`, and counts those that are refused."""

    def __init__(self, handlers: dict[type[Command], Handler], statistics: Statistics) -> None:
        """`handlers` for every command but Batch, which is carried out here."""
        self._handlers = handlers | {Batch: self._batch}
        self.routes: Routes = {
            name: (method.plain, self._handlers[method.command], method)
            for name, method in METHODS.items()
        }
        self._batched: Routes = {name: self.routes[name] for name in BATCHED}
        self._statistics = statistics

    def refuse_writes(self, failure: StorageFailed | None) -> None:
        """Answer each request that would change something with `failure`; None: no longer."""
        for name, (plain, _, method) in self.routes.items():
            if method.command in WRITES:
                handler = self._handlers[method.command]
                if failure is not None:
                    handler = _refusing(failure, method.command, handler)
                self.routes[name] = plain, handler, method
                if name in self._batched:
                    self._batched[name] = self.routes[name]

    def answer(self, routes: Routes, number: int, now: float, name: Any, params: Any) -> Any:
        """The result of a request. Raises what refuses it."""
        try:
            plain, handler, method = routes[name]
        except (KeyError, TypeError):
            here = "" if routes is self.routes else " that a batch may hold"
            raise UnknownMethod(f"there is no method {short_repr(name)}{here}") from None
        if plain > 0:
            if type(params) is list and len(params) == plain and type(params[0]) is str:
                if plain == 1:
                    return handler(number, now, params[0])
                if type(params[1]) is bytes:
                    return handler(number, now, params[0], params[1])
        elif plain and type(params) is list and len(params) == -plain and type(params[0]) is str:
            for whole in params[1:]:
                if type(whole) is not int or whole < 0:
                    break
            else:
                return handler(number, now, *params)
        command, native = method.parse(params)
        result = handler(number, now, *command)
        if native and method.to_native is not None:
            if type(result) is Later:
                return result._replace(to_native=method.to_native)
            result = method.to_native(result)
            _check_size(result)
        return result

    def refused(self, number: int, name: Any, failure: Exception) -> Error:
        """What the peer is told of a request that failed."""
        self._statistics.refused += 1
        if isinstance(failure, Error):
            return failure
        log.error("a %s of connection %d failed", short_repr(name), number, exc_info=failure)
        return InternalError("the broker failed to carry this out; its log says more")

    def _batch(
        self, number: int, now: float, requests: list[Any]
    ) -> tuple[list[Any], dict[int, Any]]:
        """Carry out one request after the other; reads only while their values fit in a response,
        and for no more than a share of the turn."""
        results: list[Any] = []
        refusals: dict[int, Any] = {}
        size, routes, until = 0, self._batched, monotonic() + SHARE_SECONDS
        set_plainly = routes["set"][1]
        for request in requests:
            name: Any = None
            try:
                if type(request) is not list or len(request) != 2:
                    raise InvalidRequest("each of requests must be [method, params]")
                name, params = request
                # A short way for what is done most, as `answer` would find it.
                if name == "set" and type(params) is list and len(params) == 2:
                    key, value = params
                    if type(key) is str and type(value) is bytes:
                        results.append(set_plainly(number, now, key, value))
                        continue
                if type(params) is list and params and _may_wait(params[-1]):
                    raise InvalidRequest(f"{name}: in a batch nothing can wait")
                result = self.answer(routes, number, now, name, params)
                if type(result) is not int:
                    size += _packed_size(result)
            except Exception as failure:
                refusals[len(results)] = refusal(self.refused(number, name, failure))
                result = None
            results.append(result)
            # Writes are quick, and a client may send more of them before it has this answer.
            if name in ENDING and (size > PAGE_BYTES or monotonic() > until):
                break
        self._statistics.requests += len(results) - 1  # the batch itself is counted as one
        return results, refusals


def _refusing(failure: StorageFailed, command: type[Command], handler: Handler) -> Handler:
    """What answers a write while the journal cannot be written."""

    def refuse(number: int, now: float, *fields: Any) -> Any:
        if command is Transaction and all(type(operation) is Get for operation in fields[1]):
            return handler(number, now, *fields)
        if command is Publish and not any(fields[2:3]):  # which is not to be retained
            return handler(number, now, *fields)
        raise failure.with_traceback(None)  # it would grow with each raise

    return refuse


def _check_size(result: Any) -> None:
    """Raise unless a native result can be packed, and is no more than one response holds."""
    try:
        size = _packed_size(result)
    except ValueError as error:
        raise UnsupportedValue(f"this value cannot be packed into a response: {error}") from None
    if size > FRAME_BYTES:
        raise LimitExceeded(
            f"a response of {size} bytes; one holds {FRAME_BYTES}; ask for less at once",
            limit="frame_bytes", maximum=FRAME_BYTES, actual=size,
        )  # fmt: skip


def _packed_size(result: Any) -> int:
    """About how many bytes a result takes in a response."""
    if result is None or type(result) is bool:
        return 1
    if type(result) is bytes:
        return len(result)
    # As deep as it will stand in the response: msgpack packs only so many levels.
    size = len(encode_result(0, ([result], {})))
    if size > KEPT_BYTES:
        forget_buffer()
    return size


def _may_wait(options: Any) -> bool:
    """Whether a request with these might be answered later."""
    return type(options) is dict and options.get("wait") is not None

"""For a program in Python that is asked over its stdin (`udsbus worker --stdio`)."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgpack

from ..errors import Error
from ..services.offered import Offered
from .stdio import ANSWERS, REQUESTS

READ_BYTES = 256 * 1024
"""At once, of what has come."""


def serve_stdio(target: Any, *, format: Literal["json", "msgpack"] = "json") -> None:  # noqa: A002
    """Answer what comes over stdin until its end: for the main program of a worker that
    `udsbus worker --stdio` starts, or that somebody else starts who speaks like that.

        udsbus.serve_stdio(Calc())       # an object, a class, or a function

    Answers go to a descriptor of their own: what the program prints comes to stderr, and cannot be
    taken for an answer; and what reads stdin finds nothing. With `--private` they do so anyway.
    """
    offered = Offered("stdio", target)
    requests, answers = _private()
    pack, read = (_in_json, _lines) if format == "json" else (msgpack.packb, _maps)
    for request in read(requests):
        try:
            _write(answers, _packed(pack, _answer(offered, request)))
        except BrokenPipeError:  # as at the end of stdin
            return


def _private() -> tuple[int, int]:
    """Where requests come from and answers go to, which nothing else does."""
    with contextlib.suppress(KeyError):
        # Not for what the program starts.
        given = os.environ.pop(REQUESTS), os.environ.pop(ANSWERS)
        return os.open(given[0], os.O_RDONLY), os.open(given[1], os.O_WRONLY)
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _lines(descriptor: int) -> Iterator[Any]:
    with os.fdopen(descriptor, "rb", READ_BYTES) as source:
        yield from map(_request, source)


def _maps(descriptor: int) -> Iterator[Any]:
    unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False)
    while data := os.read(descriptor, READ_BYTES):
        unpacker.feed(data)
        yield from unpacker


def _write(descriptor: int, data: bytes) -> None:
    """All of it: a signal may come in between."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _in_json(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _packed(pack: Callable[[dict[str, Any]], bytes], answer: dict[str, Any]) -> bytes:
    try:
        return pack(answer)
    except Exception as error:  # msgpack raises many kinds
        why = f"what it returned has no form here: {type(error).__name__}: {error}"
        return pack({"id": answer["id"], "error": why.encode(errors="replace").decode()})


def _request(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return {"id": None, "wrong": f"this is no JSON: {error}"}


def _answer(offered: Offered, request: Any) -> dict[str, Any]:
    if type(request) is not dict or "method" not in request:
        wrong = request.get("wrong") if type(request) is dict else None
        return {"id": None, "error": wrong or "a request is a map with id, method, args, kwargs"}
    number = request.get("id")
    args, kwargs = request.get("args") or [], request.get("kwargs") or {}
    try:
        function = offered.find(request["method"])
        function.check(args, kwargs)
        return {"id": number, "result": function.function(*args, **kwargs)}
    except Error as error:
        return {"id": number, "error": str(error)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: it is a call that has failed, not the program
        traceback.print_exc()
        return {"id": number, "error": f"{type(error).__name__}: {error}"}

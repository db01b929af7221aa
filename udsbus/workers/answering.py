"""For a program in Python that is asked over its stdin (`udsbus worker --stdio`)."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any, Literal

import msgpack

from ..errors import Error
from ..services.offered import Offered


def serve_stdio(target: Any, *, format: Literal["json", "msgpack"] = "json") -> None:  # noqa: A002
    """Answer what comes over stdin until its end: for the main program of a worker that
    `udsbus worker --stdio` starts, or that somebody else starts who speaks like that.

        udsbus.serve_stdio(Calc())       # an object, a class, or a function

    Answers go to a descriptor of their own: what the program prints comes to stderr, and cannot be
    taken for an answer; and what reads stdin finds nothing.
    """
    offered = Offered("stdio", target)
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with os.fdopen(requests, "rb", buffering=0) as source, os.fdopen(answers, "wb", 0) as sink:
        if format == "json":
            for line in iter(source.readline, b""):
                sink.write(_packed(_in_json, _answer(offered, _request(line))))
        else:
            for request in msgpack.Unpacker(source, read_size=1):
                sink.write(_packed(msgpack.packb, _answer(offered, request)))


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
    except Exception as error:
        traceback.print_exc()
        return {"id": number, "error": f"{type(error).__name__}: {error}"}

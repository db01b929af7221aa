"""Exceptions on their way from a worker to whoever called it.

They travel as the name of their class, their arguments and attributes, and the traceback as text.
The class is looked for among the built-in ones and in the modules that the caller has imported
already: nothing is imported because somebody else says so, and nothing is unpickled. As when an
exception is unpickled, its constructor is not asked: it may take others than it keeps.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import os
import sys
import traceback
from types import TracebackType
from typing import Any

from ..client.requests import error_from
from ..errors import RemoteError
from ..wire.values import decode, encode

TRACEBACK_LINES = 60
"""Of a longer one, the beginning and the end."""

_HERE = os.path.dirname(__file__) + os.sep

ATTRIBUTES_BYTES = 64 * 1024
"""Of an exception; with more it comes without them."""
BESIDE_ARGS: tuple[tuple[type[Exception], tuple[str, ...]], ...] = (
    (OSError, ("filename", "filename2")),
    (ImportError, ("name", "path")),
    (AttributeError, ("name",)),
    (NameError, ("name",)),
)
"""What built-in exceptions keep that is neither an argument nor in their dict."""
OF_CLASSES = {name for _, names in BESIDE_ARGS for name in names}
NOTES = "__notes__"
"""Where `add_note` puts them."""

ENDS = (StopIteration, StopAsyncIteration)
"""What these mean where they are raised, they would not mean to whoever called."""

Refusal = tuple[tuple[int, str], dict[str, Any]]
"""What stands in a response: [number, message], and the details."""


def failure(error: BaseException) -> Refusal:
    """That what was called has raised."""
    cls = type(error)
    try:
        arguments: bytes | None = encode(list(error.args))
    except Exception:  # of a class that somebody has written, too
        arguments = None
    attributes = _attributes(error)
    try:
        lines = traceback.format_exception(cls, error, _below(error.__traceback__))
    except Exception:
        lines = ["(its traceback cannot be shown)"]
    text = _sendable("".join(lines)).rstrip().split("\n")
    if len(text) > TRACEBACK_LINES:
        half = TRACEBACK_LINES // 2
        text = [*text[:half], f"  … {len(text) - 2 * half} lines …", *text[-half:]]
    try:
        message = _sendable(str(error))
    except BaseException:
        message = ""
    name = f"{cls.__module__}.{cls.__qualname__}"
    shown = f"{name.removeprefix('builtins.')}: {message}".removesuffix(": ")
    details: dict[str, Any] = {
        "error": RemoteError.word, "type": name, "arguments": arguments,
        "traceback": "\n".join(text),
    }  # fmt: skip
    if attributes:
        details["attributes"] = attributes
    return (RemoteError.number, shown), details


def _attributes(error: BaseException) -> dict[str, bytes]:
    """Those that can be sent, each by itself."""
    found: dict[str, Any] = {}
    try:
        found.update(error.__dict__)
        for cls, names in BESIDE_ARGS:
            if isinstance(error, cls):
                found.update({name: getattr(error, name) for name in names})
    except Exception:  # of a class that somebody has written
        return {}
    sent = {}
    for name, value in found.items():
        if name == NOTES or (isinstance(name, str) and not name.startswith("__")):
            with contextlib.suppress(Exception):  # it has no form
                sent[name] = encode(value)
    return sent if sum(map(len, sent.values())) <= ATTRIBUTES_BYTES else {}


def _sendable(text: str) -> str:
    """File names have characters in them that are none, for bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _below(found: TracebackType | None) -> TracebackType | None:
    """Without the worker's own frames, and those of its threads, which are on top."""
    while found is not None:
        name = found.tb_frame.f_code.co_filename
        package = name.rpartition(f"site-packages{os.sep}")[2].partition(os.sep)[0]
        if not name.startswith(_HERE) and package not in ("anyio", "trio", "outcome"):
            break
        found = found.tb_next
    return found


def raised(error: Any, details: Any) -> BaseException:
    """The exception for a response that refuses."""
    found = error_from(error, details)
    if not isinstance(found, RemoteError):
        return found
    arguments = found.details.pop("arguments", None)
    attributes = found.details.pop("attributes", None)
    cls = _shared(found.details.get("type"))
    if cls is None:
        return found
    try:
        args = decode(arguments) if arguments is not None else [Exception.__str__(found)]
        made = _made(cls, args, attributes)
    except Exception:  # of a constructor that somebody has written
        return found
    made.__cause__ = found
    return made


def _made(cls: type[Exception], args: list[Any], attributes: Any) -> Exception:
    sent = {name: decode(value) for name, value in (attributes or {}).items()}
    made = cls.__new__(cls, *args)
    if not inspect.isfunction(cls.__init__):  # one of C, which sets what is no attribute of a dict
        cls.__init__(made, *args)
    made.args = tuple(args)
    for name, value in sent.items():
        if name not in OF_CLASSES:
            made.__dict__[name] = value
        elif value is not None:
            setattr(made, name, value)
    return made


def _is_internal(module: str) -> bool:
    """Whether its classes mean something within udsbus."""
    package = __name__.partition(".")[0]
    return module.startswith(package + ".") and module != f"{package}.errors"


def _shared(name: Any) -> type[Exception] | None:
    """The class of this name, if this process has it."""
    if type(name) is not str:
        return None
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        found: Any = builtins if module == "builtins" else sys.modules.get(module)
        if found is None or module == "__main__":  # which is another module there
            continue
        for part in parts[end:]:  # not by getattr, by which a module may import another
            found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, type) and issubclass(found, Exception):
            return None if issubclass(found, ENDS) or _is_internal(module) else found
        return None
    return None

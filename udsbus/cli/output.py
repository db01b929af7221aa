"""What goes out: to a terminal, where a control character of somebody else's must never arrive,
or into a pipe, where a program reads it.

Keys, topics and messages for people look the same in both: one line, with what is not printable
escaped as Python writes it (`\\x1b`). Values are JSON, which escapes in its own way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, TextIO

from ..wire.notation import to_json


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def shown(text: str, *, keep: str = "") -> str:
    """`text` with everything unprintable escaped, except the characters in `keep`.

    Unprintable is what Python calls so: C0, DEL and C1 controls, bidirectional controls and other
    invisible format characters, line separators, lone surrogates, and spaces but the common one.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def json_of(value: Any) -> str:
    """The value as JSON, also for a stream that cannot take every character."""
    text = to_json(value)
    encoding = getattr(sys.stdout, "encoding", "utf-8").lower()
    if encoding == "utf-8" or text.isascii():
        return text
    import json

    return json.dumps(json.loads(text))


def write(text: str, *, flush: bool = False) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.write(text)
    if flush:
        sys.stdout.flush()


def write_line(line: str) -> None:
    write(line + "\n")


def write_raw(value: Any) -> None:
    """Text and bytes as they are, without a newline of ours, unless it is a terminal that reads;
    other values as JSON, on a line."""
    if not isinstance(value, str | bytes):
        write_line(json_of(value))
    elif is_terminal(sys.stdout):
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        text = shown(text, keep="\n\t")
        write(text if text.endswith("\n") else text + "\n")
    else:
        write("", flush=True)  # complains when it is closed
        sys.stdout.buffer.write(value.encode() if isinstance(value, str) else value)


def complain(message: str) -> None:
    """Tell a person on stderr, in one line. The exit code matters more: no error of stderr's."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"udsbus: {shown(' '.join(message.splitlines()))}\n")
            sys.stderr.flush()


def abandon_stdout() -> None:
    """After a failed write: let nobody try again to get rid of what is still buffered."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""The argument that holds a value: JSON, text, or stdin."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..wire.notation import NotationError, NotJSON, from_json

STDIN = "-"


def read_value(argument: str, *, as_json: bool, raw: bool) -> Any:
    """The value that a command line means; with "-" the one that stdin holds.

    JSON where it is JSON, else text; `as_json` insists; `raw`: text verbatim, or bytes if they
    are not UTF-8. Raises UsageError.
    """
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    from_stdin = argument == STDIN
    data = _stdin() if from_stdin else os.fsencode(argument)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if raw:
            return data
        raise click.UsageError(
            f"the value is not UTF-8 (byte {error.start}); --raw stores it as bytes"
        ) from None
    if raw:
        return text
    # As `echo` and here-documents leave a newline at the end, of which nobody thinks.
    return value_of(text.removesuffix("\n") if from_stdin else text, as_json=as_json)


def value_of(text: str, *, as_json: bool = False) -> Any:
    """JSON where it is JSON, else text; `as_json` insists. Raises UsageError."""
    try:
        return from_json(text)
    except NotJSON as error:
        if as_json:
            raise click.UsageError(f"the value is not JSON: {error}") from None
        return text
    except NotationError as error:
        raise click.UsageError(f"the value: {error}") from None


def _stdin() -> bytes:
    if sys.stdin is None:
        raise click.UsageError("standard input is closed")
    return sys.stdin.buffer.read()

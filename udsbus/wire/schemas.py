"""JSON Schema for values: how an encoded schema becomes a check of encoded values.

The work is jsonschema-rs's, the extra `schema`; it is imported when the first schema is set. Here a
schema comes from whoever may use the bus, and the check runs within a turn, so it refers to nothing
outside itself (no file or address is ever opened for a `$ref`) and its regular expressions are
bounded in steps and in size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..errors import InvalidRequest, MissingExtra, SchemaViolation, UnsupportedValue
from ..patterns import shown
from .values import decode

REGEX_STEPS = 100_000
REGEX_BYTES = 1024 * 1024
SHOWN = 300
"""Characters of a reason: it may show the value that is wrong, however long that is."""
PATH_SHOWN = 1_000


def compile_schema(pattern: str, schema: bytes) -> Callable[[str, bytes], None]:
    """A check that raises SchemaViolation for a value that does not match.

    Raises InvalidRequest for what is no JSON Schema, or refers to another; MissingExtra.
    """
    jsonschema_rs = _library()
    described = decode(schema)
    if not isinstance(described, dict | bool):  # it would take text for JSON
        raise InvalidRequest(
            f"a schema is a map (or true or false), not {type(described).__name__}: "
            f"{shown(pattern)}"
        )
    try:
        validator = jsonschema_rs.validator_for(
            described,
            validate_formats=True,
            retriever=_refuse_to_retrieve,
            pattern_options=jsonschema_rs.FancyRegexOptions(
                backtrack_limit=REGEX_STEPS, size_limit=REGEX_BYTES
            ),
        )
    except (ValueError, TypeError) as error:  # its ValidationError is a ValueError
        where = _pointer(getattr(error, "instance_path", []))
        what = _short(getattr(error, "message", str(error)))
        raise InvalidRequest(
            f"this is no JSON Schema, so not one for {shown(pattern)}"
            f"{where and '; at '}{where}: {what}"
        ) from None
    invalid = jsonschema_rs.ValidationError

    def check(key: str, value: bytes) -> None:
        try:
            validator.validate(decode(value))
        except invalid as error:
            where, what = _pointer(error.instance_path), _short(error.message)
        except UnsupportedValue as error:
            where, what = "", str(error)
        except (ValueError, TypeError) as error:
            where, what = "", _short(f"it has no form in JSON ({error})")
        else:
            return
        raise SchemaViolation(
            f"{shown(key)} does not match the schema of {shown(pattern)}"
            f"{where and ' at '}{where}: {what}",
            key=key, pattern=pattern, path=where, reason=what,
        )  # fmt: skip

    return check


def _library() -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        raise MissingExtra(
            f"schemas need the package jsonschema-rs, which {sys.executable} does not have; "
            "pip install 'udsbus[schema]' for it, then start the broker anew (udsbus takeover)",
            extra="schema",
        ) from None
    return jsonschema_rs


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError("a schema must hold all that it refers to")


def _pointer(path: list[str | int]) -> str:
    """RFC 6901; the empty one means the whole value."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "".join(f"/{step}" for step in steps)[:PATH_SHOWN]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"

"""JSON Schema for values: how an encoded schema becomes a check of encoded values.

The work is jsonschema-rs's, the extra `schema`; it is imported when the first schema is set. The
check runs within a turn, so it refers to nothing outside itself (no file or address is ever opened
for a `$ref`), and what it may cost by accident is bounded: the size of a value, the depth to which
a reason is looked for, the number and the size of regular expressions. A schema is trusted as far
as the program that sets it: of those who may do that, each can also end the broker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any

from ..errors import InvalidRequest, LimitExceeded, MissingExtra, SchemaViolation, UnsupportedValue
from ..limits import CHECKED_BYTES, SCHEMA_EXPRESSIONS
from ..patterns import shown
from .values import decode

REGEX_STEPS = 100_000
REGEX_BYTES = 256 * 1024
SHOWN = 300
"""Characters of a reason: it may show the value that is wrong, however long that is."""
PATH_SHOWN = 1_000
EXPLAINED_DEPTH = 5
"""Beyond it no reason is looked for if the schema has alternatives and references: jsonschema-rs
looks into every combination of them."""
INTEGERS = range(-(2**63), 2**64)
"""Those that MessagePack has, and every JSON library can read."""


def compile_schema(pattern: str, schema: bytes) -> Callable[[str, bytes], None]:
    """A check that raises SchemaViolation for a value that does not match, and LimitExceeded for
    one that is too large to be checked.

    Raises InvalidRequest for what is no JSON Schema, or refers to another; LimitExceeded;
    MissingExtra.
    """
    described = decode(schema)
    if not isinstance(described, dict | bool):  # it would take text for JSON
        raise InvalidRequest(
            f"a schema is a map (or true or false), not {type(described).__name__}: "
            f"{shown(pattern)}"
        )
    if (foreign := _foreign(described)) is not None:
        raise _no_schema(pattern, foreign[0], foreign[1])
    keywords = list(_keywords(described))
    expressions = keywords.count("pattern")
    if expressions > SCHEMA_EXPRESSIONS:
        raise LimitExceeded(
            f"a schema with {expressions} regular expressions for {shown(pattern)}; the limit is "
            f"{SCHEMA_EXPRESSIONS}",
            limit="schema_expressions", maximum=SCHEMA_EXPRESSIONS, actual=expressions,
        )  # fmt: skip
    combines = {"anyOf", "oneOf"} & set(keywords) and any(
        "Ref" in k or k == "$ref" for k in keywords
    )
    validator, invalid = _validator(pattern, described)

    def check(key: str, value: bytes) -> None:
        where = ""
        if len(value) > CHECKED_BYTES:
            raise LimitExceeded(
                f"{shown(key)}: a value of {len(value)} bytes; one that a schema is of, that of "
                f"{shown(pattern)}, has {CHECKED_BYTES} at most",
                limit="checked_bytes", maximum=CHECKED_BYTES, actual=len(value),
            )  # fmt: skip
        try:
            plain = decode(value)
            if (foreign := _foreign(plain)) is not None:
                where, what = foreign
            elif validator.is_valid(plain):
                return
            elif combines and _deeper(plain, EXPLAINED_DEPTH):
                what = "none of the alternatives fits (it is nested too deeply to say where)"
            else:
                validator.validate(plain)
                what = "it does not match"
        except invalid as error:
            where, what = _pointer(error.instance_path), _short(error.message)
        except (UnsupportedValue, ValueError) as error:
            what = _short(str(error))
        raise SchemaViolation(
            f"{shown(key)} does not match the schema of {shown(pattern)}"
            f"{where and ' at '}{where}: {what}",
            key=key, pattern=pattern, path=where, reason=what,
        )  # fmt: skip

    return check


def _validator(pattern: str, schema: Any) -> tuple[Any, Any]:
    """Of jsonschema-rs: a validator, and what that raises."""
    try:
        import jsonschema_rs

        invalid: Any = jsonschema_rs.ValidationError
        options = jsonschema_rs.FancyRegexOptions(
            backtrack_limit=REGEX_STEPS, size_limit=REGEX_BYTES
        )
        validator_for = jsonschema_rs.validator_for
    except Exception as error:  # another release of it may lack a name, or fail at its import
        raise MissingExtra(
            f"schemas need the package jsonschema-rs, which {sys.executable} cannot use ({error}); "
            "pip install 'udsbus[schema]' for it, and start anew what lacks it (a broker: "
            "udsbus takeover)",
            extra="schema",
        ) from None
    try:
        return validator_for(
            schema,
            validate_formats=True,
            retriever=_refuse_to_retrieve,
            pattern_options=options,
        ), invalid
    except invalid as error:
        raise _no_schema(pattern, _pointer(error.instance_path), error.message) from None
    except Exception as error:
        raise _no_schema(pattern, "", str(error)) from None


def _no_schema(pattern: str, where: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"this is no JSON Schema, so not one for {shown(pattern)}"
        f"{where and '; at '}{where}: {_short(what)}"
    )


def _refuse_to_retrieve(uri: str) -> Any:
    raise ValueError("a schema must hold all that it refers to")


def _foreign(value: Any) -> tuple[str, str] | None:
    """Where the first thing stands that has no form in JSON, and what it is."""
    waiting: list[Any] = [value]
    for part in waiting:  # which grows
        kind = type(part)
        if kind is dict:
            if not all(type(key) is str for key in part):
                break
            waiting += part.values()
        elif kind is list or kind is tuple:
            waiting += part
        elif kind is str or kind is bool or part is None:
            continue
        elif kind is int:
            if part not in INTEGERS:
                break
        elif kind is not float or not isfinite(part):
            break
    else:
        return None
    return _place_of(value, part)


def _place_of(value: Any, culprit: Any) -> tuple[str, str]:
    """The place of `culprit` in `value`, which holds it somewhere."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    for path, part in waiting:
        if part is culprit:
            break
        if type(part) is dict:
            waiting += [((*path, key), each) for key, each in part.items()]
        elif type(part) in (list, tuple):
            waiting += [((*path, index), each) for index, each in enumerate(part)]
    if type(culprit) is dict:
        what = "a key that is no text"
    elif type(culprit) is int:
        what = "an integer beyond 64 bits"
    elif type(culprit) is float:
        what = repr(culprit)
    else:
        what = f"a value of type {type(culprit).__name__}"
    return _pointer(list(path)), f"{what} has no form in JSON"


def _keywords(schema: Any) -> Iterator[str]:
    """The keywords that a schema may use; `pattern` for each regular expression."""
    waiting = [schema]
    for part in waiting:
        if type(part) is dict:
            for key, value in part.items():
                yield from ["pattern"] * len(value) if key == "patternProperties" else [key]
                waiting.append(value)
        elif type(part) in (list, tuple):
            waiting += part


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and maps are nested more deeply than that."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            part
            for each in level
            if type(each) in (dict, list, tuple)
            for part in (each.values() if type(each) is dict else each)
        ]
    return bool(level)


def _pointer(path: list[str | int]) -> str:
    """RFC 6901; the empty one means the whole value."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "".join(f"/{step}" for step in steps)[:PATH_SHOWN]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"

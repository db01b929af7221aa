"""Values as JSON, and back, exactly.

What JSON has is written as itself. What it lacks is an object with one key, a *tag*, that begins
with `$`:

    {"$bytes": "aGk="}                base64
    {"$float": "nan"}                 also "inf" and "-inf"
    {"$tuple": [1, 2]}                and every other type in wire.values.EXTENSIONS
    {"$map": [[1, "one"]]}            a dict with keys that are not text, or with a single key
                                      that would itself look like a tag

The tags of the extension types come from their table: the tag is the type's name in lower case,
its content the extension's own plain form. Big integers are JSON integers, as far as Python reads
them (4,300 digits); beyond that they too are an extension.
"""

from __future__ import annotations

import binascii
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from ..errors import UnsupportedValue
from .values import EXTENSIONS, Extension, extension_of


class NotationError(ValueError):
    """Text that is no JSON, or JSON that is no value."""


class NotJSON(NotationError):
    """Text that is no JSON at all."""


# --- out ------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """The value in JSON, on one line; every unprintable character escaped, so that no terminal
    obeys it. Raises UnsupportedValue for one that is nested too deeply."""
    try:
        text = json.dumps(to_plain(value), ensure_ascii=False)
    except RecursionError:
        raise UnsupportedValue("the value is nested too deeply to be written as JSON") from None
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def to_plain(value: Any) -> Any:
    """What `json.dumps` takes, for any value that the wire carries."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int and value.bit_length() <= _INT_BITS:
        return value
    if kind is float:
        return value if value - value == 0 else {"$float": str(value)}
    if kind is list:
        return [to_plain(item) for item in value]
    if kind is dict:
        return _dict_to_plain(value)
    if kind is bytes:
        return {"$bytes": binascii.b2a_base64(value, newline=False).decode()}
    extension = extension_of(value)
    if extension is None:
        raise UnsupportedValue(f"a value of type {kind.__name__} has no JSON form")
    tag = tag_of(extension)
    spelling = _SPELLINGS.get(tag)
    return {tag: to_plain(spelling.plain(value) if spelling else extension.plain(value))}


def _dict_to_plain(value: dict[Any, Any]) -> Any:
    only_text = all(type(key) is str for key in value)
    if not only_text or (len(value) == 1 and next(iter(value)).startswith("$")):
        return {"$map": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    return {key: to_plain(item) for key, item in value.items()}


# --- in -------------------------------------------------------------------------------------


def from_json(text: str, *, unique: bool = False) -> Any:
    """The value that `text` stands for. `unique`: a name must not come twice in a dict. Raises
    NotationError, NotJSON."""
    try:
        plain = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_float,
            parse_int=_int,
            object_pairs_hook=_unique if unique else None,
        )
    except json.JSONDecodeError as error:
        there = repr(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        raise NotJSON(
            f"{error.msg} at line {error.lineno}, column {error.colno}: {there}"
        ) from None
    except RecursionError:
        raise NotationError("it is nested too deeply") from None
    return from_plain(plain)


def from_plain(plain: Any) -> Any:
    """The value behind what `json.loads` gave. Raises NotationError."""
    if type(plain) is list:
        return [from_plain(item) for item in plain]
    if type(plain) is not dict:
        return plain
    if len(plain) == 1:
        [(tag, content)] = plain.items()
        if tag.startswith("$"):
            return _untagged(tag, content)
    return {key: from_plain(item) for key, item in plain.items()}


def _untagged(tag: str, content: Any) -> Any:
    restore = _RESTORE.get(tag)
    if restore is None:
        raise NotationError(
            f"unknown tag {tag!r}; there are {', '.join(_RESTORE)}. "
            f'A dict whose only key begins with "$" is written {{"$map": [[{json.dumps(tag)}, …]]}}'
        )
    try:
        return restore(from_plain(content))
    except NotationError:
        raise
    except Exception as error:  # each type refuses in a way of its own
        shown = json.dumps(content)
        shown = shown if len(shown) <= 40 else shown[:39] + "…"
        raise NotationError(f"{{{json.dumps(tag)}: {shown}}} is no {tag[1:]}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in pairs:
        if name in found:
            raise NotationError(f"the name {to_json(name)} comes twice")
        found[name] = item
    return found


def _no_constant(name: str) -> NoReturn:
    raise NotJSON(f'{name} is not JSON; it is written {{"$float": "{float(name)!s}"}}')


def _float(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise NotationError(f"the number {digits[:40]} is beyond what a float holds")
    return number


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise NotationError(
            f"an integer of {len(digits)} digits; Python reads {sys.get_int_max_str_digits()}"
        ) from None


# --- the tags -------------------------------------------------------------------------------


class _Spelling(NamedTuple):
    """A tag's content, where the extension's plain form is not for human eyes."""

    plain: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]


_SPELLINGS = {"$uuid": _Spelling(str, lambda cls, text: cls(text))}
_NAMES = {"PurePath": "path"}
_INT_BITS = 3 * (sys.get_int_max_str_digits() or 4300)
"""An integer of at most so many bits has fewer digits than Python agrees to read and write."""


def tag_of(extension: Extension) -> str:
    return "$" + _NAMES.get(extension.name, extension.name.lower())


def _restorer(extension: Extension) -> Callable[[Any], Any]:
    spelling = _SPELLINGS.get(tag_of(extension))
    restore = spelling.restore if spelling else extension.restore
    plain = spelling.plain if spelling else extension.plain

    def restored(content: Any) -> Any:
        value = restore(extension.type, content)
        if type(plain(value)) is not type(content):  # else {"$tuple": "ab"} would be ("a", "b")
            raise NotationError(
                f"{tag_of(extension)} takes a {type(plain(value)).__name__}, "
                f"not a {type(content).__name__}"
            )
        return value

    return restored


def _bytes(content: str) -> bytes:
    return binascii.a2b_base64(content, strict_mode=True)


def _special_float(content: str) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise NotationError('"$float" takes "nan", "inf" or "-inf"; others are JSON numbers')
    return float(content)


def _map(content: list[Any]) -> dict[Any, Any]:
    if type(content) is not list or any(type(p) is not list or len(p) != 2 for p in content):
        raise NotationError('"$map" takes a list of [key, value] pairs')
    return dict(content)


_RESTORE: dict[str, Callable[[Any], Any]] = {
    "$bytes": _bytes,
    "$float": _special_float,
    "$map": _map,
    **{tag_of(extension): _restorer(extension) for extension in EXTENSIONS},
}

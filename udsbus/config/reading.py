"""Texts in TOML, JSON, YAML and as a .env: the values that they stand for. Pure.

TOML and JSON are read with what Python has; the others need the extra `config`.
"""

from __future__ import annotations

import io
from typing import Any

from ..errors import MissingExtra
from ..limits import VALUE_BYTES
from ..wire.notation import NotationError, from_json, to_json

NO_NAMES = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Of YAML: `<<` and `=`."""


class Unreadable(ValueError):
    """Text that is not what its format says. The message says where, if the parser knows."""


def missing(what: str, package: str) -> MissingExtra:
    return MissingExtra(
        f"{what} needs the package {package}: pip install 'udsbus[config]'", extra="config"
    )


def read_toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # of a number with too many digits it is not a TOMLDecodeError
        raise Unreadable(str(error)) from None


def read_json(text: str) -> Any:
    """With the tags of docs/command.md for what JSON lacks."""
    try:
        return from_json(text, unique=True)
    except NotationError as error:
        raise Unreadable(str(error)) from None


def read_yaml(text: str) -> Any:
    """One document, of the types that YAML itself has. An empty one is an empty map."""
    try:
        import yaml
    except ImportError:
        raise missing("YAML", "PyYAML") from None
    try:
        value = _load(text)
    except yaml.MarkedYAMLError as error:
        what = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise Unreadable(what + where) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(f"it has a character that YAML forbids (at line {line})") from None
    except ValueError as error:  # of a date that never was
        raise Unreadable(str(error)) from None
    _check_aliases(value)
    return {} if value is None else value


def _load(text: str) -> Any:
    """As `yaml.safe_load`, which of names that come twice takes the last."""
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_names(loader, node)  # before it is made a value: what is merged (<<) may come again
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_names(loader: Any, root: Any) -> None:
    """Raise Unreadable for a name that comes twice in a map."""
    import yaml

    left, seen = [root], set()
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        names = set()
        for key, item in node.value:
            left += key, item
            if not isinstance(key, yaml.ScalarNode) or key.tag in NO_NAMES:
                continue
            name = loader.construct_object(key)
            if name in names:
                mark = key.start_mark
                where = f"(at line {mark.line + 1}, column {mark.column + 1})"
                raise Unreadable(f"the name {to_json(name)} comes twice {where}")
            names.add(name)


def _check_aliases(value: Any) -> None:
    """Raise Unreadable for a value that is part of itself, or that a few lines of aliases make so
    large that nobody could write it out."""
    sizes: dict[int, int] = {}

    def size(part: Any) -> int:
        if isinstance(part, str | bytes):
            return 1 + len(part)
        if not isinstance(part, dict | list | tuple | set):
            return 1
        known = sizes.get(id(part))
        if known == 0:
            raise Unreadable("an alias stands for what it is a part of")
        if known is None:
            sizes[id(part)] = 0
            items = [*part, *part.values()] if isinstance(part, dict) else part
            known = sizes[id(part)] = 1 + sum(map(size, items))
        return known

    if size(value) > VALUE_BYTES:
        raise Unreadable(f"its aliases make more than {VALUE_BYTES} bytes of it, the limit")


def read_env(text: str) -> Any:
    """Names and texts, as python-dotenv has them; None for a name without `=`."""
    try:
        import dotenv
        from dotenv.parser import parse_stream
    except ImportError:
        raise missing("a .env", "python-dotenv") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            said = binding.original
            blank = said.string[: len(said.string) - len(said.string.lstrip())]
            line = said.line + blank.count("\n")
            raise Unreadable(f"this is no NAME=value (at line {line})")
    return dict(dotenv.dotenv_values(stream=io.StringIO(text)))

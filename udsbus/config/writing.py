"""Values as texts in TOML, JSON, YAML and as a .env, and what each of them lacks. Pure."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from ..wire.notation import to_plain
from .differences import Place, kind_of
from .reading import missing

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
ENV_BARE = re.compile(r"[A-Za-z0-9_./:@%+,-]*")
"""Texts that no reader of a .env takes for anything else, whether quoted or not."""
MOMENTS = (datetime.datetime, datetime.date, datetime.time)

TOML_TYPES = (str, bool, int, float, list, *MOMENTS)
YAML_TYPES = (
    *(str, bool, int, float, list, type(None), bytes, set),
    *(datetime.datetime, datetime.date),
)
ENV_TYPES = (str, bool, int, float, type(None), *MOMENTS)


# --- what has no form -----------------------------------------------------------------------


def toml_lacks(place: Place, part: Any) -> str:
    if type(part) is dict:
        return "" if all(type(name) is str for name in part) else "a name that is no text"
    if type(part) is datetime.time and part.tzinfo is not None:
        return "a time with a zone"
    return "" if type(part) in TOML_TYPES else kind_of(part)


def yaml_lacks(place: Place, part: Any) -> str:
    if type(part) in (dict, set):
        return next(filter(None, (yaml_lacks(place, name) for name in part)), "")
    return "" if type(part) in YAML_TYPES else kind_of(part)


def json_lacks(place: Place, part: Any) -> str:
    return ""


def env_lacks(place: Place, part: Any) -> str:
    if not place:
        return "" if all(type(name) is str for name in part) else "a name that is no text"
    if not ENV_NAME.fullmatch(place[0]):
        return "this name"
    return "" if type(part) in ENV_TYPES else kind_of(part)


# --- what has one ---------------------------------------------------------------------------


def write_toml(value: dict[Any, Any]) -> str:
    try:
        import tomli_w
    except ImportError:
        raise missing("writing TOML", "tomli-w") from None
    return tomli_w.dumps(value)


def write_json(value: dict[Any, Any]) -> str:
    return json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n"


def write_yaml(value: dict[Any, Any]) -> str:
    try:
        import yaml
    except ImportError:
        raise missing("YAML", "PyYAML") from None
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text


def write_env(value: dict[Any, Any]) -> str:
    return "".join(
        name + ("" if text is None else "=" + _quoted(text)) + "\n"
        for name, text in as_text(value).items()
    )


def as_text(value: dict[Any, Any]) -> dict[Any, Any]:
    """What a .env makes of it: a text, or None, for each name."""
    return {name: item if item is None else _text_of(item) for name, item in value.items()}


def _text_of(item: Any) -> str:
    if type(item) is bool:
        return "true" if item else "false"
    return item.isoformat() if isinstance(item, MOMENTS) else str(item)


def _quoted(text: str) -> str:
    if ENV_BARE.fullmatch(text):
        return text
    if text.isprintable():
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(text, ensure_ascii=False)

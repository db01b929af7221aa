"""Checking what is there by a schema, in the process that asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SchemaViolation
from ..wire.schemas import compile_schema
from ..wire.values import encode


def violations(
    items: Iterable[tuple[str, bytes, int]], pattern: str, schema: Mapping[str, Any] | bool | None
) -> list[SchemaViolation]:
    """One for each of the (key, encoded value, revision) that does not match."""
    check = compile_schema(pattern, encode(schema))
    found = []
    for key, value, _ in items:
        try:
            check(key, value)
        except SchemaViolation as violation:
            found.append(violation)
    return found

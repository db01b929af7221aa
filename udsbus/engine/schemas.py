"""Schemas: what the values of the keys that match a pattern must look like.

A schema is the value of a key of the broker's own, so it has a revision, a place in the journal and
a history, and can be got and watched like any other. The engine looks neither into schemas nor into
values: it is given what makes a check of a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import Error, InvalidRequest, LimitExceeded
from ..limits import SCHEMA_BYTES, SCHEMAS
from ..patterns import shown
from .interest import Interest
from .rules import Check

Compile = Callable[[str, bytes], Check]
"""Makes the check from a pattern and an encoded schema. Raises an Error if it is none."""


def cannot_compile(pattern: str, schema: bytes) -> Check:
    """A `Compile` for those who have none."""
    raise InvalidRequest("there are no schemas here")


class Schemas:
    """The checks of all schemas, and which of them a key must pass: each whose pattern matches."""

    __slots__ = ("_compile", "_interest", "_last", "_numbers", "checks")

    def __init__(self, compile_schema: Compile) -> None:
        self.checks: dict[int, Check] = {}
        """Those that there are, by a number of their own. Empty: `check` would find nothing."""
        self._compile = compile_schema
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._interest = Interest()

    def check(self, key: str, value: bytes) -> None:
        """Raise SchemaViolation unless `value` may be stored under `key`."""
        for number in self._interest.find(key):
            self.checks[number](key, value)

    def put(self, pattern: str, schema: bytes) -> None:
        """Set the schema of a pattern, or replace it. Raises LimitExceeded, InvalidRequest for what
        is no schema, MissingExtra; then nothing has changed."""
        if len(schema) > SCHEMA_BYTES:
            raise LimitExceeded(
                f"a schema of {len(schema)} bytes for {shown(pattern)}; the limit is "
                f"{SCHEMA_BYTES}",
                limit="schema_bytes", maximum=SCHEMA_BYTES, actual=len(schema),
            )  # fmt: skip
        if pattern not in self._numbers and len(self._numbers) >= SCHEMAS:
            raise LimitExceeded(
                f"there would be {len(self._numbers) + 1} schemas; the limit is {SCHEMAS}",
                limit="schemas", maximum=SCHEMAS, actual=len(self._numbers) + 1,
            )  # fmt: skip
        check = self._compile(pattern, schema)
        self.drop(pattern)
        self._use(pattern, check)

    def drop(self, pattern: str) -> None:
        """Forget the schema of a pattern, if there is one."""
        number = self._numbers.pop(pattern, None)
        if number is not None:
            del self.checks[number]
            self._interest.remove(pattern, number)

    def begin(self, schemas: Mapping[str, bytes]) -> dict[str, Error]:
        """Have these and no others. One that cannot be compiled (any more, or here) refuses every
        value; returns those, by pattern, and why."""
        for pattern in list(self._numbers):
            self.drop(pattern)
        failed: dict[str, Error] = {}
        for pattern, schema in schemas.items():
            try:
                check = self._compile(pattern, schema)
            except Error as error:
                failed[pattern] = error
                check = _refusing(error)
            self._use(pattern, check)
        return failed

    def _use(self, pattern: str, check: Check) -> None:
        number = self._last = self._last + 1
        self._numbers[pattern] = number
        self.checks[number] = check
        self._interest.add(pattern, number)


def _refusing(error: Error) -> Check:
    def refuse(key: str, value: bytes) -> None:
        raise error.with_traceback(None)  # it would grow with each raise

    return refuse

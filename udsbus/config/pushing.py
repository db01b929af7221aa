"""What files hold against what the bus holds, and writing the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..client import requests
from ..errors import Conflict, Error
from ..wire.values import decode_if_possible
from .differences import ABSENT, KeyChange, same
from .files import Source

if TYPE_CHECKING:
    from ..client.sync import Client

ATTEMPTS = 10
"""How often a push is tried when others write the same keys meanwhile."""


def compare(client: Client, files: Sequence[Source]) -> list[KeyChange]:
    """What a push would change. Raises as `Source.values`, and what a client does."""
    return _changes(client, files, _values(files))


def push(
    client: Client, files: Sequence[Source], values: dict[str, Any] | None = None
) -> list[KeyChange]:
    """Let the bus hold what the files do, in one transaction, and return what that has changed.

    What is there already is not written, so nobody is told of it. What is there and is no value,
    `Undecodable`, is replaced like one. With `split`, keys right below the file's that are no
    longer in it are deleted. `values`: what the files hold, if they have been read. Raises as
    `compare`; SchemaViolation and LimitExceeded, naming the files, for what the bus refuses; and
    Conflict if others write the same keys all the time. Then nothing is written.
    """
    if values is None:
        values = _values(files)
    for attempt in range(1, ATTEMPTS + 1):
        changes = _changes(client, files, values)
        if not changes:
            break
        try:
            with client.transaction() as transaction:
                for change in changes:
                    if change.after is ABSENT:
                        transaction.delete(change.key, if_revision=change.revision)
                    else:
                        transaction.set(change.key, change.after, if_revision=change.revision)
            break
        except Conflict as error:
            if attempt == ATTEMPTS:
                raise Conflict(f"others write the same keys all the time: {error}") from None
        except Error as error:
            raise _naming(error, files, values) from None
    return changes


def _values(files: Sequence[Source]) -> dict[str, Any]:
    return {key: value for file in files for key, value in file.values().items()}


def _changes(client: Client, files: Sequence[Source], values: dict[str, Any]) -> list[KeyChange]:
    there = {key for file in files if file.split for key in client.keys(file.pattern)}
    changes = []
    for key in [*values, *sorted(there - values.keys())]:
        entry = client._call(requests.entry(key, decode_if_possible))
        before, revision = (ABSENT, 0) if entry is None else (entry.value, entry.revision)
        after = values.get(key, ABSENT)
        if not same(before, after):
            changes.append(KeyChange(key, before, after, revision))
    return changes


def _naming(error: Error, files: Sequence[Source], values: dict[str, Any]) -> Error:
    """The same, with the names of the files that are meant in front of it."""
    if error.fault != "caller":
        return error
    key = error.details.get("key")
    meant = [file for file in files if key and (key == file.key or key.startswith(f"{file.key}/"))]
    names = ", ".join(file.path for file in meant or files)
    return type(error)(f"{names}: {error}", **error.details)

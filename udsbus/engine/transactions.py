"""Transactions: everything is tried on a staging area first, then written at one revision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import Delete, Get, Increment, Set, TransactionOperation
from ..patterns import check_name, check_writable
from .keyspace import Entry
from .rules import Check, Codec, check_reply, check_revision, incremented

Staged = dict[str, Entry | None]
"""Key → the entry that it will have; None: it will be gone."""
Owners = dict[str, str | None]
"""Key → the session that it will belong to, of those that are staged."""


def plan(
    checks: list[tuple[str, int]],
    operations: list[TransactionOperation],
    entries: Mapping[str, Entry],
    owned: Mapping[str, str],
    session: str | None,
    codec: Codec,
    check: Check,
    revision: int,
    now: float,
) -> tuple[Staged, Owners, list[Any]]:
    """What the transaction will write at `revision`, whose that will be, and the result of each of
    its operations.

    Operations see what those before them have written. `entries` holds nothing whose deadline
    has passed, for the keys concerned; `owned` says whose they are, and `session` who asks; `check`
    says whether a value may be written. Raises what the single commands raise; then nothing of the
    transaction happens.
    """
    for key, expected in checks:
        check_name(key)
        check_revision(key, expected, entries.get(key))
    staged: Staged = {}
    owners: Owners = {}
    results: list[Any] = []
    for operation in operations:
        key = operation.key
        before = staged[key] if key in staged else entries.get(key)
        if isinstance(operation, Get):
            check_name(key)
            results.append(None if before is None else before[0])
            continue
        check_writable(key)
        after, result = _carry_out(operation, before, codec, check, revision, now)
        owner = owners[key] if key in owners else owned.get(key)
        owner_after = owner
        if isinstance(operation, Set):
            owner_after = session if operation.ephemeral else None
            if operation.keep and before is not None:
                owner_after = owner
            if after == before and owner_after != owner:  # `if_changed`: the value is not all
                after, result = _carry_out(
                    operation._replace(if_changed=False), before, codec, check, revision, now
                )
        elif after is None:
            owner_after = None
        if after != before or owner_after != owner:  # a write has a revision of its own
            staged[key] = after
            owners[key] = owner_after
        results.append(result)
    check_reply(results)
    return staged, owners, results


def _carry_out(
    operation: TransactionOperation,
    before: Entry | None,
    codec: Codec,
    check: Check,
    revision: int,
    now: float,
) -> tuple[Entry | None, Any]:
    if isinstance(operation, Set):
        key, value, ttl, if_revision, if_changed, _, _, keep = operation
        check(key, value)
        if if_revision is not None:
            check_revision(key, if_revision, before)
        if if_changed and before is not None and before[0] == value:
            return before, before[1]
        deadline = None if ttl is None else now + ttl
        return (value, revision, before[2] if keep and before is not None else deadline), revision
    if isinstance(operation, Delete):
        if operation.if_revision is not None:
            check_revision(operation.key, operation.if_revision, before)
        return None, before is not None
    assert isinstance(operation, Increment)
    number, value = incremented(operation.key, operation.by, before, codec)
    check(operation.key, value)
    return (value, revision, None if before is None else before[2]), number

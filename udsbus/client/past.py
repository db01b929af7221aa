"""Looking back and going back: the history of keys, and what they held at an earlier revision."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..errors import InvalidRequest, MissedChanges
from ..journal.history import Query, history
from ..wire.values import decode
from .requests import Call, as_is


class PastChange(NamedTuple):
    """One change in the history of the bus, and who did it."""

    revision: int
    kind: str
    """`created`, `updated`, `deleted`, `expired` or `released`."""
    key: str
    before: Any
    """The value that there was; None too if the key was absent."""
    after: Any
    time: datetime
    pid: int | None
    """The process that asked for it; None: the broker itself, because a time to live was over."""
    uid: int | None
    client: str | None
    """What that client calls itself."""


class Rollback(NamedTuple):
    """What has to be written so that keys hold again what they held."""

    checks: list[tuple[str, int]]
    """(key, revision that it is at now; 0: absent)"""
    values: dict[str, bytes | None]
    """Key → encoded value; None: to be deleted."""

    def call(self) -> Call[Any]:
        operations = [
            ["delete", key] if value is None else ["set", key, value]
            for key, value in self.values.items()
        ]
        return Call("transaction", (self.checks, operations), as_is)


def seconds_of(moment: datetime | float | None) -> float | None:
    """A time as the journal tells it. A datetime without a zone is local time."""
    if moment is None or type(moment) in (int, float):
        return moment  # type: ignore[return-value]
    if isinstance(moment, datetime):
        return moment.timestamp()
    raise InvalidRequest(f"a time must be a datetime or seconds since 1970, not {moment!r}")


def past_changes(state: str, query: Query, limit: int | None) -> list[PastChange]:
    """As `Client.history` returns them."""
    return [
        PastChange(
            change.revision,
            change.kind,
            change.key,
            None if change.before is None else decode(change.before),
            None if change.after is None else decode(change.after),
            datetime.fromtimestamp(change.time, UTC),
            change.pid,
            change.uid,
            change.client,
        )
        for change in history(state, query, limit).changes
    ]


def revision_at(state: str, seconds: float) -> int:
    """The revision of the bus at a time. Raises MissedChanges if that is not known any more."""
    found = history(state, Query(until=seconds), limit=1)
    if found.changes:
        return found.changes[-1].revision
    if found.forgotten_any:
        raise MissedChanges("the history does not reach back to that time")
    if seconds * 1e6 < found.first_revision:  # which is the time at which it was made
        raise MissedChanges("the bus did not exist at that time")
    return found.first_revision


def rollback_to(state: str, pattern: str, revision: int) -> Rollback:
    """What takes the keys that match back to what they held at `revision`.

    Raises MissedChanges if the history does not reach back so far.
    """
    found = history(state, Query(pattern, after=revision))
    if revision < found.first_revision:
        raise MissedChanges(
            f"revision {revision} was before the bus began, at {found.first_revision}",
            since=found.first_revision, revision=revision,
        )  # fmt: skip
    if found.forgotten_any and found.forgotten > revision:
        # Of one key, what is kept is without a gap: if it was changed before, all after is known.
        whole = "*" not in pattern and history(state, Query(pattern, up_to=revision), 1).changes
        if not whole:
            raise MissedChanges(
                f"the history of {pattern!r} does not reach back to revision {revision}; "
                f"that of all keys does to {found.forgotten}",
                since=found.forgotten, revision=revision,
            )  # fmt: skip
    then: dict[str, bytes | None] = {}
    now: dict[str, tuple[bytes | None, int]] = {}
    for change in found.changes:
        then.setdefault(change.key, change.before)
        now[change.key] = change.after, 0 if change.after is None else change.revision
    differing = {key: value for key, value in then.items() if value != now[key][0]}
    return Rollback([(key, now[key][1]) for key in differing], differing)

"""Going back: what keys held before what they hold now."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..errors import MissedChanges
from ..patterns import check_writable
from ..terms import CREATED, GONE
from .differences import ABSENT, KeyChange, same
from .files import pattern_of

if TYPE_CHECKING:
    from ..client.past import PastChange
    from ..client.sync import Client


def roll_back(
    client: Client,
    key: str,
    *,
    split: bool,
    steps: int = 1,
    revision: int | None = None,
    moment: float | None = None,
) -> list[KeyChange]:
    """Let `key`, or with `split` the keys right below it, hold what they did, and return what that
    has changed.

    To what was at a revision or a moment (seconds since 1970); without either, `steps` values
    back. That is a new write, so the next step back is to what is there now. Raises MissedChanges
    if the history does not reach back so far, Conflict if the broker keeps none.
    """
    check_writable(key)
    pattern = pattern_of(key, split)
    if revision is None and moment is None:
        revision = _before(client, pattern, key, steps)
    since = client.revision()
    if not client.rollback(pattern, revision=revision, time=moment):
        return []
    made = client.history(pattern, limit=None, after_revision=since, client=client.name)
    return [
        KeyChange(each.key, _value_before(each), _value_after(each))
        for each in made
        if each.revision == made[0].revision
    ]


def _before(client: Client, pattern: str, key: str, steps: int) -> int:
    """The revision at which the keys held what they did so many values ago. That nothing was there
    for a while is no value to go back to."""
    history = client.history(pattern, limit=None)
    held: dict[str, Any] = {each.key: _value_after(each) for each in history}
    for other in client.keys(pattern):  # unchanged for as long as the history knows
        held.setdefault(other, None)
    seen = _there(held)
    found = 0
    by_revision = [list(group) for _, group in groupby(history, attrgetter("revision"))]
    for group in reversed(by_revision):
        held.update({each.key: _value_before(each) for each in reversed(group)})
        earlier = _there(held)
        if earlier and not same(earlier, seen):
            found += 1
            if found == steps:
                made: int = group[0].revision
                return made - 1
            seen = earlier
    known = f"no value of {pattern!r}" if not found else f"only {found} values of {pattern!r}"
    raise MissedChanges(f"the history knows of {known} before the present one")


def _there(held: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if value is not ABSENT}


def _value_before(change: PastChange) -> Any:
    return ABSENT if change.kind == CREATED else change.before


def _value_after(change: PastChange) -> Any:
    return ABSENT if change.kind in GONE else change.after

"""Who is told what of changes: the same bytes to all who want the same.

The changes of one revision that concern a connection travel together. What a change looks like is
encoded at most twice, in short and in detail, and only if somebody wants it so; what goes to a
connection is put together of these parts, once for all that want the same of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..engine.wants import USUAL, Want
from ..limits import KEPT_BYTES
from ..messages import Change
from ..wire.encoding import encode_change, encode_changes, encode_part, forget_buffer


class Notification(NamedTuple):
    connections: Sequence[int]
    """Whom it is for."""
    frames: list[bytes]
    """More than one only for changes that are too much for one."""
    changes: list[Change]
    """What they tell."""


class Revision:
    """Collects the changes of one revision that somebody watches."""

    __slots__ = ("_changes", "_subscribers", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._changes: list[Change] = []
        self._subscribers: list[tuple[int, ...]] = []

    def add(self, change: Change, subscribers: tuple[int, ...]) -> None:
        self._changes.append(change)
        self._subscribers.append(subscribers)

    def notifications(
        self, wants: Mapping[int, Want], sessions: Mapping[int, str]
    ) -> list[Notification]:
        """`wants` are those of the connections that want less or more than is usual, and `sessions`
        theirs."""
        changes, subscribers = self._changes, self._subscribers
        if not wants and subscribers.count(subscribers[0]) == len(subscribers):
            frames = _frames(self.number, changes, {}, range(len(changes)), False)
            return [Notification(subscribers[0], frames, changes)]
        wanted: dict[int, list[int]] = {}
        for index, change in enumerate(changes):
            for connection in subscribers[index]:
                want = wants.get(connection)
                if want is None or want.wants(change, sessions.get(connection)):
                    wanted.setdefault(connection, []).append(index)
        alike: dict[tuple[bool, tuple[int, ...]], list[int]] = {}
        for connection, indexes in wanted.items():
            detail = wants.get(connection, USUAL).detail
            alike.setdefault((detail, tuple(indexes)), []).append(connection)
        parts: dict[tuple[bool, int], bytes] = {}
        return [
            Notification(
                connections,
                _frames(self.number, changes, parts, indexes, detail),
                [changes[index] for index in indexes],
            )
            for (detail, indexes), connections in alike.items()
        ]


def _frames(
    revision: int,
    changes: list[Change],
    parts: dict[tuple[bool, int], bytes],
    indexes: Sequence[int],
    detail: bool,
) -> list[bytes]:
    """The notifications of some of the changes; `parts` are those encoded before."""
    if len(indexes) == 1:
        frames = [encode_change(changes[indexes[0]], detail)]
    else:
        for index in indexes:
            if (detail, index) not in parts:
                parts[detail, index] = encode_part(changes[index], detail)
        frames = encode_changes(revision, [parts[detail, index] for index in indexes])
    if sum(map(len, frames)) > KEPT_BYTES:
        forget_buffer()
    return frames

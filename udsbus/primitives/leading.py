"""Who leads, as the others see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..client.followed import Change
    from ..client.requests import Entry


class Leader(NamedTuple):
    """Who leads."""

    session: str
    """The client, see `Client.clients`."""
    value: Any
    """What it has told of itself: its address, say."""
    token: int
    """The fencing token: each leader has a higher one than those before."""


def leader(entry: Entry | None) -> Leader | None:
    return None if entry is None else Leader(**entry.value)


def leader_after(change: Change) -> Leader | None:
    return None if change.value is None else Leader(**change.value)

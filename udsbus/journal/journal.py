"""The seam between the turn and durability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..messages import Effect


class Journal(Protocol):
    """What the turn asks of a journal."""

    def append(self, effects: Sequence[Effect]) -> None:
        """Make the effects of one turn safe, all or none. When it returns they may be seen."""
        ...

    def close(self) -> None: ...


class MemoryJournal:
    """Keeps nothing: the state of the bus ends with the broker's process."""

    def append(self, effects: Sequence[Effect]) -> None:
        pass

    def close(self) -> None:
        pass

"""What the broker says of a connection that does not take what it is told. Pure."""

from __future__ import annotations

from typing import Any


class Lateness:
    """Counts for one who follows; the broker counts for all that goes over the connection."""

    __slots__ = ("_counted", "conflations", "dropped", "left_out")

    def __init__(self) -> None:
        self.conflations = 0
        """How often the broker began to leave changes out."""
        self.left_out = 0
        """How many changes it left out for newer ones."""
        self.dropped = 0
        """How many messages it dropped."""
        self._counted = False

    def connected(self) -> None:
        """There is another connection, and that is in step."""
        self._counted = False

    def notified(self, kind: str, params: list[Any]) -> None:
        """A notification, of whatever kind."""
        if kind == "behind":
            _, left_out, dropped, *_ = params
            self.left_out += left_out
            self.dropped += dropped
            if left_out and not self._counted:
                self.conflations += 1
                self._counted = True
        elif kind == "in_step":
            self._counted = False

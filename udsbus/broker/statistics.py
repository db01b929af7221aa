"""What the broker counts."""

from __future__ import annotations

from collections import Counter

from ..messages import CloseReason


class Statistics:
    """Counters since the start. They only grow."""

    __slots__ = ("accepted", "closed", "messages", "refused", "requests")

    def __init__(self) -> None:
        self.accepted = 0
        """Connections let in."""
        self.closed: Counter[CloseReason] = Counter()
        """Connections ended, or turned away, by reason."""
        self.requests = 0
        """Requests and notifications carried out or refused."""
        self.refused = 0
        """Those of them answered with an error."""
        self.messages = 0
        """Messages published to at least one subscriber."""

    def as_dict(self, changes: int) -> dict[str, object]:
        """As `info` reports them, with the changes of keys, which the engine counts."""
        return {
            "accepted": self.accepted,
            "closed": {reason.value: number for reason, number in self.closed.items()},
            "requests": self.requests,
            "refused": self.refused,
            "changes": changes,
            "messages": self.messages,
        }

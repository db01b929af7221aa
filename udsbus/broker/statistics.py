"""What the broker counts."""

from __future__ import annotations

from collections import Counter

from ..terms import CloseReason


class Statistics:
    """Counters since the start. They only grow."""

    __slots__ = (
        "accepted", "closed", "dropped", "fell_behind", "left_out", "messages", "refused",
        "requests",
    )  # fmt: skip

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
        self.fell_behind = 0
        """How often a connection did not keep up."""
        self.left_out = 0
        """Changes that one of those was not told of, but of a newer one of the same key."""
        self.dropped = 0
        """Messages that one of those was not sent."""

    def as_dict(self, changes: int) -> dict[str, object]:
        """As `info` reports them, with the changes of keys, which the engine counts."""
        return {
            "accepted": self.accepted,
            "closed": {reason.value: number for reason, number in self.closed.items()},
            "requests": self.requests,
            "refused": self.refused,
            "changes": changes,
            "messages": self.messages,
            "fell_behind": self.fell_behind,
            "left_out": self.left_out,
            "dropped": self.dropped,
        }

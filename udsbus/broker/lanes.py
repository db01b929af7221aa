"""Answers that are kept, so that a request sent again is not carried out again.

A client that loses its connection does not know whether the request in hand was carried out. So it
names its *session* and, of that, the *lane*: the sequence of requests that one thread, say, sends
over one connection after the other. Within a lane the msgid is the request's sequence number, and
the broker keeps the answers to the last few that may have changed something. What it is asked again
by the same msgid, it answers from there. The journal holds these answers beside the changes, so
this outlives the broker too.

The idea is that of RIFL (Lee and others, SOSP 2015): the result of an operation is stored
atomically with its effect, under an identity that the client gives it.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from ..limits import LANES_KEPT, RESUME_SECONDS, UNANSWERED_MOST
from ..wire.framing import MSGID_MOST

Key = tuple[str, int]
"""(session, number of the lane)"""


class Lane:
    __slots__ = ("answers", "connection", "key", "newest", "resuming", "unkept")

    def __init__(self, key: Key, unanswered: int) -> None:
        self.key = key
        self.answers: deque[tuple[int, bytes]] = deque(maxlen=unanswered)
        """(msgid, the whole response), the newest last."""
        self.connection: int | None = None
        """The connection that it goes over now."""
        self.resuming = False
        """Whether what comes in may have been answered before."""
        self.newest = 0
        """The last msgid that was answered when the connection began."""
        self.unkept: list[tuple[int, bytes]] = []
        """Those of `answers` that are not in the journal, because nothing changed with them. They
        go there with the next that does: who asks again for both must not have the earlier one
        carried out after the later one."""

    def answer(self, msgid: int) -> bytes | None:
        """The response that was given before, if `msgid` was answered before."""
        if (
            0 < (msgid - self.newest) & MSGID_MOST <= MSGID_MOST // 2
        ):  # beyond what is known: all is new
            self.resuming = False
            return None
        return next((response for known, response in self.answers if known == msgid), None)

    def keep(self, msgid: int, response: bytes) -> None:
        self.answers.append((msgid, response))

    def take_back(self, msgid: int) -> None:
        """What was just kept was never answered."""
        if self.answers and self.answers[-1][0] == msgid:
            self.answers.pop()


class Lanes:
    """All of a bus."""

    def __init__(self) -> None:
        self._lanes: dict[Key, Lane] = {}
        self._left: OrderedDict[Key, float] = OrderedDict()
        """Those without a connection, and when they may be forgotten; the soonest first."""

    def __len__(self) -> int:
        return len(self._lanes)

    def take(self, key: Key, unanswered: int, connection: int, now: float) -> tuple[Lane, int]:
        """Let a lane go over `connection`. Returns it, and the connection whose place that takes,
        or 0."""
        self._forget(now)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, unanswered)
        elif lane.answers.maxlen != unanswered:
            lane.answers = deque(lane.answers, unanswered)
        self._left.pop(key, None)
        before, lane.connection = lane.connection or 0, connection
        if lane.answers:
            lane.resuming, lane.newest = True, lane.answers[-1][0]
        return lane, before

    def leave(self, lane: Lane, connection: int, now: float) -> None:
        """`connection` is gone. The lane may go on over another for RESUME_SECONDS."""
        if lane.connection == connection:
            lane.connection = None
            self._left[lane.key] = now + RESUME_SECONDS
            self._forget(now)

    def restore(self, key: Key, msgid: int, response: bytes, now: float) -> None:
        """Keep an answer that a broker before this one has given."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, UNANSWERED_MOST)
        lane.answers.append((msgid, response))
        self._left.pop(key, None)
        self._left[key] = now + RESUME_SECONDS
        self._forget(now)

    def clear(self) -> None:
        """Forget all of them; none has a connection yet."""
        self._lanes.clear()
        self._left.clear()

    def _forget(self, now: float) -> None:
        while self._left:
            key, until = next(iter(self._left.items()))
            if until > now and len(self._left) <= LANES_KEPT:
                return
            del self._left[key], self._lanes[key]

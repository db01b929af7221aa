"""Answers that are kept, so that a request sent again is not carried out again.

A client that loses its connection does not know whether the request in hand was carried out. So it
names its *session* and, of that, the *lane*: the sequence of requests that one thread, say, sends
over one connection after the other. Within a lane the msgid is the request's sequence number, and
the broker keeps the answers to the last few that may have changed something. What it is asked again
by the same msgid, it answers from there. The journal holds these answers beside the changes, so
this outlives the broker too.

How many answers it keeps is up to the client, which knows how many requests it may have on their
way. One that has many says now and then which answers have come, and those are forgotten.

The idea is that of RIFL (Lee and others, SOSP 2015): the result of an operation is stored
atomically with its effect, under an identity that the client gives it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from ..limits import ANSWERS_RESTORED, LANES_KEPT, RESUME_SECONDS
from ..messages import Answered
from ..wire.framing import MSGID_MOST

_new: Any = tuple.__new__

Key = tuple[str, int]
"""(session, number of the lane)"""


class Lane:
    __slots__ = ("answers", "connection", "key", "known", "newest", "resuming", "unkept")

    def __init__(self, key: Key, unanswered: int) -> None:
        self.key = key
        self.answers: deque[tuple[int, bytes]] = deque(maxlen=unanswered)
        """(msgid, the whole response), the newest last."""
        self.connection: int | None = None
        """The connection that it goes over now."""
        self.resuming = False
        """Whether what comes in may have been answered before."""
        self.known: dict[int, bytes] = {}
        """Those of `answers` by msgid, while it is resuming."""
        self.newest = 0
        """The last msgid that was answered when the connection began."""
        self.unkept: list[tuple[int, bytes]] = []
        """Those of `answers` that are not in the journal, because nothing changed with them. They
        go there with the next that does: who asks again for both must not have the earlier one
        carried out after the later one."""

    def answer(self, msgid: int) -> bytes | None:
        """The response that was given before, if `msgid` was answered before."""
        if _is_newer(msgid, self.newest):  # beyond what is known: all is new
            self.resuming = False
            self.known = {}
            return None
        return self.known.get(msgid)

    def received(self, up_to: int, missing: set[int]) -> None:
        """The client has all answers up to that msgid, but for some."""
        self.answers = deque(_outstanding(self.answers, up_to, missing), self.answers.maxlen)
        if self.unkept:
            self.unkept = _outstanding(self.unkept, up_to, missing)


def _is_newer(msgid: int, than: int) -> bool:
    """They begin again at the end of their range."""
    return 0 < (msgid - than) & MSGID_MOST <= MSGID_MOST // 2


def _outstanding(
    answers: Iterable[tuple[int, bytes]], up_to: int, missing: set[int]
) -> list[tuple[int, bytes]]:
    return [each for each in answers if each[0] in missing or _is_newer(each[0], up_to)]


def _newest(answers: Iterable[tuple[int, bytes]]) -> int:
    """Not always the last: one that had to wait is answered after those that came later."""
    newest = -1
    for msgid, _ in answers:
        if newest < 0 or _is_newer(msgid, newest):
            newest = msgid
    return newest


class Answers:
    """Those of one turn that are to be kept."""

    __slots__ = ("_answers", "_durable", "_lanes", "_unkept", "_wanted")

    def __init__(self, durable: bool, wanted: bool) -> None:
        """`durable`: there is a journal to keep them. `wanted`: somebody asks `to_be_kept`."""
        self._answers: list[Answered] = []
        self._lanes: list[Lane] = []
        """Of each of them."""
        self._durable = durable
        self._wanted = wanted
        self._unkept = 0
        """How many lanes have answers that are not in the journal; one that is forgotten counts on,
        for all that this says is whether to look."""

    def add(self, lane: Lane, connection: int, msgid: int, response: bytes) -> None:
        lane.answers.append((msgid, response))
        if not self._wanted:  # then no turn is ever taken back either
            return
        self._answers.append(_new(Answered, (connection, msgid, response)))
        self._lanes.append(lane)

    def to_be_kept(self) -> list[Answered]:
        """All of them, and before them those of the same lanes that were not worth a record of
        their own."""
        if not self._unkept:
            return self._answers
        found: list[Answered] = []
        seen: list[Lane] = []
        for lane, answer in zip(self._lanes, self._answers, strict=True):
            if lane.unkept and lane not in seen:
                seen.append(lane)
                found += [Answered(answer.origin, *unkept) for unkept in lane.unkept]
        return found + self._answers

    def settle(self, kept: bool) -> None:
        """The turn is over, and they are in the journal, or not because nothing has changed."""
        if not self._answers:
            return
        if kept:
            for lane in self._lanes:
                if lane.unkept:
                    lane.unkept = []
                    self._unkept -= 1
        elif self._durable:
            for lane, (_, msgid, response) in zip(self._lanes, self._answers, strict=True):
                self._unkept += not lane.unkept
                lane.unkept = [*lane.unkept, (msgid, response)][-(lane.answers.maxlen or 1) :]
        self._answers.clear()
        self._lanes.clear()

    def take_back(self) -> None:
        """None of them was ever given."""
        for lane, answer in zip(reversed(self._lanes), reversed(self._answers), strict=True):
            if lane.answers and lane.answers[-1][0] == answer.msgid:
                lane.answers.pop()
        self._answers.clear()
        self._lanes.clear()


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
            lane.resuming, lane.newest = True, _newest(lane.answers)
            lane.known = dict(lane.answers)
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
            lane = self._lanes[key] = Lane(key, ANSWERS_RESTORED)
            self._left[key] = now + RESUME_SECONDS
            self._forget(now)
        lane.answers.append((msgid, response))
        self._left[key] = now + RESUME_SECONDS
        self._left.move_to_end(key)

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

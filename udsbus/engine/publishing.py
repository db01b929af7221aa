"""Publishers that wait for slow subscribers.

Who subscribes by the policy `block` asks publishers to wait for him; those do that say so. The
broker tells here which connections are behind. A message is published when no such subscriber of
its topic is, and until then it stands in a line, first come, first served; or it is not published
at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import Conflict
from ..limits import OUTPUT_PAUSE_BYTES
from ..messages import Later
from ..patterns import shown
from .interest import Interest
from .waiting import NOBODY, Sessions, Waiter, WaitingList

Send = Callable[[int, str, bytes, bool], int]


class Publication(NamedTuple):
    """What waits to be published."""

    topic: str
    message: bytes


class Publishing:
    def __init__(self, sessions: Sessions, waiting: WaitingList, send: Send) -> None:
        """`send` publishes at once."""
        self.blocking = Interest()
        """Who subscribes by the policy `block`."""
        self.disconnecting = Interest()
        """And by `disconnect`."""
        self.behind: set[int] = set()
        """Connections that are."""
        self.unsettled = False
        """Somebody who waits may have done so for long enough: `settle` wants to be called."""
        self._sessions = sessions
        self._waiting = waiting
        self._send = send
        self._line: OrderedDict[int, Waiter] = OrderedDict()

    def publish(self, origin: int, now: float, topic: str, message: bytes, wait: float) -> Any:
        """Publish when nobody is behind whom it has to wait for, within `wait` seconds.

        Raises Conflict, now or as the answer, if that does not come; InvalidRequest for a
        connection that would have to wait and has no session.
        """
        # While those in line may go on, whoever comes stands behind them.
        blocked = self._blocked(topic)
        if not blocked and (wait <= 0 or not self.unsettled):
            return self._send(origin, topic, message, True)
        if wait <= 0:
            raise _in_the_way(topic, wait)
        wanted = Publication(topic, message)
        later = self._waiting.wait(self, wanted, origin, now, wait, "to wait for subscribers")

        def sent(receivers: int | None) -> int:
            if receivers is None:
                raise _in_the_way(topic, wait)
            return receivers

        return Later(later.ticket, sent)

    def fell_behind(self, connection: int) -> None:
        """A connection does not keep up."""
        self.behind.add(connection)

    def caught_up(self, connection: int) -> None:
        """It does again, or is gone."""
        self.behind.discard(connection)
        self.look()

    def look(self) -> None:
        """There may be nobody any more to wait for."""
        if self._line:
            self.unsettled = True
            self._waiting.hurry()

    def settle(self) -> None:
        """Publish what need not wait any longer; of that at most about as much as a connection may
        have waiting, so that whoever falls behind by it is seen to before the next."""
        self.unsettled = False
        size = 0
        for waiter in list(self._line.values()):
            topic, message = waiter.wanted
            if self._blocked(topic):
                continue
            if size > OUTPUT_PAUSE_BYTES:
                self.look()
                return
            if self._sessions.is_of(waiter.origin, waiter.session):
                size += len(message)
                receivers = self._send(waiter.origin, topic, message, True)
                self._waiting.answer(waiter, receivers)
            else:
                self._waiting.answer(waiter, NOBODY)

    def _blocked(self, topic: str) -> bool:
        """Whether a subscriber is behind that publishers shall wait for."""
        behind = self.behind
        return bool(behind) and not behind.isdisjoint(self.blocking.find(topic))

    # --- the host of those who wait ---------------------------------------------------------

    def line(self, wanted: Publication) -> OrderedDict[int, Waiter]:
        """All stand in one line."""
        return self._line

    def came(self, waiter: Waiter, again: bool) -> None:
        """Somebody waits."""
        if again:
            self.look()

    def went(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""


def _in_the_way(topic: str, wait: float) -> Conflict:
    return Conflict(
        f"a subscriber of {shown(topic)} for whom publishers shall wait is behind, and did not "
        f"catch up within {wait:.3g} s; the message was sent to nobody",
        topic=topic,
    )

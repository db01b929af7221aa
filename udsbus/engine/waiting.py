"""Who waits: for a lock, for an item of a queue, for room in one. And their answers.

A command that cannot be answered yet returns `Later`, with a *ticket*; the answer comes in
`answers` under that number, perhaps many turns later. Who waits for the same thing stands in one
*line*, in the order of their tickets. What they wait for, and when they have it, is known to the
*host*, with which they wait: `Locks` or `Queues`.

Nobody journals who waits: that would cost a write for each who does. Who waits when a broker dies
asks the next one again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import LimitExceeded
from ..limits import WAITS_PER_CONNECTION
from ..messages import Later
from .deadlines import Agenda, Deadlines

NOBODY = object()
"""In the place of an answer: the connection that waited for it is gone."""


NO_TICKET = 0
"""They begin at 1."""


class Host(Protocol):
    """Where one waits."""

    def line(self, wanted: Any) -> OrderedDict[int, Waiter]:
        """Those who wait for the same, by their tickets; made if there is none yet."""
        ...

    def came(self, waiter: Waiter, again: bool) -> None:
        """It stands in its line; `again`: an undo has put it back."""
        ...

    def went(self, waiter: Waiter) -> None:
        """It does not any more."""
        ...


class Sessions(Protocol):
    """What is asked of the engine."""

    def session_of(self, origin: int, what: str) -> str: ...
    def is_of(self, origin: int, session: str) -> bool: ...
    def to_undo(self, step: Callable[[], object]) -> None: ...


class Waiter:
    """Somebody who waits."""

    __slots__ = ("deadline", "host", "origin", "session", "since", "ticket", "wanted")

    def __init__(
        self,
        host: Host,
        wanted: Any,
        session: str,
        ticket: int,
        origin: int,
        since: float,
        deadline: float | None,
    ) -> None:
        self.host = host
        self.wanted = wanted
        self.session = session
        self.ticket = ticket
        """Grows: who came first has the lowest."""
        self.origin = origin
        """The connection that waits for the answer."""
        self.since = since
        self.deadline = deadline


class WaitingList:
    """All who wait, whatever for."""

    def __init__(self, sessions: Sessions, agenda: Agenda) -> None:
        self.waiters: dict[int, Waiter] = {}
        """By their tickets, the lowest first."""
        self.answers: list[tuple[int, Any]] = []
        """(ticket, result) of those whose waiting is over; the result may be NOBODY's."""
        self._sessions = sessions
        self._of_origin: dict[int, dict[int, Waiter]] = {}
        self._deadlines: Deadlines[int] = Deadlines(agenda)
        """When who waits gives up, by ticket."""
        self._put_back: list[Waiter] = []
        """Those that an undo has put back, at the end of their lines."""
        self._next_ticket = 1

    def wait(
        self, host: Host, wanted: Any, origin: int, now: float, timeout: float | None, what: str
    ) -> Later:
        """Let a connection wait, at most `timeout` seconds (None: for as long as it takes); then
        its answer is None. Raises InvalidRequest if it has no session, LimitExceeded."""
        session = self._sessions.session_of(origin, what)
        number = len(self._of_origin.get(origin, ())) + 1
        if number > WAITS_PER_CONNECTION:
            raise LimitExceeded(
                f"this connection would wait for {number} things; the most there may be is "
                f"{WAITS_PER_CONNECTION}",
                limit="waits_per_connection", maximum=WAITS_PER_CONNECTION, actual=number,
            )  # fmt: skip
        deadline = None if timeout is None else now + timeout
        waiter = Waiter(host, wanted, session, self._next_ticket, origin, now, deadline)
        self._next_ticket += 1
        self._enter(waiter)
        self._sessions.to_undo(lambda: self._take_back(waiter))
        return Later(waiter.ticket)

    def answer(self, waiter: Waiter, result: Any) -> None:
        """Its waiting is over."""
        self.leave(waiter)
        self.answers.append((waiter.ticket, result))

    def leave(self, waiter: Waiter) -> None:
        """It does not wait any more, and its answer is not known yet."""
        self._remove(waiter)
        self._sessions.to_undo(lambda: self._enter_again(waiter))

    def forget(self, origin: int, result: Any = NOBODY) -> None:
        """A connection is gone, or has no session any more, and does not wait."""
        for waiter in list(self._of_origin.get(origin, {}).values()):
            self.answer(waiter, result)

    def forget_one(self, ticket: int) -> None:
        """Nobody could be told when it comes."""
        self.answer(self.waiters[ticket], NOBODY)

    def waits(self, origin: int) -> bool:
        """Whether a connection waits for anything."""
        return origin in self._of_origin

    def next_deadline(self) -> float:
        """When somebody gives up."""
        return self._deadlines.next()

    def hurry(self) -> None:
        """Let `tend` be called at once: a host has something to do."""
        self._deadlines.schedule(NO_TICKET, 0.0)

    def tend(self, now: float) -> None:
        """Answer those who have waited for as long as they would."""
        while (ticket := self._deadlines.pop_due(now)) is not None:
            waiter = self.waiters.get(ticket)
            if waiter is not None:
                self.answer(waiter, None)

    def undone(self) -> None:
        """All steps of an undo have been taken."""
        self.answers.clear()
        if self._put_back:
            waiting = (one for one in self._put_back if one.ticket in self.waiters)
            lines = [one.host.line(one.wanted) for one in waiting]
            for line in {id(line): line for line in lines}.values():
                in_order = sorted(line.items())
                line.clear()
                line.update(in_order)
            self.waiters = dict(sorted(self.waiters.items()))
            self._put_back.clear()

    def _enter(self, waiter: Waiter, again: bool = False) -> None:
        ticket = waiter.ticket
        waiter.host.line(waiter.wanted)[ticket] = waiter
        self.waiters[ticket] = waiter
        self._of_origin.setdefault(waiter.origin, {})[ticket] = waiter
        if waiter.deadline is not None:
            self._deadlines.schedule(ticket, waiter.deadline)
        waiter.host.came(waiter, again)

    def _remove(self, waiter: Waiter) -> None:
        ticket = waiter.ticket
        del waiter.host.line(waiter.wanted)[ticket]
        del self.waiters[ticket]
        of_origin = self._of_origin[waiter.origin]
        del of_origin[ticket]
        if not of_origin:
            del self._of_origin[waiter.origin]
        if waiter.deadline is not None:
            self._deadlines.forget(ticket)
        waiter.host.went(waiter)

    def _take_back(self, waiter: Waiter) -> None:
        """Nobody asked for this."""
        if waiter.ticket in self.waiters:
            self._remove(waiter)

    def _enter_again(self, waiter: Waiter) -> None:
        """It still waits, where it did; unless its connection is gone."""
        if self._sessions.is_of(waiter.origin, waiter.session):
            self._put_back.append(waiter)
            self._enter(waiter, again=True)

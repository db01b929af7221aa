"""Heartbeats: the broker's half of finding out that the other side hangs.

That a process is dead the kernel says, at once. That it is stopped, or turns in circles, nobody
says. So a client may agree on an interval in `hello`, and while it watches or subscribes to
something the broker sends it each interval

    [2, "ping", [revision]]      this broker lives, and you have been told all up to that revision

and the client answers `pong`. Whatever comes of it is a sign of life, also that it takes what was
waiting for it. After three beats in a row without one its connection ends (`silent`). It is beats
that are counted, not seconds: a broker that was stopped itself comes back to one that is late, not
to many that were missed.

There is no timer of each connection but one list of what is due when. Connections beat in the order
in which they came, and those that are due at about the same time in one turn, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ..engine.deadlines import Deadlines
from ..limits import BEAT_SLACK, BEATS_MISSED, BEATS_PER_TURN, HEARTBEAT_LEAST, HEARTBEAT_MOST
from ..terms import CloseReason
from ..wire.encoding import encode_ping
from .connection import Connection

EndConnection = Callable[[int, CloseReason, str], None]


class Heartbeats:
    def __init__(
        self,
        connections: dict[int, Connection],
        follows: Callable[[int], bool],
        end_connection: EndConnection,
    ) -> None:
        """`follows` tells whether a connection watches or subscribes to anything."""
        self.due = inf
        """When `tend` wants to be called next."""
        self._connections = connections
        self._follows = follows
        self._end_connection = end_connection
        self._beats: Deadlines[int] = Deadlines()
        """The connections that have agreed on a heartbeat and follow something."""

    def agree(self, connection: Connection, wished: float | None, now: float) -> float | None:
        """The interval of a connection whose client wishes one. The first that it wished stays."""
        if wished is not None and not connection.heartbeat:
            connection.heartbeat = min(max(wished, HEARTBEAT_LEAST), HEARTBEAT_MOST)
            if self._follows(connection.number):
                self.follow(connection.number, now)
        return connection.heartbeat or None

    def follow(self, number: int, now: float) -> None:
        """A connection watches or subscribes to something, perhaps more than before."""
        interval = self._connections[number].heartbeat
        if interval:
            self._beats.schedule(number, now + interval)
            self.due = self._beats.next()

    def pong(self, number: int, now: float, revision: int) -> None:
        """A client answers. That it was heard is noted already, whatever it says."""

    def tend(self, now: float, revision: int) -> list[Connection]:
        """Beat for those whose time has come. All changes up to `revision` must have been queued
        for whoever watches. Returns the connections that there is output for."""
        frame = encode_ping(revision)
        told: list[Connection] = []
        for _ in range(BEATS_PER_TURN):
            number = self._beats.pop_due(now + BEAT_SLACK)
            if number is None:
                break
            connection = self._connections.get(number)
            if connection is None or connection.linger_until is not None:
                continue  # it is gone, or about to
            if not self._follows(number):
                continue  # it need not say anything until it does again, which says enough
            if self._is_silent(connection):
                self._end_connection(
                    number, CloseReason.SILENT,
                    f"nothing was heard of you for {BEATS_MISSED * connection.heartbeat:g} s",
                )  # fmt: skip
                continue
            self._beats.schedule(number, now + connection.heartbeat)
            # Else it has something to read already; and who is behind has not been told everything.
            if not connection.waiting_bytes and connection.behind is None:
                connection.output.append(frame)
                told.append(connection)
        self.due = self._beats.next()
        return told

    def _is_silent(self, connection: Connection) -> bool:
        connection.missed = 0 if connection.heard else connection.missed + 1
        connection.heard = False
        if connection.missed < BEATS_MISSED:
            return False
        if connection.paused:  # what it says is not read before it takes what waits for it
            return True
        # One that has ended its half says no more, and listens: its end is there to be read.
        return not connection.requests and not connection.has_input()

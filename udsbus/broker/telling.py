"""Telling: each change and each message of a turn goes to those who asked for it.

It is queued here, and sent when the journal has it. For a connection that does not keep up it is
noted instead (`slow.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from ..engine import Engine
from ..limits import KEPT_BYTES
from ..messages import Change, Effect, Message
from ..terms import CloseReason
from ..wire.encoding import encode_detailed, encode_message, forget_buffer
from .connection import Connection
from .fanout import Revision
from .slow import SlowReaders
from .statistics import Statistics


class Telling:
    def __init__(
        self,
        engine: Engine,
        connections: Mapping[int, Connection],
        touched: list[Connection],
        slow: SlowReaders,
        statistics: Statistics,
        end: Callable[[Connection, CloseReason, str], None],
    ) -> None:
        """`touched` has those with something to send; `end` ends a connection that is too slow."""
        self._engine = engine
        self._connections = connections
        self._touched = touched
        self._slow = slow
        self._statistics = statistics
        self._end = end
        self._put_off: list[tuple[Connection, Change | Message, bytes]] = []
        """What connections that are behind are to be told of this turn, if it comes into the
        journal."""

    def tell(self, effects: list[Effect], early: bool = False) -> None:
        """Queue each change and message. `early`: it is not in the journal yet."""
        if not self._engine.registrations.patterns:
            return
        watches = self._engine.watches
        together: Revision | None = None
        for effect in effects:
            if type(effect) is Change:
                subscribers = watches.find(effect.key)
                if together is not None and together.number != effect.revision:
                    self._tell_changes(together, early)
                    together = None
                if subscribers:
                    if together is None:
                        together = Revision(effect.revision)
                    together.add(effect, subscribers)
            elif type(effect) is Message:
                if together is not None:
                    self._tell_changes(together, early)
                    together = None
                self._statistics.messages += 1
                self._tell_message(effect, early)
        if together is not None:
            self._tell_changes(together, early)

    def now_safe(self) -> None:
        """What was told early is in the journal."""
        for connection, effect, frame in self._put_off:
            self._note(connection, effect, frame)
        self._put_off.clear()

    def take_back(self) -> None:
        """What was told early never happened."""
        self._put_off.clear()

    def _tell_message(self, message: Message, early: bool) -> None:
        if message.subscribers:
            frame = encode_message(message.topic, message.message)
            for connection in self._queue(message.subscribers, [frame]):
                self._put_aside(connection, message, frame, early)
        if message.detailed:
            frame = encode_detailed(message)
            for connection in self._queue(message.detailed, [frame]):
                self._put_aside(connection, message, frame, early)

    def _tell_changes(self, together: Revision, early: bool) -> None:
        behind = self._slow.behind
        if behind:
            for change, subscribers in together.each():
                for number in subscribers:
                    if number in behind:
                        self._put_aside(behind[number], change, b"", early)
        for told in together.notifications(self._engine.wants, self._engine.sessions, behind):
            for connection in self._queue(told.connections, told.frames):
                for change in told.changes:
                    self._put_aside(connection, change, b"", early)

    def _queue(self, subscribers: Sequence[int], frames: list[bytes]) -> list[Connection]:
        """Queue frames. Returns the connections for which that cannot be: they are behind."""
        size = sum(map(len, frames)) if len(frames) > 1 else len(frames[0])
        if size > KEPT_BYTES:
            forget_buffer()
        late: list[Connection] = []
        for number in subscribers:
            connection = self._connections.get(number)
            if connection is None or connection.linger_until is not None:
                continue  # it went in this very turn, or is about to
            if connection.room < 0 and not self._slow.keeps_up(connection, monotonic()):
                late.append(connection)
                continue
            connection.output += frames
            connection.room -= size
            self._touched.append(connection)
        return late

    def _put_aside(
        self, connection: Connection, effect: Change | Message, frame: bytes, early: bool
    ) -> None:
        if early:
            self._put_off.append((connection, effect, frame))
        else:
            self._note(connection, effect, frame)

    def _note(self, connection: Connection, effect: Change | Message, frame: bytes) -> None:
        """Let a connection that is behind be told later, if that can be."""
        why = self._slow.note(connection, effect, frame)
        if why:
            self._end(connection, CloseReason.SLOW_READER, why)

"""Slow readers: who is behind, since when, and how they catch up.

A connection falls behind when more waits for it than OUTPUT_HARD_BYTES, or more than
OUTPUT_SOFT_BYTES for OUTPUT_SOFT_SECONDS. That is looked at when there is something to tell it, and
more than the lower of the two waits: it needs no timer, and costs nothing as long as all keep up.

Then everything goes by way of its `Behind`, until that is empty:

    in step ──(too much waits)──► behind ──(it has taken what waited)──► catching up ──► in step
                                     ▲                                        │
                                     └──────────(it takes no more)────────────┘

So revisions come in their order, whatever happens meanwhile. The last that a reader has seen is
where it can resume: of each key that changed before, and that it was not told of, a later change is
still to come.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import monotonic, time

from ..engine import Engine
from ..engine.wants import USUAL
from ..limits import (
    BEHIND_KEY_BYTES,
    BEHIND_KEYS,
    BEHIND_MESSAGE_BYTES,
    CATCH_UP_BYTES,
    KEPT_BYTES,
    OUTPUT_HARD_BYTES,
    OUTPUT_LOW_BYTES,
    OUTPUT_SOFT_BYTES,
    OUTPUT_SOFT_SECONDS,
    SHARE_SECONDS,
)
from ..messages import Change, Message
from ..wire.encoding import encode_in_step, forget_buffer
from .behind import Behind
from .connection import Connection
from .slowkeys import SlowKeys
from .statistics import Statistics

log = logging.getLogger("udsbus.broker")

TOO_MANY_KEYS = (
    f"changes of more than {BEHIND_KEYS} keys, or of more than {BEHIND_KEY_BYTES} bytes of keys, "
    "were waiting for you"
)
TOO_MANY_MESSAGES = (
    f"more than {BEHIND_MESSAGE_BYTES} bytes of messages were waiting for you that must not be "
    "dropped"
)


class SlowReaders:
    def __init__(self, engine: Engine, keys: SlowKeys, statistics: Statistics) -> None:
        self.behind: dict[int, Connection] = {}
        """By number, those that do not keep up."""
        self.ready: dict[int, Connection] = {}
        """Those of them that may be told more now; who was told last comes last."""
        self._keys = keys
        self._engine = engine
        self._statistics = statistics

    def keeps_up(self, connection: Connection, now: float) -> bool:
        """Whether an event may be queued for a connection for which much is queued already."""
        if connection.behind is not None:
            return False
        if OUTPUT_SOFT_BYTES - connection.room <= OUTPUT_HARD_BYTES:
            since = connection.above_since
            if since is None:
                connection.above_since = now
                return True
            if now - since < OUTPUT_SOFT_SECONDS:
                return True
        self._fall_behind(connection)
        return False

    def note(self, connection: Connection, effect: Change | Message, frame: bytes) -> str:
        """Put off what a connection is to be told. Returns why that cannot be; "": it can."""
        behind = connection.behind
        if behind is None:
            return ""  # it has ended
        if isinstance(effect, Change):
            left_out, noted = behind.left_out, True
            want = self._engine.wants.get(connection.number)
            session = self._engine.sessions.get(connection.number)
            if want is None or want.wants(effect, session):
                noted = behind.note(effect.key, effect.revision, effect.kind, effect.session)
            else:
                behind.pass_over(effect.key)
            self._statistics.left_out += behind.left_out - left_out
            return "" if noted else TOO_MANY_KEYS
        dropped, number, topic = behind.dropped, connection.number, effect.topic
        droppable = number not in self._engine.publishing.disconnecting.find(topic)
        waited = effect.waited and number in self._engine.publishing.blocking.find(topic)
        held = behind.hold(frame, droppable, waited)
        self._statistics.dropped += behind.dropped - dropped
        return "" if held else TOO_MANY_MESSAGES

    def taken(self, connection: Connection) -> None:
        """It has taken something of what waits."""
        if connection.waiting_bytes <= OUTPUT_LOW_BYTES:
            self.ready[connection.number] = connection

    def catch_up(self) -> Iterator[Connection]:
        """Queue more for those that are ready, each of which is to be flushed; for no more than a
        share of a turn. Not before all that has happened in it is safe, and noted."""
        until = monotonic() + SHARE_SECONDS
        for connection in list(self.ready.values()):
            del self.ready[connection.number]
            if connection.behind is None or connection.waiting_bytes > OUTPUT_LOW_BYTES:
                continue
            self._queue(connection, connection.behind, until)
            yield connection
            if connection.behind is not None:
                self.taken(connection)
            if monotonic() > until:
                break

    def forget(self, connection: Connection) -> None:
        """It has ended, and is told nothing more."""
        if connection.behind is not None:
            self._leave(connection)

    def _fall_behind(self, connection: Connection) -> None:
        log.info(
            "connection %d, of pid %d, is behind: %d bytes wait for it",
            connection.number, connection.peer.pid, OUTPUT_SOFT_BYTES - connection.room,
        )  # fmt: skip
        connection.behind = Behind()
        connection.room = -1
        number = connection.number
        # It is ready if this turn is taken back, and what it was about to be sent with it.
        self.behind[number] = self.ready[number] = connection
        self._engine.publishing.fell_behind(number)
        self._statistics.fell_behind += 1
        self._keys.add(
            number, {"since": time(), "pid": connection.peer.pid, "name": connection.name}
        )

    def _queue(self, connection: Connection, behind: Behind, until: float) -> None:
        revision = self._engine.revision
        said = behind.say(revision)
        if said is not None:
            connection.output.append(said)
        size = 0
        find, number = self._engine.watches.find, connection.number
        detail = self._engine.wants.get(number, USUAL).detail
        while behind and size < CATCH_UP_BYTES and (not size or monotonic() < until):
            entries = self._engine.keyspace.entries
            frames = behind.take(entries, lambda key: number in find(key), detail)
            connection.output += frames
            size += sum(map(len, frames))
        if size > KEPT_BYTES:
            forget_buffer()
        if not behind:
            # Nothing may be left of a revision of which it was said that more follows.
            connection.output += behind.conclude()
            connection.output.append(encode_in_step(revision))
            self._leave(connection)
            log.info("connection %d is in step again", connection.number)

    def _leave(self, connection: Connection) -> None:
        number = connection.number
        connection.behind = None
        connection.measure()
        del self.behind[number]
        self.ready.pop(number, None)
        self._engine.publishing.caught_up(number)
        self._keys.remove(number)

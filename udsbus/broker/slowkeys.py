"""Who is behind, as keys: `$sys/slow/SESSION.CONNECTION`, for as long as it lasts.

A reader falls behind when the changes of a turn are in the journal and on their way, so its key is
written in the next turn, and in which one it goes does not matter to anybody. What is wanted is
compared with what is there until that is so: a turn may be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack

from ..patterns import SLOW_KEYS
from ..terms import DELETED

if TYPE_CHECKING:
    from ..engine import Engine


class SlowKeys:
    def __init__(self, engine: Engine, hurry: Callable[[], None]) -> None:
        """`hurry` is called when `tend` wants to be."""
        self._engine = engine
        self._hurry = hurry
        self._keys: dict[int, str] = {}
        """Connection → its key."""
        self._wanted: dict[str, tuple[int, bytes]] = {}
        """Key → the connection and the value, of those that shall be there."""
        self._unsettled: dict[str, None] = {}
        """Those that may be otherwise than they should."""

    @property
    def due(self) -> bool:
        """Whether `tend` wants to be called; not while nothing can be written."""
        return bool(self._unsettled)

    def adopt(self) -> None:
        """Those that a broker before this one has left are of connections that are no more."""
        self._unsettle(*(key for key, _ in self._engine.keyspace.below(SLOW_KEYS)))

    def add(self, connection: int, about: dict[str, Any]) -> None:
        """A connection is behind; one without a session has a key that belongs to nobody."""
        session = self._engine.sessions.get(connection, "")
        key = self._keys[connection] = f"{SLOW_KEYS}{session}.{connection}"
        self._wanted[key] = connection, msgpack.packb(about)
        self._unsettle(key)

    def remove(self, connection: int) -> None:
        """It is not any more."""
        key = self._keys.pop(connection)
        del self._wanted[key]
        self._unsettle(key)

    def tend(self) -> None:
        """Write what shall be there, and remove the rest."""
        engine = self._engine
        for key in list(self._unsettled):
            there = engine.entry(key)
            connection, value = self._wanted.get(key, (0, None))
            session = key.removeprefix(SLOW_KEYS).rpartition(".")[0]
            if session and engine.sessions.get(connection) != session:
                value = None  # it has ended, and what belongs to it goes
            if value == (None if there is None else there[0]):
                del self._unsettled[key]
            elif value is None:
                engine.let_go(key, 0, DELETED)
            else:
                engine.hold(key, value, session or None, 0)

    def _unsettle(self, *keys: str) -> None:
        self._unsettled |= dict.fromkeys(keys)
        self._hurry()

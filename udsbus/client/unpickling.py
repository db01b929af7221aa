"""Clients that come to another process in a pickle: with `multiprocessing`, say.

A connection cannot go along, so there is a client of its own there. What was one client is one
client, however many objects came with it, and however often: a lock and an event that belong
together stay so, and the tasks of a pool share one for each process. What comes back belongs to
the one that went.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Base

known: weakref.WeakValueDictionary[str, Base] = weakref.WeakValueDictionary()
"""Session → the client of this process that has it, or that was made for one that has it."""
_made: dict[str, Base] = {}
"""Those that were made, so that they stay: each task of a pool brings its own pickle."""
_one_at_a_time = threading.Lock()


def _anew() -> None:
    """In a child after a fork, where the thread that held it is not."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_anew)


def client_like(session: str, address: str, options: dict[str, Any]) -> Base:
    """The client that a pickle tells of."""
    from .sync import Client

    with _one_at_a_time:
        client = known.get(session)
        if client is None or client._closed:
            client = known[session] = _made[session] = Client(address, **options)
            client.origin = session
        return client

"""Clients: which there are, what belongs to them, and when it goes.

A *session* is one client, over however many connections. Its keys go with it, and it goes

- when its process is dead. The kernel says so at once, by a pidfd, whoever else holds its sockets
  open: a forked child, say.
- when its last connection has been gone for GRACE_SECONDS. A client that has lost them all, as at a
  takeover, is back before.
- when it says goodbye, or is kicked.

What belonged to it is removed in slices, so that one who had much does not keep the others waiting.
Who there is stands below `$sys/clients/`, as keys that belong to their own sessions; so the journal
tells the next broker all that it needs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable
from math import inf
from time import time
from typing import Any

import msgpack

from ..engine import Engine
from ..engine.waiting import NOBODY
from ..errors import Conflict, InvalidRequest, UnsupportedValue
from ..hub import READ, Hub
from ..limits import GRACE_SECONDS, RELEASES_PER_TURN
from ..patterns import CLIENT_KEYS
from ..peers import Peer, Process, process_descriptor, process_of
from ..terms import CloseReason
from ..wire.values import decode
from .slowkeys import SlowKeys

log = logging.getLogger("udsbus.broker")

EndConnection = Callable[[int, CloseReason, str], None]


class Session:
    """One client."""

    __slots__ = ("about", "connections", "fd", "packed")

    def __init__(self, about: dict[str, Any], packed: bytes = b"") -> None:
        self.about = about
        """What the others are told of it."""
        self.packed = packed
        self.connections: set[int] = set()
        self.fd = -1
        """That tells of the end of its process; -1: nothing does."""

    @property
    def process(self) -> Process:
        return Process(self.about["pid"], self.about["started"], self.about["boot"])


class Sessions:
    def __init__(self, engine: Engine, hub: Hub, end_connection: EndConnection) -> None:
        self.due = inf
        """When `tend` wants to be called next."""
        self._engine = engine
        self._hub = hub
        self._end_connection = end_connection
        self._sessions: dict[str, Session] = {}
        self._left: dict[str, float] = {}
        """Those without a connection, and when they end; the soonest first."""
        self._ending: dict[str, None] = {}
        """Those that have ended, and may own something still."""
        self._untold: dict[str, None] = {}
        """Those that came when nothing could be written."""
        self._descriptors: dict[Process, int] = {}
        """What tells of the end of a process, which may have several sessions."""
        self._processes: dict[int, set[str]] = {}
        """Descriptor → the sessions of that process."""
        self.slow = SlowKeys(engine, self._hurry)
        """The keys of those of their connections that are behind."""

    def adopt(self, now: float) -> None:
        """Go on with those that a broker before this one has left. They come back, or end."""
        for name in self._engine.owners.owning():
            entry = self._engine.keyspace.entries.get(CLIENT_KEYS + name)
            session = None
            if entry is not None:
                session = Session(msgpack.unpackb(entry[0], strict_map_key=False), entry[0])
                if process_of(session.process.pid) not in (session.process, None):
                    session = None  # it is dead, or another has its pid
            if session is None:
                self._ending[name] = None
                continue
            self._sessions[name] = session
            self._follow_process(name, session, None)
            self._left[name] = now + GRACE_SECONDS
        self._engine.locks.adopt(now)
        self.plan(now)
        self.slow.adopt()

    # --- they come --------------------------------------------------------------------------

    def join(
        self,
        connection: int,
        name: str,
        peer: Peer,
        sock: socket.socket,
        called: str | None,
        metadata: Any,
        now: float,
    ) -> None:
        """A connection is one of the session `name`.

        Raises InvalidRequest if it cannot be, UnsupportedValue for metadata, Conflict while what
        belonged to an earlier one of this name is being removed.
        """
        if "/" in name or "*" in name or not name:
            raise InvalidRequest(f"a session's name has neither '/' nor '*' in it, not {name!r}")
        before = self._engine.sessions.get(connection)
        if before not in (None, name):
            raise InvalidRequest("this connection has a session already; open another for another")
        if name in self._ending:
            raise Conflict(f"what belonged to the session {name} is just being removed; try again")
        session = self._sessions.get(name)
        process = process_of(peer.pid)
        about: dict[str, Any] = {
            "name": called, "pid": peer.pid, "uid": peer.uid, "gid": peer.gid,
            "since": time(), "metadata": metadata, "started": 0, "boot": "",
        }  # fmt: skip
        if session is not None:
            known = session.process
            if process not in (known, None) and (known.started or known.pid != peer.pid):
                raise InvalidRequest(
                    f"the session {name} is that of another process, pid {known.pid}"
                )
            about = {**session.about, "name": called, "metadata": metadata}
        if process is not None:
            about["started"], about["boot"] = process.started, process.boot
        packed = _packed(about)
        if session is None:
            session = self._sessions[name] = Session(about)
        session.about, session.packed = about, packed
        if session.fd < 0:
            self._follow_process(name, session, sock)
        session.connections.add(connection)
        self._left.pop(name, None)
        self._engine.sessions[connection] = name
        self._tell(name, session)
        self.plan(now)

    def _tell(self, name: str, session: Session) -> None:
        if self._engine.frozen:
            self._untold[name] = None
        else:
            self._engine.join(name, session.packed)

    def _follow_process(self, name: str, session: Session, sock: socket.socket | None) -> None:
        process = session.process
        # One whose start is not known may be of another namespace, where many have the pid 0.
        fd = self._descriptors.get(process, -1) if process.started else -1
        if fd < 0:
            fd = process_descriptor(process, sock)
            if fd < 0:
                return
            if process.started:
                self._descriptors[process] = fd
            self._processes[fd] = set()
            self._hub.add(fd, READ)
        session.fd = fd
        self._processes[fd].add(name)

    # --- they go ----------------------------------------------------------------------------

    def leave(self, connection: int, now: float) -> None:
        """A connection is gone. Its session may come back over another."""
        name = self._engine.sessions.pop(connection, None)
        session = None if name is None else self._sessions.get(name)
        if name is None or session is None:
            return
        session.connections.discard(connection)
        if not session.connections:
            self._left[name] = now + GRACE_SECONDS
            self.plan(now)

    def is_process(self, fd: int) -> bool:
        """Whether `fd` tells of the end of a process."""
        return fd in self._processes

    def end_those_of_dead_processes(self, now: float) -> None:
        """Asks the descriptors themselves: what the hub has told may have been of one that was
        closed since, and whose number another has now."""
        poll = select.poll()
        for fd in self._processes:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            for name in list(self._processes[fd]):
                self.end(name, CloseReason.PROCESS_ENDED, "the process that opened it is dead", now)

    def end(self, name: str, reason: CloseReason, why: str, now: float, keep: int = 0) -> bool:
        """End a session and its connections, but for `keep`. False: there was none."""
        session = self._sessions.pop(name, None)
        if session is None:
            return False
        self._left.pop(name, None)
        self._untold.pop(name, None)
        self._ending[name] = None
        if reason is CloseReason.KICKED:
            self._engine.linger(name, now)
        for connection in sorted(session.connections):
            del self._engine.sessions[connection]
            # Whoever comes back asks again; only who said goodbye hears of it here.
            self._engine.waiting.forget(connection, None if connection == keep else NOBODY)
            if connection != keep:
                self._end_connection(connection, reason, why)
        if session.fd >= 0:
            others = self._processes[session.fd]
            others.discard(name)
            if not others:
                del self._processes[session.fd]
                if self._descriptors.get(session.process) == session.fd:
                    del self._descriptors[session.process]
                self._hub.remove(session.fd)
                os.close(session.fd)
        self.plan(now)
        return True

    def tend(self, now: float) -> None:
        """Do what is due. Not while nothing can be written."""
        for name, until in list(self._left.items()):
            if until > now:
                break
            log.info("session %s ends: its last connection has been gone too long", name)
            self.end(name, CloseReason.PEER_CLOSED, "", now)
        for name in list(self._untold):
            # Also not forgotten before it is seen to be written.
            entry = self._engine.keyspace.entries.get(CLIENT_KEYS + name)
            if entry is not None and entry[0] == self._sessions[name].packed:
                del self._untold[name]
            else:
                self._tell(name, self._sessions[name])
        left = RELEASES_PER_TURN
        for name in list(self._ending):
            # It is forgotten in a later turn than the one that has removed the last of it: that
            # one may be undone.
            if not self._engine.owners.of(name):
                del self._ending[name]
            elif left:
                left -= self._engine.release(name, left, now)
                if self._engine.owners.of(name):
                    left = 0  # there were too many, or too large ones, for one turn
        if self.slow.due:
            self.slow.tend()
        self.plan(now)

    def plan(self, now: float) -> None:
        """Find out when something is due."""
        if self._ending or ((self._untold or self.slow.due) and not self._engine.frozen):
            self.due = now
        else:
            self.due = next(iter(self._left.values()), inf)

    def _hurry(self) -> None:
        """Something is due at once."""
        self.due = 0.0

    def close(self) -> None:
        for fd in self._processes:
            with contextlib.suppress(OSError):
                os.close(fd)


def _packed(about: dict[str, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(about)
        decode(packed)
    except Exception as error:  # msgpack raises many kinds
        raise UnsupportedValue(f"nobody could read this metadata: {error}") from None
    return packed

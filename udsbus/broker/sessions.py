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
import socket
from collections.abc import Callable
from time import time
from typing import Any

import msgpack

from ..engine import Engine
from ..errors import InvalidRequest
from ..limits import GRACE_SECONDS, RELEASES_PER_TURN
from ..messages import CloseReason
from ..patterns import CLIENT_KEYS
from ..peers import Peer, Process, process_descriptor, process_of
from .hub import READ, Hub

log = logging.getLogger("udsbus.broker")

EndConnection = Callable[[int, CloseReason, str], None]


class Session:
    """One client."""

    __slots__ = ("about", "connections", "fd")

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        """What the others are told of it."""
        self.connections: set[int] = set()
        self.fd = -1
        """That tells of the end of its process; -1: nothing does."""

    @property
    def process(self) -> Process:
        return Process(self.about["pid"], self.about["started"], self.about["boot"])


class Sessions:
    def __init__(self, engine: Engine, hub: Hub, end_connection: EndConnection) -> None:
        self.due: float | None = None
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

    def adopt(self, now: float) -> None:
        """Go on with those that a broker before this one has left. They come back, or end."""
        for name in self._engine.owners.owning():
            entry = self._engine.keyspace.entries.get(CLIENT_KEYS + name)
            session = None
            if entry is not None:
                session = Session(msgpack.unpackb(entry[0], strict_map_key=False))
                if process_of(session.process.pid) not in (session.process, None):
                    session = None  # it is dead, or another has its pid
            if session is None:
                self._ending[name] = None
                continue
            self._sessions[name] = session
            self._follow_process(name, session, None)
            self._left[name] = now + GRACE_SECONDS
        self.plan(now)

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
        """A connection is one of the session `name`. Raises InvalidRequest if it cannot be."""
        if "/" in name or "*" in name or not name:
            raise InvalidRequest(f"a session's name has neither '/' nor '*' in it, not {name!r}")
        before = self._engine.sessions.get(connection)
        if before not in (None, name):
            raise InvalidRequest("this connection has a session already; open another for another")
        session = self._sessions.get(name)
        process = process_of(peer.pid)
        if session is None:
            self._remove_rest(name)
            about = {
                "name": called, "pid": peer.pid, "uid": peer.uid, "gid": peer.gid,
                "since": time(), "metadata": metadata,
                "started": process.started if process is not None else 0,
                "boot": process.boot if process is not None else "",
            }  # fmt: skip
            session = self._sessions[name] = Session(about)
            self._follow_process(name, session, sock)
        elif process not in (session.process, None):
            raise InvalidRequest(
                f"the session {name} is that of another process, pid {session.about['pid']}"
            )
        session.about = {**session.about, "name": called, "metadata": metadata}
        session.connections.add(connection)
        self._left.pop(name, None)
        self._engine.sessions[connection] = name
        self._tell(name, session)
        self.plan(now)

    def _tell(self, name: str, session: Session) -> None:
        if self._engine.frozen:
            self._untold[name] = None
        else:
            self._untold.pop(name, None)
            self._engine.join(name, msgpack.packb(session.about))

    def _follow_process(self, name: str, session: Session, sock: socket.socket | None) -> None:
        process = session.process
        fd = self._descriptors.get(process, -1)
        if fd < 0:
            fd = process_descriptor(process, sock)
            if fd < 0:
                return
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

    def process_ended(self, fd: int, now: float) -> None:
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
        for connection in sorted(session.connections):
            del self._engine.sessions[connection]
            if connection != keep:
                self._end_connection(connection, reason, why)
        if session.fd >= 0:
            others = self._processes[session.fd]
            others.discard(name)
            if not others:
                del self._processes[session.fd], self._descriptors[session.process]
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
            self._tell(name, self._sessions[name])
        left = RELEASES_PER_TURN
        for name in list(self._ending):
            # It is forgotten in a later turn than the one that has removed the last of it: that
            # one may be undone.
            if not self._engine.owners.of(name):
                del self._ending[name]
            elif left:
                left -= self._engine.release(name, left)
        self.plan(now)

    def _remove_rest(self, name: str) -> None:
        """At once: the session begins anew."""
        while self._engine.owners.of(name) and not self._engine.frozen:
            self._engine.release(name, RELEASES_PER_TURN)
        self._ending.pop(name, None)

    def plan(self, now: float) -> None:
        """Find out when something is due."""
        if self._ending or (self._untold and not self._engine.frozen):
            self.due = now
        else:
            self.due = next(iter(self._left.values()), None)

    def close(self) -> None:
        for fd in self._processes:
            with contextlib.suppress(OSError):
                os.close(fd)

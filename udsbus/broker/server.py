"""A broker from start to end: settings, signals, and the few commands that are about itself."""

from __future__ import annotations

import gc
import logging
import os
import resource
import secrets
import signal
import socket
import sqlite3
from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import monotonic, sleep, time
from typing import Any, Literal, NamedTuple

import anyio
import anyio.abc
import msgpack

from .. import messages as m
from ..errors import Error, LimitExceeded, ProtocolError, UnsupportedValue
from ..faults import Fault
from ..hub import Hub, best_hub
from ..journal import Durability, FileJournal, Journal, MemoryJournal
from ..journal.folding import KEEP_USUAL, Retention
from ..limits import (
    CRASHES_FREE,
    HUNG_SECONDS,
    LIMITS,
    METADATA_BYTES,
    NAME_BYTES,
    SESSION_BYTES,
    UNANSWERED_MOST,
)
from ..patterns import RESERVED
from ..terms import CloseReason
from ..version import PROTOCOL_VERSION, __version__
from . import turn as turn_module
from .durability import JournalCare, fold_beside, open_state
from .faulty import Faults
from .listener import Listener
from .pair import Guard, Inherited, StandBy, backoff
from .replica import Replica
from .statistics import Statistics
from .supervised import notify
from .turn import Turn
from .versionpage import VersionedReads, version_page

log = logging.getLogger("udsbus.broker")

COLLECT_AFTER_OBJECTS = 100_000

COMPILED = not turn_module.__file__.endswith(".py")
"""Whether mypyc made machine code of the hot modules (pyproject.toml says which)."""

Backend = Literal["asyncio", "trio"]


class Settings(NamedTuple):
    """What a broker is started with."""

    address: str
    """Absolute path of the socket."""
    backend: Backend = "asyncio"
    lifeline: int | None = None
    """A connected socket: told `ready`, and the broker stops when its other end closes."""
    hub: Callable[[], Hub] = best_hub
    first_revision: int | None = None
    """Where revisions begin; None: see `Broker`."""
    durability: Durability = "none"
    state: str = ""
    """Absolute path of the directory that keeps what is to survive; not with `none`."""
    standby: tuple[str, ...] = ()
    """The command that starts a standby, see `pair`; empty: the broker runs alone."""
    hung_seconds: float = HUNG_SECONDS
    """Broker or standby take the other for hung when they have not heard from it for so long."""
    retention: Retention = KEEP_USUAL
    snapshot: str | None = None
    """Begin with what this file holds."""
    folds: bool = False
    """Without a standby, let a process of its own fold the journal now and then."""
    faults: tuple[Fault, ...] = ()
    """What shall go wrong, for a test; once, in this process."""
    given: int | None = None
    """A socket that listens at the address already, from a service manager."""


class Broker:
    """One bus at one address.

    Without durability it keeps nothing when it ends, and its successor must not use a revision
    again: a write that depends on what it read from the old one would meet a stranger's value with
    the same revision. So the revisions of a new bus begin with the time in microseconds. As long as
    there are fewer than a million writes a second, and the clock is not set back, none comes twice.
    """

    def __init__(
        self,
        settings: Settings,
        inherited: Inherited | None = None,
        crashes: int = 0,
        replica: Replica | None = None,
    ) -> None:
        """Claims the address, listens and recovers the state; or goes on with what a broker before
        this one has left, after `crashes` of them died soon after they began. `replica` is what has
        been read of the state already.

        Raises BrokerUnavailable if the address or the state is taken, AccessDenied if a directory
        will not do, JournalDamaged if the state cannot be trusted.
        """
        self.settings = settings
        self._bus = secrets.token_hex(8)  # if there is no state that has a name already
        self._started = monotonic()
        self._statistics = Statistics()
        first = settings.first_revision
        if first is None:
            first = int(time() * 1e6)
        if inherited is None:
            listener = Listener(settings.address, given=settings.given)
        else:
            sockets = inherited.listener, inherited.address_lock
            listener = Listener(settings.address, sockets, ours=inherited.ours)
        self._journal: FileJournal | None = None
        if settings.durability == "none":
            replica = Replica("", first)
        else:
            try:
                replica, self._journal = open_state(
                    settings.state,
                    settings.durability,
                    self._bus,
                    first,
                    None if inherited is None else inherited.state_lock,
                    settings.snapshot if inherited is None else None,
                    replica,
                )
            except BaseException:
                if inherited is None:
                    listener.close()
                else:  # there may be another attempt with it
                    listener.let_go()
                raise
            self._bus = self._journal.bus
        self._engine, self._lanes = replica.engine, replica.lanes
        self._taken_over = inherited is not None
        self._lifeline: socket.socket | None = None
        """Open for as long as this process may have to hand it on."""
        self._renewing = self.handing_over = False
        self._guard: Guard | None = None
        if settings.standby and self._journal is not None:
            self._guard = Guard(
                settings.standby,
                listener.socket.fileno(),
                listener.ours,
                listener.claim.fd,
                self._journal.lock,
                crashes,
                settings.hung_seconds,
                () if settings.lifeline is None else (settings.lifeline,),
            )
        self.turn = self._new_turn(listener)  # last of all: its page is for as long as we live

    def _new_turn(self, listener: Listener) -> Turn:
        journal: Journal = self._journal or MemoryJournal()
        hub = self.settings.hub()
        entries = self._engine.keyspace.entries
        self._page = version_page(self._engine.revision)
        reads = VersionedReads(entries, self._page).handlers
        faults = Faults(self.settings.faults) if self.settings.faults else None
        if faults is not None:
            journal, hub = faults.journal(journal), faults.hub(hub)
            self._engine.handlers = faults.handlers(self._engine.handlers)
            reads = faults.handlers(reads)
        turn = Turn(
            self._engine,
            journal,
            listener,
            hub,
            {
                m.Hello: self._hello,
                m.Goodbye: self._goodbye,
                m.Kick: self._kick,
                m.Ping: self._ping,
                m.Info: self._info,
                **reads,
            },
            self._lanes,
            self._statistics,
            self._page,
        )
        if faults is not None:
            faults.connections = turn.connections
        return turn

    async def serve(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM, SIGINT or the end of the lifeline, then shut down in order; or until
        SIGUSR2, then hand over to the standby."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._obey_signals, tasks)
            if self.settings.lifeline is not None:
                lifeline = self._lifeline = socket.socket(fileno=self.settings.lifeline)
                if not self._taken_over:
                    lifeline.sendall(b"ready\n")
                tasks.start_soon(self._stop_without, lifeline)
            if self._journal is not None:
                tasks.start_soon(JournalCare(self._journal, self.turn).run)
            started()  # before there is a standby: it may let go of the terminal
            if self._guard is not None:
                # Before the first turn: a request that is the end of this process, and came to it
                # from one that it has ended already, must not find it without a standby.
                await tasks.start(self._guard.run)
            elif self._journal is not None and self.settings.folds:
                tasks.start_soon(
                    fold_beside,
                    self.settings.state,
                    self.settings.retention,
                    self.settings.lifeline,
                )
            notify(READY=1, MAINPID=os.getpid(), STATUS=f"serving {self.settings.address}")
            await self.turn.run()
            tasks.cancel_scope.cancel()
        if not self.handing_over:
            notify(STOPPING=1)
        if self._guard is not None:
            if self.handing_over:
                self._guard.hand_over()
            else:
                self._guard.dismiss()
        await self.turn.shut_down(hand_over=self.handing_over)
        if self._guard is not None:
            if self.handing_over:
                self._guard.make_sure()
            self._guard.close()
        if self._lifeline is not None:
            # Its end tells that this process is gone, and holds no lock any more.
            self._lifeline.detach()

    async def _obey_signals(
        self, tasks: anyio.abc.TaskGroup, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` leaves it
            ends.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*ends, signal.SIGUSR2) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR2:
                    tasks.start_soon(self._hand_over)
                else:
                    log.info("stopping: %s", signal.Signals(number).name)
                    self.turn.stop()

    async def _hand_over(self) -> None:
        """To a new standby, which is the program as it is now on the disk."""
        if self._guard is None:
            log.error("asked to hand over, but this broker runs alone")
            return
        if self._renewing:
            log.info("asked to hand over once more; a new process is being started already")
            return
        self._renewing = True
        log.info("handing over to a new process")
        try:
            await self._guard.renew()
        except (TimeoutError, OSError) as error:
            log.error("the new process did not get ready, so this one goes on: %s", error)
            self._renewing = False
            return
        self.handing_over = True
        self.turn.stop()

    async def _stop_without(self, lifeline: socket.socket) -> None:
        """Whoever started us holds the other end; when the last holder is gone, so are we."""
        lifeline.setblocking(False)
        await anyio.wait_readable(lifeline)
        log.info("stopping: the program that started this broker is gone")
        self.turn.stop()

    # --- commands about the broker itself ---------------------------------------------------

    def _hello(
        self,
        number: int,
        now: float,
        version: int,
        name: str | None,
        session: str | None,
        lane: int,
        unanswered: int,
        metadata: bytes | None,
        heartbeat: float | None,
        page: bool,
    ) -> dict[str, Any]:
        if version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"this broker (udsbus {__version__}) speaks protocol version {PROTOCOL_VERSION}, "
                f"not {version}; use the same release of udsbus on both sides",
                version=PROTOCOL_VERSION,
            )
        _check_size("a client name", "name_bytes", NAME_BYTES, name)
        _check_size("a session's name", "session_bytes", SESSION_BYTES, session)
        if unanswered > UNANSWERED_MOST:
            raise LimitExceeded(
                f"{unanswered} unanswered requests; the limit is {UNANSWERED_MOST}",
                limit="unanswered_most", maximum=UNANSWERED_MOST, actual=unanswered,
            )  # fmt: skip
        told = _read_metadata(metadata)
        connection = self.turn.connections[number]
        connection.name = name
        if session is not None:
            self.turn.sessions.join(
                number, session, connection.peer, connection.socket, name, told, now
            )
            self.turn.take_lane(number, (session, lane), unanswered, now)
        if self._journal is not None:
            self._journal.introduce_again(number)
        greeting = {
            "version": PROTOCOL_VERSION,
            "broker": __version__,
            "bus": self._bus,
            "epoch": 1 if self._journal is None else self._journal.epoch,
            "pid": os.getpid(),
            "revision": self._engine.revision,
            "limits": {name: limit.value for name, limit in LIMITS.items()},
            "heartbeat": self.turn.beats.agree(connection, heartbeat, now),
        }
        if page:
            greeting["page"] = None
            if self._page is not None:
                connection.hand_over(self._page.fd)
                greeting["page"] = self._page.about()
        return greeting

    def _goodbye(self, number: int, now: float) -> bool:
        session = self._engine.sessions.get(number)
        self.turn.leave_lane(number, now)
        return session is not None and self.turn.sessions.end(
            session, CloseReason.PEER_CLOSED, "its client says goodbye", now, keep=number
        )

    def _kick(self, number: int, now: float, session: str) -> bool:
        return self.turn.sessions.end(
            session, CloseReason.KICKED, "somebody has ended this client's session", now
        )

    def _ping(self, number: int, now: float) -> int:
        return self._engine.revision

    def _info(self, number: int, now: float) -> dict[str, Any]:
        engine = self._engine
        return {
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "pid": os.getpid(),
            "address": self.settings.address,
            "uptime": monotonic() - self._started,
            "bus": self._bus,
            "backend": self.settings.backend,
            "compiled": COMPILED,
            "durability": self.settings.durability,
            "state": self.settings.state or None,
            "journal": None if self._journal is None else self._journal.about(),
            "standby": None if self._guard is None else self._guard.ready_pid,
            "revision": engine.revision,
            "keys": len(engine.keyspace.entries) - engine.keyspace.number_below(RESERVED),
            "locks": len(engine.locks.tokens),
            "waiting": len(engine.waiting.waiters),
            "watches": len(engine.watches),
            "subscriptions": engine.registrations.patterns - len(engine.watches),
            "retained": engine.publishing.retained,
            "change_log": len(engine.log),
            "page": self._page is not None,
            "connections": len(self.turn.connections),
            "behind": len(self.turn.slow.behind),
            "counters": self._statistics.as_dict(engine.changes),
            "limits": {name: limit.value for name, limit in LIMITS.items()},
        }


def _read_metadata(metadata: bytes | None) -> Any:
    if metadata is None:
        return None
    if len(metadata) > METADATA_BYTES:
        raise LimitExceeded(
            f"metadata of {len(metadata)} bytes; the limit is {METADATA_BYTES}",
            limit="metadata_bytes", maximum=METADATA_BYTES, actual=len(metadata),
        )  # fmt: skip
    try:
        return msgpack.unpackb(metadata, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds
        raise UnsupportedValue(f"the metadata is no MessagePack: {error}") from None


def _check_size(what: str, limit: str, most: int, text: str | None) -> None:
    size = 0 if text is None else len(text.encode())
    if size > most:
        raise LimitExceeded(
            f"{what} of {size} bytes; the limit is {most}", limit=limit, maximum=most, actual=size
        )


def run(
    settings: Settings,
    started: Callable[[], None] = lambda: None,
    inherited: Inherited | None = None,
) -> bool:
    """Serve in this thread until stopped. `started` is called when clients can connect. Returns
    whether it is over: False if another process goes on.

    With what it has `inherited`, stand by first until it has to serve.
    """
    crashes, replica = 0, None
    import_module(f"anyio._backends._{settings.backend}")  # now, not when a takeover is waited for
    if inherited is not None:
        standing_by = StandBy(
            inherited,
            settings.state,
            settings.retention,
            settings.hung_seconds,
            settings.lifeline,
        )
        _collect_seldom()
        crashes, replica = standing_by.wait()
    _raise_descriptor_limit()
    _collect_seldom()
    if inherited is None:
        broker = Broker(settings)
    else:
        broker = _taken_over(settings, inherited, crashes, replica)
    anyio.run(partial(broker.serve, started), backend=settings.backend)
    return not broker.handing_over


def _taken_over(
    settings: Settings, inherited: Inherited, crashes: int, replica: Replica | None
) -> Broker:
    """A broker that goes on; tried again and again if the system does not let it (a full disk,
    say), while clients wait in the listen queue."""
    attempts = 0
    while True:
        try:
            return Broker(settings, inherited, crashes, replica)
        except (OSError, sqlite3.OperationalError) as error:
            if isinstance(error, Error):
                raise
            attempts += 1
            delay = backoff(CRASHES_FREE + attempts)
            log.error("cannot take over yet: %s; trying again in %g s", error, delay)
            sleep(delay)


def _collect_seldom() -> None:
    """Garbage is collected after so many more objects instead of 700: a turn makes thousands, none
    of them in a cycle, and looking through them cost a good part of its time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 100)


def _raise_descriptor_limit() -> None:
    """One descriptor a connection: take all that we may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

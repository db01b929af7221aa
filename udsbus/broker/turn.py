"""The turn: the one loop to understand.

    wait → read → execute → journal → expose → deliver

The broker is one thread and does these six steps for ever, on every connection that is ready.
Requests are carried out against the engine as they are read; their replies, and the changes for
those who watch, are queued. Then all changes of the turn go to the journal at once, and only when
they are safe there is anything sent. So whatever a peer sees is already in the journal, and a
peer that gets a reply finds its own write everywhere. A turn that cannot be journaled never
happened: it is undone, and carried out again with all writes refused.

`Turn.work` runs turns until nothing comes in any more, then `run` sleeps in the event loop, where
signals and timers have their turn too.
"""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel

from ..engine import Engine
from ..engine.waiting import NOBODY
from ..errors import Error, InvalidRequest, StorageFailed
from ..hub import HANGUP, READ, WRITE, Hub
from ..journal import Journal
from ..limits import (
    ACCEPTS_PER_TURN,
    CHECKPOINT_SECONDS,
    DOZE_SECONDS,
    DRAIN_SECONDS,
    KEPT_BYTES,
    OUTPUT_PAUSE_BYTES,
    REQUESTS_PER_TURN,
    SHARE_SECONDS,
    SPIN_SECONDS,
)
from ..messages import (
    Cancel,
    Command,
    Effect,
    Later,
    Pong,
    Received,
    Subscribe,
    Unwatch,
    Watch,
    Writer,
)
from ..spinning import Spinning
from ..terms import CloseReason
from ..wire.encoding import (
    encode_closing,
    encode_error,
    encode_result,
    forget_buffer,
)
from ..wire.framing import REQUEST, RESPONSE
from ..wire.methods import ANSWERS_KEPT
from .answering import Answering, Handler
from .connection import Connection
from .heartbeats import Heartbeats
from .lanes import Answers, Lanes
from .listener import Listener
from .sessions import Sessions
from .slow import SlowReaders
from .statistics import Statistics
from .telling import Telling
from .versionpage import VersionPage

log = logging.getLogger("udsbus.broker")

CROWD = 2 * (os.cpu_count() or 1)
"""With more connections active than this, polling before a sleep steals time from their processes.
Measured: with up to two for each core it pays, with four it costs."""

CLIENTS_CROWD = os.cpu_count() or 1
"""With more than this, those that poll for their answers take the cores that it needs to come."""


class Turn:
    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        listener: Listener,
        hub: Hub,
        own_commands: dict[type[Command], Handler],
        lanes: Lanes,
        statistics: Statistics,
        page: VersionPage | None = None,
    ) -> None:
        self.connections: dict[int, Connection] = {}
        """By number; the number is the connection's name in the engine."""
        self._engine = engine
        self._agenda = engine.agenda
        self._journal = journal
        self._listener = listener
        self._hub = hub
        self.beats = Heartbeats(self.connections, engine.has_patterns, self._end_number)
        handlers = engine.handlers | own_commands
        handlers |= {Watch: self._watch, Unwatch: self._unwatch, Subscribe: self._subscribe}
        handlers |= {Received: self._received, Cancel: self._cancel, Pong: self.beats.pong}
        self._answering = Answering(handlers, statistics)
        self._fanned_out: list[Effect] = []
        """Effects of this turn that are queued for their watchers but not in the journal yet."""
        self._durable = journal.durable
        self._executed: list[tuple[Connection, list[Any]]] = []
        """What this turn has carried out, in case that its journal fails."""
        self.sessions = Sessions(engine, hub, self._end_number)
        self.slow = SlowReaders(engine, self.sessions.slow, statistics)
        self._touched: list[Connection] = []
        """Those with output of this turn. May hold one twice: the second flush finds nothing."""
        self._telling = Telling(
            engine, self.connections, self._touched, self.slow, statistics, self._end
        )
        self._page = page
        self._lanes = lanes
        self._answers = Answers(journal.durable, journal.wants_answers)
        self._later: dict[int, tuple[Connection, Any, Later]] = {}
        """Ticket → the connection and the msgid of a request whose result is still to come."""
        self._tickets: dict[tuple[int, Any], int] = {}
        """The number of the connection and the msgid → the ticket of such a request."""
        self._come: list[int] = []
        """The tickets of those whose result has come in this turn."""
        self._refusing = False
        """Whether writes are refused, because the journal cannot be written."""
        self._statistics = statistics
        self._by_fd: dict[int, Connection] = {}
        self._next_number = 1
        self._unfinished: list[Connection] = []
        """Those with requests left over from the last turn."""
        self._ending: list[Connection] = []
        """Those to be closed once flushed."""
        self._spinning = Spinning(SPIN_SECONDS)
        self._askers: set[int] = set()
        """The connections that have asked something since they were counted."""
        self._count_until = 0.0
        self._crowded = False
        """So many of them that polling would take their cores away."""
        self._woken = False
        """Somebody was answered who had to wait, and so is asleep: he needs a core now, and it may
        be this one."""
        self._stopping = False
        self._sleep: anyio.CancelScope | None = None
        hub.add(listener.socket.fileno(), READ)
        if self._durable:
            engine.keep_undo()
            self.sessions.adopt(monotonic())

    # --- wait -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            if self.work(monotonic() + CHECKPOINT_SECONDS):
                await self._sleep_until_ready()
            else:
                await anyio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Make `run` return after the turn in hand."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._sleep is not None:
            self._sleep.cancel()

    def work(self, until: float) -> bool:
        """Run turns while there is something to do, at most until `until`. True: time to sleep."""
        while (now := monotonic()) < until:
            if now >= self._count_until:
                self._count_askers(now)
            ready = self._hub.poll(0)
            if not ready and not self._due(now):
                ready = self._linger(now)
                if not ready:
                    return True
            self.turn(ready)
        return False

    def _count_askers(self, now: float) -> None:
        """See for whom it pays to poll, by how many have asked since the last time."""
        askers = len(self._askers)
        self._crowded = askers > CROWD
        if self._page is not None:
            self._page.advise_polling(askers <= CLIENTS_CROWD)
        self._askers.clear()
        self._count_until = now + CHECKPOINT_SECONDS

    def _linger(self, now: float) -> list[tuple[int, int]]:
        """Wait a little in this thread: it is quicker to wake up here than in the event loop.

        First polling, if that pays of late, then dozing. Nothing when nothing came, or when
        something else is due.
        """
        if self._woken:
            self._woken = False
        elif not self._crowded:
            ready = self._spinning.spin(self._hub.poll)
            if ready:
                return ready
        return self._hub.poll(min(max(0.0, self._next_due() - monotonic()), DOZE_SECONDS))

    async def _sleep_until_ready(self) -> None:
        with anyio.move_on_after(max(0.0, self._next_due() - monotonic())) as self._sleep:
            if not self._stopping:
                await anyio.wait_readable(self._hub.fileno())
        self._sleep = None

    def _next_due(self) -> float:
        """When there is something to do whatever comes in; perhaps too early, never too late."""
        due = min(self._agenda.due, self.beats.due)
        if self.sessions.due < due and not self._refusing:
            due = self.sessions.due
        for connection in self._ending:
            if connection.linger_until is not None:
                due = min(due, connection.linger_until)
        return due

    def _due(self, now: float) -> bool:
        return bool(self._unfinished or self.slow.ready) or self._next_due() <= now

    # --- one turn ---------------------------------------------------------------------------

    def turn(self, ready: list[tuple[int, int]]) -> None:
        """One turn for what is ready: (descriptor, mask) pairs from the hub."""
        now = monotonic()
        if self._agenda.due <= now:
            self._engine.tend(now)
        if self._unfinished:
            unfinished, self._unfinished = self._unfinished, []
            for unfinished_one in unfinished:
                self._go_on(unfinished_one, now)
        ended = False
        for fd, events in ready:
            connection = self._by_fd.get(fd)
            if connection is None:
                if self.sessions.is_process(fd):
                    ended = True
                elif fd == self._listener.socket.fileno():
                    self._accept()
                continue
            if events & WRITE:
                if not connection.send_waiting():
                    self._lost(connection, CloseReason.PEER_CLOSED)
                    continue
                connection.heard = True  # it does take its output
                if connection.linger_until is not None:
                    connection.linger_until = now + DRAIN_SECONDS
                if connection.behind is not None:
                    self.slow.taken(connection)
                if connection.stalled:
                    self._go_on(connection, now)
            if events & (READ | HANGUP):
                self._read(connection, events, now)
        if ended:
            self.sessions.end_those_of_dead_processes(now)
        self._finish(now)
        if self._ending:
            self._close_ended(now)

    def _finish(self, now: float) -> None:
        """The second half of a turn: journal, expose, deliver."""
        if self.sessions.due <= now and not self._refusing:
            # After the requests: what belonged to a session is gone when its goodbye is answered.
            self.sessions.tend(now)
        effects = self._engine.take_effects()
        if self._fanned_out:
            effects = self._fanned_out + effects
        if self._engine.waiting.answers:
            self._answer_later()
        kept = False
        if effects:
            try:
                kept = self._journal.append(effects, self._answers.to_be_kept(), now)
            except StorageFailed as failure:
                self._take_back(failure)
                return
            fresh = effects
            if self._fanned_out:
                self._telling.now_safe()
                fresh = effects[len(self._fanned_out) :]
                self._fanned_out = []
            self._telling.tell(fresh)
            if self._page is not None:
                self._page.expose(effects, self._engine.revision)
        if self.beats.due <= now:  # now that all up to this revision is on its way
            self._touched += self.beats.tend(now, self._engine.revision)
        touched = self._touched
        if touched:
            # Backwards, so that events leave before the reply to who has caused them.
            for connection in reversed(touched):
                if not connection.flush():
                    self._lost(connection, CloseReason.PEER_CLOSED)
            touched.clear()
        if self.slow.ready:
            for connection in self.slow.catch_up():
                if not connection.flush():
                    self._lost(connection, CloseReason.PEER_CLOSED)
        if self._come:
            for ticket in self._come:
                waited = self._later.pop(ticket, None)
                if waited is not None:
                    self._tickets.pop((waited[0].number, waited[1]), None)
            self._come.clear()
        # Nobody waits for these any more.
        self._engine.settle()
        self._executed.clear()
        self._answers.settle(kept)

    def _answer_later(self) -> None:
        """Queue the responses to requests of earlier turns, which had to wait."""
        waiting = self._engine.waiting
        answers, waiting.answers = waiting.answers, []
        for ticket, result in answers:
            waited = self._later.get(ticket)
            self._come.append(ticket)
            if waited is None or result is NOBODY:
                continue
            connection, msgid, later = waited
            try:
                if later.to_native is not None:
                    result = later.to_native(result)
                reply = encode_result(msgid, result)
            except Error as failure:
                refused = self._answering.refused(connection.number, "waiting request", failure)
                reply = encode_error(msgid, refused)
            if connection.lane is not None:
                self._answers.add(connection.lane, connection.number, msgid, reply)
            if connection.linger_until is not None or connection.number not in self.connections:
                continue  # it has ended in this very turn; asked again, its lane answers
            connection.output.append(reply)
            self._touched.append(connection)
            self._woken = True
            if connection.ended is not None and not self._expects(connection.number):
                self._close_when_flushed(connection, connection.ended)

    def _take_back(self, failure: StorageFailed) -> None:
        """Undo this turn, and have its requests carried out again in the next, without writes.

        Nothing of it has been sent. Whoever was to be told why their connection ends is not told
        any more; it ends all the same.
        """
        self._engine.undo()
        self._fanned_out = []
        self._telling.take_back()
        self._answers.take_back()
        self._come.clear()
        for connection in self._touched:
            connection.drop_output()
        self._touched.clear()
        executed = self._executed[::-1]
        self._executed = []
        waiters = self._engine.waiting.waiters
        self._later = {ticket: of for ticket, of in self._later.items() if ticket in waiters}
        self._tickets = {(of[0].number, of[1]): ticket for ticket, of in self._later.items()}
        for connection, messages in executed:
            self._statistics.requests -= len(messages)
            if connection.ended is None and connection.number in self.connections:
                connection.requests = messages + connection.requests
                if connection not in self._unfinished:
                    self._unfinished.append(connection)
        self.refuse_writes(failure)

    def writer(self, origin: int) -> Writer | None:
        """Who the connection is that has asked for a change in this turn; None: the broker."""
        connection = self.connections.get(origin)
        if connection is None:  # gone within the turn
            asked = [one for one, _ in self._executed]
            answered = [self._later[ticket][0] for ticket in self._come if ticket in self._later]
            connection = next((one for one in asked + answered if one.number == origin), None)
        if connection is None:
            return None
        session, lane = (None, 0) if connection.lane is None else connection.lane.key
        return Writer(connection.peer.pid, connection.peer.uid, connection.name, session, lane)

    def take_lane(self, number: int, key: tuple[str, int], unanswered: int, now: float) -> None:
        """Let a connection go on with a lane; if another has it, that one ends."""
        connection = self.connections[number]
        if connection.lane is not None and connection.lane.key != key:
            raise InvalidRequest("this connection has a lane already; open another for another")
        if self._engine.waiting.answers:
            self._answer_later()  # that the lane knows of them, should they be asked for again
        connection.lane, before = self._lanes.take(key, unanswered, number, now)
        if before and before != number:
            self._end(
                self.connections[before], CloseReason.REPLACED,
                "another connection goes on with its lane",
            )  # fmt: skip

    def leave_lane(self, number: int, now: float) -> None:
        """A connection goes on without its lane."""
        connection = self.connections[number]
        if connection.lane is not None:
            self._lanes.leave(connection.lane, number, now)
            connection.lane = None

    def refuse_writes(self, failure: StorageFailed | None) -> None:
        """Answer each request that would change something with `failure`; None: no longer."""
        self._refusing = self._engine.frozen = failure is not None
        self._answering.refuse_writes(failure)
        self.sessions.plan(monotonic())
        self._wake()  # for what should have expired meanwhile

    # --- read -------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            accepted = self._listener.accept()
            if accepted is None:
                return
            if isinstance(accepted, CloseReason):
                self._statistics.closed[accepted] += 1
                log.warning("= a connection was turned away: %s", accepted.value)
                continue
            sock, peer = accepted
            connection = Connection(self._next_number, sock, peer, self._hub)
            self._next_number += 1
            self._statistics.accepted += 1
            self.connections[connection.number] = connection
            self._by_fd[connection.fd] = connection
            log.debug("= %d accepted from pid %d", connection.number, peer.pid)

    def _read(self, connection: Connection, events: int, now: float) -> None:
        if connection.ended is not None:
            if events & HANGUP:
                self._lost(connection, connection.ended)
            return
        if connection.requests:
            return  # it has its share of this turn; what it sent since waits in the socket
        data = connection.receive()
        if data:
            connection.heard = True
            self._askers.add(connection.number)
            messages = connection.decoder.feed(data)
            if messages:
                self._execute(connection, messages, now)
            if connection.decoder.cause is not None:
                self._end_if_bad(connection)
        elif data is not None:
            # The peer has finished asking. Its replies, and what it watches, still go to it
            # unless it has closed its reading side too.
            listens = self._hub.tells_hangup and self._expects(connection.number)
            if events & HANGUP:
                self._lost(connection, CloseReason.PEER_CLOSED)
            elif listens:
                connection.end(CloseReason.PEER_CLOSED)
            else:
                self._close_when_flushed(connection, CloseReason.PEER_CLOSED)

    def _expects(self, number: int) -> bool:
        """Whether something may still come for a connection that asks nothing more."""
        return self._engine.has_patterns(number) or self._engine.waiting.waits(number)

    # --- execute ----------------------------------------------------------------------------

    def _execute(self, connection: Connection, messages: list[Any], now: float) -> None:
        """Carry out the messages of one connection, at most its share of a turn."""
        number, output, answering = connection.number, connection.output, self._answering
        routes = answering.routes
        size = done = unasked = 0
        for message in messages:
            if len(message) == 4:
                kind, msgid, name, params = message
            else:
                (kind, name, params), msgid = message, None
            if kind == REQUEST:
                lane = connection.lane
                reply = lane.answer(msgid) if lane is not None and lane.resuming else None
                if reply is None:
                    failed = False
                    try:
                        result = answering.answer(routes, number, now, name, params)
                        if type(result) is Later:
                            self._later[result.ticket] = connection, msgid, result
                            self._tickets[number, msgid] = result.ticket
                            reply = b""
                        else:
                            reply = encode_result(msgid, result)
                    except Exception as failure:
                        failed = isinstance(failure, StorageFailed)  # which may be otherwise later
                        reply = encode_error(msgid, answering.refused(number, name, failure))
                    if lane is not None and name in ANSWERS_KEPT and reply and not failed:
                        self._answers.add(lane, number, msgid, reply)
                if reply:
                    output.append(reply)
                    size += len(reply)
            elif kind == RESPONSE:
                unasked += 1
            else:
                try:
                    result = answering.answer(routes, number, now, name, params)
                    if type(result) is Later:  # nobody could be told when it comes
                        self._engine.waiting.forget_one(result.ticket)
                except Exception as failure:
                    answering.refused(number, name, failure)
            done += 1
            if not done & 3 or name == "batch" or size > OUTPUT_PAUSE_BYTES:
                if size > KEPT_BYTES:
                    forget_buffer()
                late = monotonic() - now > SHARE_SECONDS
                if late or size > OUTPUT_PAUSE_BYTES or done == REQUESTS_PER_TURN:
                    break
        self._statistics.requests += done - unasked
        if self._durable:
            whole = done == len(messages)
            self._executed.append((connection, messages if whole else messages[:done]))
        if done < len(messages):
            connection.requests = messages[done:]
            self._unfinished.append(connection)
        elif connection.requests:
            connection.requests = []
        self._touched.append(connection)

    def _watch(self, number: int, now: float, *fields: Any) -> Any:
        self._begin_to_follow(number, now)
        return self._engine.handlers[Watch](number, now, *fields)

    def _subscribe(self, number: int, now: float, *fields: Any) -> Any:
        self._begin_to_follow(number, now)
        return self._engine.handlers[Subscribe](number, now, *fields)

    def _begin_to_follow(self, number: int, now: float) -> None:
        """Who begins is told of later changes and messages only: those before in this turn are
        fanned out first, to whoever was there already."""
        effects = self._engine.take_effects()
        self._telling.tell(effects, early=True)
        self._fanned_out += effects
        self.beats.follow(number, now)

    def _unwatch(self, number: int, now: float, watch: int) -> Any:
        """After the answer nothing comes for that watch."""
        behind = self.connections[number].behind
        if behind is not None:
            behind.unwatched = True
        return self._engine.handlers[Unwatch](number, now, watch)

    def _received(self, number: int, now: float, up_to: int, missing: list[int]) -> bool:
        lane = self.connections[number].lane
        if lane is not None:
            lane.received(up_to, set(missing))
        return lane is not None

    def _cancel(self, number: int, now: float, msgid: int) -> bool:
        """Nobody waits any more for the answer to a request: it is told that its time is over."""
        waiter = self._engine.waiting.waiters.get(self._tickets.get((number, msgid), 0))
        if waiter is None:
            return False
        self._engine.waiting.answer(waiter, None)
        return True

    def _go_on(self, connection: Connection, now: float) -> None:
        """Carry out what is left over, unless the peer must first take the replies it has."""
        connection.stalled = connection.paused
        if not connection.stalled and connection.requests:
            self._execute(connection, connection.requests, now)
            self._end_if_bad(connection)

    # --- ends -------------------------------------------------------------------------------

    def _end_if_bad(self, connection: Connection) -> None:
        """After bad bytes, but not before all that was good has been answered."""
        cause = connection.decoder.cause
        if cause is not None and not connection.requests and connection.ended is None:
            self._end(connection, connection.decoder.reason, cause)

    def _end(self, connection: Connection, reason: CloseReason, message: str) -> None:
        """End a connection for a cause that it is told before."""
        log.info(
            "connection %d, of pid %d, ends: %s", connection.number, connection.peer.pid, message
        )
        connection.output.append(encode_closing(reason, message))
        self._touched.append(connection)
        self._close_when_flushed(connection, reason)

    def _end_number(self, number: int, reason: CloseReason, message: str) -> None:
        connection = self.connections.get(number)
        if connection is None or connection.ended is not None:
            return
        if reason is CloseReason.PEER_CLOSED:  # it knows
            self._close_when_flushed(connection, reason)
        else:
            self._end(connection, reason, message)

    def _close_when_flushed(self, connection: Connection, reason: CloseReason) -> None:
        connection.end(reason)
        if connection.linger_until is None:
            connection.linger_until = monotonic() + DRAIN_SECONDS
            self._ending.append(connection)
            self._engine.waiting.forget(connection.number)
            self.slow.forget(connection)

    def _close_ended(self, now: float) -> None:
        """Close those that are flushed, or that have had their time."""
        still: list[Connection] = []
        for connection in self._ending:
            if connection.number not in self.connections:
                continue
            flushed = not connection.output and not connection.waiting_bytes
            if flushed or now >= (connection.linger_until or now):
                self._lost(connection, connection.ended or CloseReason.PEER_CLOSED)
            else:
                still.append(connection)
        self._ending = still

    def _lost(self, connection: Connection, reason: CloseReason) -> None:
        """Close a connection at once and forget all about it."""
        if self.connections.pop(connection.number, None) is None:
            return
        del self._by_fd[connection.fd]
        connection.requests = []
        connection.output.clear()
        self.slow.forget(connection)
        connection.close()
        if connection.lane is not None:
            self._lanes.leave(connection.lane, connection.number, monotonic())
        self.sessions.leave(connection.number, monotonic())
        self._engine.disconnect(connection.number)
        reason = connection.ended or reason
        self._statistics.closed[reason] += 1
        log.debug("= %d closed: %s", connection.number, reason.value)

    async def shut_down(self, *, hand_over: bool = False) -> None:
        """Stop accepting, say goodbye, let everyone take what is waiting for them, close.

        `hand_over`: another process goes on with the listening socket.
        """
        if self._page is not None:
            self._page.retire()  # before another broker can have the address, or the state
        reason, why = CloseReason.SHUTDOWN, "the broker is stopping"
        if hand_over:
            reason, why = CloseReason.TAKEOVER, "another broker process goes on"
        self._hub.remove(self._listener.socket.fileno())
        if hand_over:
            self._listener.leave()
        else:
            self._listener.close()
        for connection in list(self.connections.values()):
            if connection.linger_until is None:
                self._end(connection, reason, why)
        self._finish(monotonic())
        until = monotonic() + DRAIN_SECONDS
        self._close_ended(monotonic())
        while self.connections and monotonic() < until:
            with anyio.move_on_after(until - monotonic()):
                await anyio.wait_readable(self._hub.fileno())
            self.turn(self._hub.poll(0))
        for connection in list(self.connections.values()):
            self._lost(connection, reason)
        self._journal.close()
        self.sessions.close()
        self._hub.close()
        if self._page is not None:
            self._page.close()

"""A bus with a watch on it, simulated frame by frame: the engine and the fan-out on one side,
`WatchCore` on the other, and between them what is on its way."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from udsbus import messages as m
from udsbus.broker.fanout import Revision
from udsbus.client.requests import Call
from udsbus.client.watching import PRESENT, CaughtUp, Missed, RawChange, Told, WatchCore
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog
from udsbus.wire import values
from udsbus.wire.methods import METHODS

PAGE_KEYS = 2
LOG_CHANGES = 6
"""So little that pages and forgetting are the rule."""
MINE, THEIRS = "mine", "theirs"
"""The session that watches, and another."""

Frame = tuple[Call[Any] | None, Any]
"""The answer to a request, or (None, notification), or (None, revision) for a heartbeat."""


class Asked(NamedTuple):
    """What the watch is to tell."""

    kinds: tuple[str, ...] | None = None
    ignore_own: bool = False
    previous: bool = False
    strict: bool = False


class FollowedBus:
    """Its steps may be taken in any order; `catch_up` then tells whether the watch was right."""

    def __init__(
        self,
        pattern: str,
        *,
        initial: bool,
        since: int | None,
        before: list[str],
        asked: Asked = Asked(),  # noqa: B008
        beside: m.Watch | None = None,
    ) -> None:
        """`beside`: another watch of the same connection."""
        self.core = WatchCore(pattern, from_revision=since, initial=initial, **asked._asdict())
        self._initial = initial
        self._since = since
        self._asked_for = asked
        self._beside = beside
        self._now = 0.0
        self._values = 0
        self.told: list[RawChange] = []
        self._marks = self._listings = 0
        """How often it has told that it has caught up, and how often it should have."""
        self.missed: list[Missed] = []
        self._connection = 0
        self._new_engine()
        for key in before:
            self.set(key)
        self.end_turn()
        self._reconnect(same_bus=True)

    def _new_engine(self) -> None:
        self.engine = Engine(values, ChangeLog(max_changes=LOG_CHANGES))
        self._connect_writers()
        self._journal: list[tuple[list[Any], dict[int, m.Writer]]] = [([], {})]
        """What each broker has written: changes, and who the connections were."""
        self._truth: list[m.Change] = []
        """Every change on this bus of a key that matches."""
        self._complete_from: int | None = None
        """After this revision every single change must be told; None while that is not clear."""
        self._told_before = 0
        """So much had been told when that became clear."""

    def _connect_writers(self) -> None:
        """Numbers are given again by each broker; only whose they are tells what is one's own."""
        swapped = getattr(self, "_my_writer", 2) == 1
        self._my_writer, self._their_writer = (2, 1) if swapped else (1, 2)
        self.engine.sessions.clear()
        self.engine.sessions.update({self._my_writer: MINE, self._their_writer: THEIRS})

    def _reconnect(self, *, same_bus: bool) -> None:
        self._connection = 10 + self._connection % 2
        self.engine.sessions[self._connection] = MINE
        if self._beside is not None:
            self.engine.execute(self._connection, self._beside, self._now)
        self._turn: list[Frame] = []
        """What the broker has to say when its turn ends."""
        self._frames: list[Frame] = []
        """What is on its way to the watch."""
        self._answered_at = 0
        """The revision of the last answer."""
        self._asked: Call[Any] | None = self.core.start(session=MINE, same_bus=same_bus)

    # --- steps: the bus changes -----------------------------------------------------------------

    def set(self, key: str, ttl: float | None = None, mine: bool = False) -> None:
        self._values += 1
        self._execute(m.Set(key, values.encode(self._values), ttl), mine)

    def delete(self, key: str, mine: bool = False) -> None:
        self._execute(m.Delete(key), mine)

    def transact(self, *keys: str, mine: bool = False) -> None:
        """Writes all, and deletes the first again."""
        writes: list[m.TransactionOperation] = [m.Increment(key) for key in keys]
        self._execute(m.Transaction([], [*writes, m.Delete(keys[0])]), mine)

    def transact_mine(self, *keys: str) -> None:
        self.transact(*keys, mine=True)

    def pass_time(self) -> None:
        self._now += 1.0
        self.engine.tend(self._now)

    def _execute(self, command: m.EngineCommand, mine: bool) -> Any:
        origin = self._my_writer if mine else self._their_writer
        return self.engine.execute(origin, command, self._now)

    # --- steps: the broker works ----------------------------------------------------------------

    def answer(self) -> None:
        """Carry out what is asked, in the same turn as what is changed before and afterwards."""
        call, self._asked = self._asked, None
        if call is None:
            return
        params = _as_received(call.params)
        if call.method == "items":
            options = params[1] if len(params) > 1 else {}
            params = [params[0], {**options, "limit": PAGE_KEYS}]
        else:
            self._fan_out()  # as `Turn._watch` does
        command, _ = METHODS[call.method].parse(params)
        result = self.engine.execute(self._connection, command, self._now)  # type: ignore[arg-type]
        self._turn.append((call, _as_received(result)))
        self._answered_at = self.engine.revision

    def end_turn(self) -> None:
        """Only now is anything sent, and changes come after the answers."""
        self._fan_out()
        self.engine.settle()
        turn, self._turn = getattr(self, "_turn", []), []
        self._frames = [*getattr(self, "_frames", []), *turn]

    def beat(self) -> None:
        """Between turns, when all is told."""
        self.end_turn()
        self._frames.append((None, self.engine.revision))

    def forget(self, ago: int) -> None:
        """The log forgets all but the last few revisions."""
        self.end_turn()
        log, revision = self.engine.log, max(0, self.engine.revision - ago)
        if revision > log.forgotten:
            kept = list(log._after(revision))[::-1]
            log.forget_all(revision)
            if kept:
                log.extend(kept)

    def _fan_out(self) -> None:
        """Each change to whom it concerns, as `Telling.tell` does."""
        together: Revision | None = None
        changes, writers = self._journal[-1]
        for effect in self.engine.take_effects():
            assert isinstance(effect, m.Change)
            changes.append(m.Recorded(*effect[:6]))
            session = self.engine.sessions.get(effect.origin)
            writers[effect.origin] = m.Writer(1, 1, None, session)
            if self.core.matches(effect.key):
                self._truth.append(effect)
            if together is not None and together.number != effect.revision:
                self._send(together)
                together = None
            subscribers = self.engine.watches.find(effect.key)
            if subscribers:
                together = together or Revision(effect.revision)
                together.add(effect, subscribers)
        if together is not None:
            self._send(together)

    def _send(self, together: Revision) -> None:
        for told in together.notifications(self.engine.wants, self.engine.sessions):
            assert list(told.connections) == [self._connection]
            self._turn += [(None, msgpack.unpackb(frame)) for frame in told.frames]

    # --- steps: the watch follows ---------------------------------------------------------------

    def receive(self) -> None:
        """The next frame, if there is one."""
        if not self._frames:
            return
        call, content = self._frames.pop(0)
        if call is None and isinstance(content, int):
            self.core.beat(content)
            return
        if call is None:
            self._hear(self.core.notified(content[1], content[2]))
            return
        step = self.core.started(content) if call.method == "watch" else self.core.listed(content)
        if self.core.live and call.method == "items":
            self._complete_from, self._told_before = self._answered_at, len(self.told)
            self._listings += self._initial
        elif self.core.live and self._complete_from is None:
            self._complete_from = self._answered_at if self._since is None else self._since
        self._hear(step.told)
        self._asked = step.next

    def _hear(self, told: list[Told]) -> None:
        for each in told:
            if isinstance(each, CaughtUp):
                self._marks += 1
            elif isinstance(each, Missed):
                assert self.core.state == "listing", "it comes before what is there"
                self.missed.append(each)
            else:
                self.told.append(each)

    def round_trip(self) -> None:
        self.answer()
        self.end_turn()
        while self._frames:
            self.receive()

    def cut(self) -> None:
        """The connection ends, and all that is on its way is lost."""
        self.end_turn()
        self.engine.disconnect(self._connection)
        self.engine.sessions.pop(self._connection)
        self._reconnect(same_bus=True)

    def cut_after(self, frames: int) -> None:
        """So it does when the first of them have come."""
        self.end_turn()
        for _ in range(frames):
            self.receive()
        self.cut()

    def take_over(self) -> None:
        """Another broker goes on with what the journal tells."""
        self.end_turn()
        self.engine = Engine(values, ChangeLog(max_changes=LOG_CHANGES))
        for changes, writers in self._journal:
            self.engine.replay(changes, writers)
        self._journal.append(([], {}))
        self._connect_writers()
        self._reconnect(same_bus=True)

    def restart(self) -> None:
        """The bus ends too."""
        self._new_engine()
        self._reconnect(same_bus=False)

    def catch_up(self) -> None:
        """Everything comes through. Now what was told must be the truth."""
        self.end_turn()
        while self._asked is not None or self._frames:
            self.round_trip()
        assert self.core.live
        assert self.core.state == "live"
        assert self._marks == self._listings
        if self._asked_for.strict:
            assert len(self.missed) == self.core.started_over
        else:
            assert not self.missed
        self._check_state()
        self._check_changes()

    # --- what must hold -------------------------------------------------------------------------

    def _wanted(self, change: m.Change) -> bool:
        kinds, ignore_own, _, _ = self._asked_for
        return (kinds is None or change.kind in kinds) and not (
            ignore_own and change.session == MINE
        )

    def _check_state(self) -> None:
        if self._asked_for.kinds is not None or self._asked_for.ignore_own:
            return  # who leaves changes out does not follow the state
        believed: dict[str, bytes] = {}
        for change in self.told:
            if change.value is None:
                believed.pop(change.key, None)
            else:
                believed[change.key] = change.value
        entries = self.engine.keyspace.entries
        truth = {key: entry[0] for key, entry in entries.items() if self.core.matches(key)}
        if not self._initial and not self.core.started_over:  # then it tells of changed keys only
            changed = {change.key for change in self.told}
            truth = {key: value for key, value in truth.items() if key in changed}
        assert believed == truth

    def _check_changes(self) -> None:
        """Each change that was not missed is told once, and in order."""
        since = self._complete_from
        assert since is not None
        told = self.told[self._told_before :]
        assert [c for c in told if c.revision > since and c.kind != PRESENT] == [
            RawChange(*change[:4], change.before if self._asked_for.previous else None)
            for change in self._truth
            if change.revision > since and self._wanted(change)
        ]


def _as_received(content: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(content), strict_map_key=False)

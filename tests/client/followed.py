"""A bus with a watch on it, simulated frame by frame: the engine on one side, `WatchCore` on the
other, and between them what is on its way."""

from __future__ import annotations

from typing import Any

import msgpack

from udsbus import messages as m
from udsbus.client.requests import Call
from udsbus.client.watching import PRESENT, RawChange, WatchCore
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog
from udsbus.wire import values
from udsbus.wire.methods import METHODS

PAGE_KEYS = 2
LOG_CHANGES = 6
"""So little that pages and forgetting are the rule."""

Frame = tuple[Call[Any] | None, Any]
"""The answer to a request, or (None, change), or (None, revision) for a heartbeat."""


class FollowedBus:
    """Its steps may be taken in any order; `catch_up` then tells whether the watch was right."""

    def __init__(
        self, pattern: str, *, initial: bool, since: int | None, before: list[str]
    ) -> None:
        self.core = WatchCore(pattern, from_revision=since, initial=initial)
        self._initial = initial
        self._since = since
        self._now = 0.0
        self._values = 0
        self.told: list[RawChange] = []
        self._connection = 1
        self._new_engine()
        for key in before:
            self.set(key)
        self.end_turn()
        self._reconnect(same_bus=True)

    def _new_engine(self) -> None:
        self._engine = Engine(values, ChangeLog(max_changes=LOG_CHANGES))
        self._truth: list[RawChange] = []
        """Every change on this bus of a key that matches."""
        self._complete_from: int | None = None
        """After this revision every single change must be told; None while that is not clear."""
        self._told_before = 0
        """So much had been told when that became clear."""

    def _reconnect(self, *, same_bus: bool) -> None:
        self._turn: list[Frame] = []
        """What the broker has to say when its turn ends."""
        self._frames: list[Frame] = []
        """What is on its way to the watch."""
        self._answered_at = 0
        """The revision of the last answer."""
        self._asked: Call[Any] | None = self.core.start(same_bus=same_bus)

    # --- steps: the bus changes -----------------------------------------------------------------

    def set(self, key: str, ttl: float | None = None) -> None:
        self._values += 1
        self._execute(m.Set(key, values.encode(self._values), ttl))

    def delete(self, key: str) -> None:
        self._execute(m.Delete(key))

    def transact(self, *keys: str) -> None:
        """Writes all, and deletes the first again."""
        writes: list[m.TransactionOperation] = [m.Increment(key) for key in keys]
        self._execute(m.Transaction([], [*writes, m.Delete(keys[0])]))

    def pass_time(self) -> None:
        self._now += 1.0
        self._engine.tend(self._now)

    def _execute(self, command: m.EngineCommand) -> Any:
        return self._engine.execute(0, command, self._now)

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
        command, _ = METHODS[call.method].parse(params)
        result = self._engine.execute(self._connection, command, self._now)  # type: ignore[arg-type]
        self._turn.append((call, _as_received(result)))
        self._answered_at = self._engine.revision

    def end_turn(self) -> None:
        """Only now is anything sent, and changes come after the answers."""
        turn, self._turn = getattr(self, "_turn", []), []
        for effect in self._engine.take_effects():
            if isinstance(effect, m.Change):
                if self._connection in self._engine.watches.find(effect.key):
                    turn.append((None, _as_received(effect[:4])))
                if self.core.matches(effect.key):
                    self._truth.append(RawChange(*effect[:4]))
        self._frames = [*getattr(self, "_frames", []), *turn]

    def beat(self) -> None:
        """Between turns, when all is told."""
        self.end_turn()
        self._frames.append((None, self._engine.revision))

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
            if self.core.matches(content[2]):
                self.told += self.core.change(RawChange(*content))
            return
        step = self.core.started(content) if call.method == "watch" else self.core.listed(content)
        if self.core.live and call.method == "items":
            self._complete_from, self._told_before = self._answered_at, len(self.told)
        elif self.core.live and self._complete_from is None:
            self._complete_from = self._answered_at if self._since is None else self._since
        self.told += step.changes
        self._asked = step.next

    def round_trip(self) -> None:
        self.answer()
        self.end_turn()
        while self._frames:
            self.receive()

    def cut(self) -> None:
        """The connection ends, and all that is on its way is lost."""
        self.end_turn()
        self._engine.disconnect(self._connection)
        self._connection += 1
        self._reconnect(same_bus=True)

    def restart(self) -> None:
        """So does the bus."""
        self._new_engine()
        self._reconnect(same_bus=False)

    def catch_up(self) -> None:
        """Everything comes through. Now what was told must be the truth."""
        self.end_turn()
        while self._asked is not None or self._frames:
            self.round_trip()
        assert self.core.live
        self._check_state()
        self._check_changes()

    # --- what must hold -------------------------------------------------------------------------

    def _check_state(self) -> None:
        believed: dict[str, bytes] = {}
        for change in self.told:
            if change.value is None:
                believed.pop(change.key, None)
            else:
                believed[change.key] = change.value
        entries = self._engine.keyspace.entries
        truth = {key: entry[0] for key, entry in entries.items() if self.core.matches(key)}
        if not self._initial and not self.core.started_over:  # then it tells of changed keys only
            changed = {change.key for change in self.told}
            truth = {key: value for key, value in truth.items() if key in changed}
        assert believed == truth

    def _check_changes(self) -> None:
        """Each change that was not missed is told once, and in order."""
        since = self._complete_from
        assert since is not None
        told, truth = (
            [change for change in changes if change.revision > since and change.kind != PRESENT]
            for changes in (self.told[self._told_before :], self._truth)
        )
        assert told == truth


def _as_received(content: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(content), strict_map_key=False)

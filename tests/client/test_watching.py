"""The core of a watch against a simulated broker: whatever happens, following it gives the truth.

`FollowedBus` is a hypothesis state machine. It makes up writes, turns of the broker, pages of the
list between changes, connections that are cut between any two frames, forgotten logs and new
brokers. When all has come through it compares what the watch told with what there was.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from udsbus import InvalidRequest, LimitExceeded
from udsbus import messages as m
from udsbus.client.requests import Call
from udsbus.client.watching import PRESENT, RawChange, WatchCore
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog
from udsbus.wire import values
from udsbus.wire.methods import METHODS

PATTERNS = ["a/*", "a/**", "**", "*/b", "a/b"]
KEYS = ["a/b", "a/c", "a/d/e", "a", "b/b", "c"]
PAGE_KEYS = 2
LOG_CHANGES = 6
"""So little that pages and forgetting are the rule."""

keys = st.sampled_from(KEYS)


class FollowedBus(RuleBasedStateMachine):
    """The broker is on the left of `frames`, the watch on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.connection = 1
        self.values = 0
        self.new_engine()
        self.asked: list[Call[Any]] = []
        """Requests on their way to the broker."""
        self.turn: list[tuple[Call[Any] | None, Any]] = []
        """What the broker has to say at the end of this turn: answers to requests, changes."""
        self.frames: list[tuple[Call[Any] | None, Any]] = []
        """What is on its way to the watch."""
        self.told: list[RawChange] = []
        self.truth: list[RawChange] = []
        """Every change of a key that matches."""
        self.untold_at_restart = 0

    def new_engine(self) -> None:
        self.engine = Engine(values, ChangeLog(max_changes=LOG_CHANGES))

    @initialize(
        pattern=st.sampled_from(PATTERNS),
        initial=st.booleans(),
        since=st.none() | st.integers(0, 8),
        before=st.lists(keys, max_size=10),
    )
    def begin(self, pattern: str, initial: bool, since: int | None, before: list[str]) -> None:
        for key in before:
            self.set(key)
        self.since = None if initial else since
        self.initial = initial
        self.core = WatchCore(pattern, from_revision=self.since, initial=initial)
        self.end_of_turn()
        self.asked.append(self.core.start())

    # --- the bus changes ----------------------------------------------------------------------

    def execute(self, command: m.EngineCommand) -> Any:
        return self.engine.execute(0, command, self.now)

    @rule(key=keys)
    def set(self, key: str) -> None:
        self.values += 1
        self.execute(m.Set(key, values.encode(self.values)))

    @rule(key=keys)
    def set_for_a_while(self, key: str) -> None:
        self.values += 1
        self.execute(m.Set(key, values.encode(self.values), ttl=2.0))

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.execute(m.Delete(key))

    @rule(written=st.lists(keys, min_size=2, max_size=4), deleted=st.lists(keys, max_size=2))
    def transact(self, written: list[str], deleted: list[str]) -> None:
        operations: list[m.TransactionOperation] = [m.Increment(key) for key in written]
        operations += [m.Delete(key) for key in deleted]
        self.execute(m.Transaction([], operations))

    @rule()
    def time_passes(self) -> None:
        self.now += 1.0
        self.engine.expire_due(self.now)

    # --- the broker works -----------------------------------------------------------------------

    @precondition(lambda self: self.asked)
    @rule()
    def answer(self) -> None:
        call = self.asked.pop(0)
        if call.method == "items":
            call = call._replace(params=(call.params[0], {**_options(call), "limit": PAGE_KEYS}))
        command, _ = METHODS[call.method].parse(_as_received(list(call.params)))
        result = self.engine.execute(self.connection, command, self.now)  # type: ignore[arg-type]
        self.turn.append((call, _as_received(result)))

    @rule()
    def end_of_turn(self) -> None:
        """Only then is anything sent, and changes come after the answers."""
        for effect in self.engine.take_effects():
            if isinstance(effect, m.Change):
                if self.connection in self.engine.watches.find(effect.key):
                    self.turn.append((None, _as_received(effect[:4])))
                if self.core.matches(effect.key):
                    self.truth.append(RawChange(*effect[:4]))
        self.frames += self.turn
        self.turn = []

    # --- the watch follows ----------------------------------------------------------------------

    @precondition(lambda self: self.frames)
    @rule()
    def receive(self) -> None:
        call, content = self.frames.pop(0)
        if call is None:
            if self.core.matches(content[2]):
                self.told += self.core.change(RawChange(*content))
            return
        step = self.core.started(content) if call.method == "watch" else self.core.listed(content)
        self.told += step.changes
        if step.next is not None:
            self.asked.append(step.next)

    @rule()
    def receive_all(self) -> None:
        while self.frames:
            self.receive()

    @rule(same_bus=st.sampled_from([True, True, True, False]))
    def cut(self, same_bus: bool) -> None:
        self.end_of_turn()
        self.engine.disconnect(self.connection)
        self.connection += 1
        self.asked, self.frames = [], []
        if not same_bus:
            self.new_engine()
        self.asked.append(self.core.start(same_bus=same_bus))

    @rule()
    def catch_up(self) -> None:
        """Everything comes through. Now what was told must be the truth."""
        self.end_of_turn()
        while self.asked or self.frames:
            self.receive_all()
            while self.asked:
                self.answer()
            self.end_of_turn()
        assert self.core.live
        self.check_state()
        self.check_changes()

    # --- what must hold -------------------------------------------------------------------------

    def check_state(self) -> None:
        believed: dict[str, bytes] = {}
        for change in self.told:
            if change.value is None:
                believed.pop(change.key, None)
            else:
                believed[change.key] = change.value
        truth = {
            key: entry[0]
            for key, entry in self.engine.keyspace.entries.items()
            if self.core.matches(key)
        }
        if not self.initial and not self.core.started_over:
            mentioned = {change.key for change in self.told}
            truth = {key: value for key, value in truth.items() if key in mentioned}
        assert believed == truth

    def check_changes(self) -> None:
        """Each change that was not missed is told once, and in order."""
        if self.core.started_over:
            return
        changes = [change for change in self.told if change.kind != PRESENT]
        if self.initial:
            listed = {change.key: change.revision for change in self.told if change not in changes}
            assert [change for change in self.truth if change in changes] == changes
            left_out = [change for change in self.truth if change not in changes]
            assert all(change.revision <= max(listed.values()) for change in left_out[:0])
        elif self.since is not None:
            assert changes == [change for change in self.truth if change.revision > self.since]
        else:
            assert changes == self.truth[len(self.truth) - len(changes) :]

    @invariant()
    def what_is_told_makes_sense(self) -> None:
        for change in self.told:
            assert (change.value is None) == (change.kind in (m.DELETED, m.EXPIRED))

    def teardown(self) -> None:
        self.catch_up()


def _as_received(content: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(content), strict_map_key=False)


def _options(call: Call[Any]) -> dict[str, Any]:
    return dict(call.params[1]) if len(call.params) > 1 else {}


FollowedBus.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
TestFollowedBus = FollowedBus.TestCase

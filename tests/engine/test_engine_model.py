"""The engine beside its naive model: the same commands must give the same everything.

`Bus` is a hypothesis state machine. It makes up sequences of commands and of time moving on, and
after each step compares what the engine answered, whom it would tell and what it holds.
"""

from __future__ import annotations

from itertools import chain, product
from math import inf
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.engine.changelog import ChangeLog
from udsbus.engine.wants import Want
from udsbus.errors import Error
from udsbus.limits import KEY_BYTES, NUMBER_BYTES
from udsbus.terms import DELETED, EXPIRED, KINDS, POLICIES

from .model import Model, Reasons, Refused, due, matches, wrong_pattern
from .support import examples, new_engine, pages

LOG_CHANGES = 8
LOG_BYTES = 120
SESSIONS = {1: "one", 2: "two"}
"""So little that forgetting happens all the time."""

# --- what may be asked ----------------------------------------------------------------------

CURRENT = -1
"""Stands for the revision that the key has by then, in `if_revision` and in checks."""

TOO_LONG = "k" * (KEY_BYTES + 1)
BAD_NAMES = ["", "/a", "a/", "a//b", "*", "a/**", "a*b", "$a", "$a/b", TOO_LONG]
BAD_PATTERNS = ["", "/*", "**/", "a//**", "a*", "a/***", TOO_LONG]
SEGMENTS = ("a", "b", "a-b", "*", "**")
PATTERNS = ["/".join(some) for most in (1, 2, 3) for some in product(SEGMENTS, repeat=most)]

# What is refused tells little and is therefore rare. Lists that repeat what is usual, since
# `one_of` would make nothing of a strategy that it is given twice.
keys = st.sampled_from(["a", "a/b", "a-b", "b"] * 20 + ["b/a/b", "a/a"] * 5 + BAD_NAMES)
selections = st.sampled_from(PATTERNS + ["$a", "$a/*"] * 3 + BAD_PATTERNS)
values = st.sampled_from(
    [b"x", b"1", b"2", b"-2.5", b"9" * (NUMBER_BYTES - 1)] * 6 + [b"", b"9" * (NUMBER_BYTES + 1)]
)
seconds = st.sampled_from([0.25, 0.5, 1.0, 8.0])
ttls = st.sampled_from([None, None, 0.25, 0.5, 1.0, 8.0])
expected = st.sampled_from([None] * 9 + [CURRENT] * 4 + [0, 1, 5])
amounts = st.sampled_from([1, 1, -3, 0.5, 10 ** (NUMBER_BYTES - 2), 10**NUMBER_BYTES])

gets = st.builds(m.Get, keys)
sets = st.builds(
    m.Set, keys, values, ttls, expected, st.booleans(), st.just(False), st.none(), st.booleans()
)
deletes = st.builds(m.Delete, keys, expected, st.none())
increments = st.builds(m.Increment, keys, amounts)
checks = st.tuples(keys, st.sampled_from([CURRENT] * 9 + [0, 1, 3]))
reads = st.one_of(
    gets,
    st.builds(m.GetEntry, keys),
    st.builds(m.Exists, keys),
    st.builds(m.Ttl, keys),
    st.builds(m.GetMany, st.lists(keys, max_size=3)),
)
many = st.builds(m.SetMany, st.dictionaries(keys, values, max_size=4), ttls)
transactions = st.builds(
    m.Transaction,
    st.lists(checks, max_size=2),
    st.lists(gets | sets | deletes | increments, max_size=4),
    st.none(),
)
kinds = st.none() | st.frozensets(st.sampled_from(KINDS), min_size=1)
watches = st.builds(
    m.Watch,
    selections,
    st.none() | st.integers(-2, 12),
    kinds,
    st.sampled_from([False, False, True]),
    st.booleans(),
)
"""Here `from_revision` is how many revisions ago."""
subscriptions = st.builds(
    m.Subscribe,
    st.lists(selections, max_size=3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(POLICIES),
)
publications = st.builds(m.Publish, keys, values, st.booleans(), st.none()) | st.builds(
    m.Unretain, keys
)
deadlines = st.builds(m.Expire, keys, seconds) | st.builds(m.Persist, keys)
connections = st.integers(1, 3)


Write = m.Set | m.SetMany | m.Delete | m.Increment | m.Transaction
Effects = tuple[tuple[type, tuple[Any, ...]], ...]


class Outcome(NamedTuple):
    """What a command has led to."""

    result: Any = None
    refusal: type[Error] | None = None
    message: str = ""
    details: Any = None
    effects: Effects = ()


def carry_out(engine: Engine, origin: int, command: m.EngineCommand, now: float) -> Outcome:
    """All but the effects."""
    try:
        return Outcome(engine.execute(origin, command, now))
    except Error as error:
        return Outcome(None, type(error), str(error), error.details)


def comparable(effects: list[m.Effect]) -> Effects:
    """With their classes, since named tuples of two classes may be equal; subscribers sorted."""
    return tuple(
        (type(e), (*e[:2], tuple(sorted(e.subscribers)), tuple(sorted(e.detailed)), *e[4:]))
        if isinstance(e, m.Message)
        else (type(e), tuple(e))
        for e in effects
    )


class Bus(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.model = Model(LOG_CHANGES, LOG_BYTES)
        self.engine = new_engine(ChangeLog(LOG_CHANGES, LOG_BYTES))
        self.twin = new_engine(ChangeLog(LOG_CHANGES, LOG_BYTES))
        """Is given the same commands and must do the same, several commands to a turn."""
        for bus in (self.model, self.engine, self.twin):
            bus.sessions.update(SESSIONS)
        self.turn: Effects = ()
        """What the twin will have to tell at the end of the turn."""

    # --- commands ---

    @initialize(command=many)
    def begin(self, command: m.SetMany) -> None:
        self.compare(1, command)

    @rule(origin=connections, command=reads)
    def read(self, origin: int, command: m.EngineCommand) -> None:
        assert self.compare(origin, command).effects == ()

    @rule(origin=connections, command=sets)
    def set(self, origin: int, command: m.Set) -> None:
        self.write(origin, command)

    @rule(origin=connections, command=sets)
    def set_again(self, origin: int, command: m.Set) -> None:
        """What the key holds already, which `if_changed` is about."""
        row = self.model.rows.get(command.key)
        self.write(origin, command._replace(value=row.value) if row else command)

    @rule(origin=connections, command=many | deletes)
    def set_many_or_delete(self, origin: int, command: m.EngineCommand) -> None:
        self.write(origin, command)

    @rule(origin=connections, command=increments)
    def increment(self, origin: int, command: m.Increment) -> None:
        self.write(origin, command)

    @rule(origin=connections, command=transactions)
    def transact(self, origin: int, command: m.Transaction) -> None:
        self.write(origin, command)

    @rule(origin=connections, command=sets | many | deletes | increments | transactions)
    def write_too_late(self, origin: int, command: Write) -> None:
        """To a key that is dead, but whose expiry has not been told yet."""
        self.now = self.next_end()
        dead = sorted(due(self.model.rows, self.now))
        if dead and isinstance(command, m.SetMany):
            command = command._replace(values={**command.values, dead[0]: b"1"})
        elif dead and isinstance(command, m.Transaction):
            command = command._replace(checks=[(dead[0], 0), *command.checks])
        elif dead and not isinstance(command, m.SetMany | m.Transaction):
            command = command._replace(key=dead[0])
        self.write(origin, command)

    def write(self, origin: int, command: m.EngineCommand) -> None:
        """At most one revision, and one change for each key, besides expiries."""
        outcome = self.compare(origin, self.resolved(command))
        changed = [effect for _, effect in outcome.effects if effect[1] != EXPIRED]
        assert len({revision for revision, *_ in changed}) <= 1
        assert len({key for _, _, key, *_ in changed}) == len(changed)

    @rule(origin=connections, command=deadlines)
    def move_deadline(self, origin: int, command: m.EngineCommand) -> None:
        self.compare(origin, command)

    @rule(which=st.integers(0, 3), first=seconds, then=seconds)
    def renew(self, which: int, first: float, then: float) -> None:
        """A deadline moves before it comes up, and when it would have come, it may be no more."""
        keys = sorted(self.model.live(self.now))
        if keys:
            self.compare(1, m.Expire(keys[which % len(keys)], first))
            self.compare(1, m.Expire(keys[which % len(keys)], then))
            self.now += min(first, 1.0)
            self.tend()

    @rule(origin=connections, command=watches)
    def watch(self, origin: int, command: m.Watch) -> None:
        if command.from_revision is not None:
            from_revision = max(0, self.model.revision - command.from_revision)
            command = command._replace(from_revision=from_revision)
        assert self.compare(origin, command).effects == ()

    @rule(origin=connections, command=subscriptions | publications)
    def message(self, origin: int, command: m.EngineCommand) -> None:
        self.compare(origin, command)

    @rule(
        origin=connections, kind=st.sampled_from([m.Unwatch, m.Unsubscribe]), ago=st.integers(0, 9)
    )
    def unwatch(self, origin: int, kind: type[m.Unwatch | m.Unsubscribe], ago: int) -> None:
        self.compare(origin, kind(max(0, self.model.registered - ago)))

    @rule(origin=connections, pattern=selections, limit=st.integers(1, 3))
    def page_through(self, origin: int, pattern: str, limit: int) -> None:
        """All pages of `keys`, `items` and `count` together hold what matches."""
        if wrong_pattern(pattern):
            for command in (m.Keys(pattern), m.Items(pattern), m.Count(pattern)):
                assert self.both(origin, command).refusal in wrong_pattern(pattern)
            return
        live = self.model.live(self.now)
        expected = self.model.matching(pattern, self.now)
        keys = [*pages(lambda after: self.both(origin, m.Keys(pattern, after, limit)).result)]
        items = [*pages(lambda after: self.both(origin, m.Items(pattern, after, limit)).result)]
        counts = [*pages(lambda after: self.both(origin, m.Count(pattern, after)).result)]
        assert [*chain(*keys)] == expected
        assert [*chain(*items)] == [(k, live[k].value, live[k].revision) for k in expected]
        assert sum(counts) == len(expected)
        assert all(len(page) <= limit for page in keys + items)

    # --- what else happens ---

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 3.0]), looks=st.booleans())
    def time_moves_on(self, seconds: float, looks: bool) -> None:
        """By so much, or just to the next deadline. The broker may be late to look."""
        self.now = self.now + seconds if seconds else self.next_end()
        if looks:
            self.tend()

    def next_end(self) -> float:
        ends = [row.deadline for row in self.model.rows.values() if row.deadline is not None]
        return min((end for end in ends if end > self.now), default=self.now)

    def tend(self) -> None:
        expected = due(self.model.rows, self.now)
        for engine in (self.engine, self.twin):
            engine.tend(self.now)
        effects = comparable(self.engine.take_effects())
        self.engine.settle()
        self.turn += effects
        assert len(effects) == len(expected)
        assert self.expiries_told(effects) == ()
        assert not due(self.model.rows, self.now)
        assert self.engine.agenda.due == self.engine.next_deadline() > self.now

    @rule(origin=connections)
    def disconnect(self, origin: int) -> None:
        self.model.disconnect(origin)
        for engine in (self.engine, self.twin):
            engine.disconnect(origin)

    @rule()
    def a_turn_ends(self) -> None:
        assert comparable(self.twin.take_effects()) == self.turn
        self.twin.settle()
        self.turn = ()

    def teardown(self) -> None:
        self.a_turn_ends()

    # --- what must hold after each step ---

    @invariant()
    def same_state(self) -> None:
        entries = self.engine.keyspace.entries
        assert {key: tuple(row) for key, row in self.model.rows.items()} == entries
        assert list(self.engine.keyspace._order.after("")) == sorted(entries)
        assert self.engine.revision == self.model.revision
        assert self.engine.take_effects() == []

    @invariant()
    def somebody_looks_in_time(self) -> None:
        ends = [row.deadline for row in self.model.rows.values() if row.deadline is not None]
        assert self.engine.agenda.due <= self.engine.next_deadline() <= min(ends, default=inf)

    @invariant()
    def same_interest(self) -> None:
        for interest, register in (
            (self.engine.watches, self.model.watches),
            (self.engine.subscriptions, self.model.subscriptions),
            (self.engine.registrations.quiet, self.model.quiet),
        ):
            assert len(interest) == sum(len(patterns) for _, patterns in register.values())
            if not register:
                assert not interest._root.is_needed
                assert not interest._segments
        for origin in (1, 2, 3):
            subscribed = self.model.subscriptions | self.model.quiet
            registered = [*self.model.watches.values(), *subscribed.values()]
            theirs = any(owner == origin for owner, _ in registered)
            assert self.engine.has_patterns(origin) == theirs

    @invariant()
    def what_they_want(self) -> None:
        """Of a connection all that one of its watches wants, and nothing that none does."""
        watches = [
            (origin, self.model.watched[number])
            for number, (origin, _) in self.model.watches.items()
        ]
        for origin in (1, 2, 3):
            theirs = [watch for owner, watch in watches if owner == origin]
            want = self.engine.wants.get(origin, Want())
            if not theirs:
                assert origin not in self.engine.wants
                continue
            assert want.detail == any(one.previous or one.ignore_own for one in theirs)
            session = SESSIONS.get(origin)
            for kind in KINDS:
                of_that = [one for one in theirs if one.kinds is None or kind in one.kinds]
                others = m.Change(1, kind, "a", None, session="others")
                assert want.wants(others, session) == bool(of_that)
                own = m.Change(1, kind, "a", None, session=session)
                if any(not one.ignore_own or kind == DELETED for one in of_that):
                    assert want.wants(own, session)
                elif all(one.ignore_own for one in theirs):
                    assert not want.wants(own, session)

    @rule(revisions_ago=st.integers(-1, 30), pattern=st.sampled_from(PATTERNS))
    def resume(self, revisions_ago: int, pattern: str) -> None:
        """The log gives every matching change since then, or says that it does not know."""
        revision = self.model.revision - revisions_ago
        if 0 <= revision <= self.model.revision:
            assert self.engine.log.since(
                revision, lambda key: matches(pattern, key)
            ) == self.model.changes_since(revision, pattern)
        assert len(self.engine.log) <= LOG_CHANGES

    # --- how a command is compared ---

    def both(self, origin: int, command: m.EngineCommand) -> Outcome:
        outcome = carry_out(self.engine, origin, command, self.now)
        assert outcome == carry_out(self.twin, origin, command, self.now)
        effects = comparable(self.engine.take_effects())
        self.engine.settle()
        self.turn += effects
        return outcome._replace(effects=effects)

    def compare(self, origin: int, command: m.EngineCommand) -> Outcome:
        outcome = self.both(origin, command)
        effects = self.expiries_told(outcome.effects)
        result: Any = None
        reasons: Reasons = set()
        try:
            result = self.model.execute(origin, command, self.now)
        except Refused as refused:
            reasons = refused.reasons
        if reasons:
            assert outcome.refusal in reasons
            assert effects == ()
            return outcome
        assert outcome.refusal is None, outcome.message
        assert outcome.result == result
        assert type(outcome.result) is type(result)
        assert effects == comparable(self.model.effects)
        self.check_who_is_told(effects)
        return outcome

    def expiries_told(self, effects: Effects) -> Effects:
        """Let the model follow the expiries that come first, and return what comes after them."""
        while effects and effects[0][0] is m.Change and effects[0][1][1] == EXPIRED:
            self.model.expire(effects[0][1][2], self.now)
            assert effects[:1] == comparable(self.model.effects)
            self.check_who_is_told(effects[:1])
            effects = effects[1:]
        return effects

    def check_who_is_told(self, effects: Effects) -> None:
        """Each connection that wants to know, once."""
        for kind, effect in effects:
            if kind is m.Change:
                told = self.engine.watches.find(effect[2])
                assert sorted(told) == sorted(self.model.watchers(effect[2]))

    def resolved(self, command: m.EngineCommand) -> m.EngineCommand:
        """The command with real revisions in place of CURRENT."""
        if isinstance(command, m.Transaction):
            return m.Transaction(
                [(key, self.revision_of(key, revision)) for key, revision in command.checks],
                [self.resolved(operation) for operation in command.operations],  # type: ignore[misc]
            )
        if isinstance(command, m.Set | m.Delete) and command.if_revision is not None:
            revision = self.revision_of(command.key, command.if_revision)
            return command._replace(if_revision=revision)
        return command

    def revision_of(self, key: str, revision: int) -> int:
        if revision != CURRENT:
            return revision
        row = self.model.live(self.now).get(key)
        return row.revision if row else 0


TestBus = Bus.TestCase
TestBus.settings = examples(200, stateful_step_count=50)

"""The engine: a deterministic state machine. A command and the time go in; out come a result, or
an exception that refuses, and effects.

    result = engine.execute(origin, command, now)
    effects = engine.take_effects()

The same commands at the same times give the same results, revisions and effects: no I/O, no
clock, no threads, no randomness. Values are bytes that it does not look into; the one exception,
`increment`, goes through the `Numbers` it was given.

Every change of a key goes through `_write` or `_remove`, and so gets its revision, its place in
the change log and its effect there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import messages as m
from ..errors import LimitExceeded
from ..limits import EXPIRIES_PER_TURN, PATTERNS_PER_CONNECTION
from ..patterns import check_name, check_pattern, check_writable, matcher
from .changelog import ChangeLog
from .interest import Interest
from .keyspace import Entry, Keyspace
from .rules import Numbers, check_reply, check_revision, check_value, incremented
from .transactions import plan


class Engine:
    """The state of one bus."""

    def __init__(self, numbers: Numbers, log: ChangeLog | None = None) -> None:
        self.revision = 0
        self.log = log if log is not None else ChangeLog()
        self.keyspace = Keyspace()
        self.watches = Interest()
        self.subscriptions = Interest()
        self._numbers = numbers
        self._entries = self.keyspace.entries
        self._effects: list[m.Effect] = []
        self._next_id = 1
        self._patterns: dict[int, dict[int, tuple[Interest, list[str]]]] = {}
        """Connection → its watches and subscriptions by number."""
        self._handlers: dict[type, Callable[[int, Any, float], Any]] = {
            m.Get: self._get,
            m.GetEntry: self._get_entry,
            m.Exists: self._exists,
            m.GetMany: self._get_many,
            m.Set: self._set,
            m.SetMany: self._set_many,
            m.Delete: self._delete,
            m.Increment: self._increment,
            m.Expire: self._expire,
            m.Persist: self._persist,
            m.Ttl: self._ttl,
            m.Keys: self._keys,
            m.Items: self._items,
            m.Count: self._count,
            m.Transaction: self._transaction,
            m.Watch: self._watch,
            m.Unwatch: self._unwatch,
            m.Subscribe: self._subscribe,
            m.Unsubscribe: self._unsubscribe,
            m.Publish: self._publish,
        }

    # --- in and out -------------------------------------------------------------------------

    def execute(self, origin: int, command: m.EngineCommand, now: float) -> Any:
        """Carry out `command` for connection `origin` at `now` (seconds, any monotonic clock).

        Returns what docs/protocol.md says of the method. Raises an Error that refuses; then
        nothing has changed.
        """
        return self._handlers[type(command)](origin, command, now)

    def take_effects(self) -> list[m.Effect]:
        """What has happened since the last call, in order."""
        effects = self._effects
        if effects:
            self._effects = []
        return effects

    def next_deadline(self) -> float | None:
        """When `expire_due` wants to be called next; None while nothing has a deadline."""
        return self.keyspace.deadlines.next()

    def expire_due(self, now: float) -> None:
        """Expire what is due, at most EXPIRIES_PER_TURN keys; call again while more are due."""
        for _ in range(EXPIRIES_PER_TURN):
            key = self.keyspace.deadlines.pop_due(now)
            if key is None:
                return
            entry = self._entries.get(key)
            if entry is None or entry[2] is None:
                continue
            if entry[2] <= now:
                self._remove(key, m.EXPIRED, 0)
            else:
                self.keyspace.deadlines.schedule(key, entry[2])

    def has_patterns(self, origin: int) -> bool:
        """Whether a connection watches or subscribes to anything."""
        return bool(self._patterns.get(origin))

    def disconnect(self, origin: int) -> None:
        """Forget what belongs to a connection that is gone."""
        for interest, patterns in self._patterns.pop(origin, {}).values():
            for pattern in patterns:
                interest.remove(pattern, origin)

    # --- the two ways to change a key -------------------------------------------------------

    def _write(
        self, key: str, value: bytes, deadline: float | None, revision: int, origin: int
    ) -> None:
        kind = m.UPDATED if key in self._entries else m.CREATED
        self.keyspace.put(key, (value, revision, deadline))
        self.revision = revision
        change = m.Change(revision, kind, key, value, deadline, origin)
        self.log.append(change)
        self._effects.append(change)

    def _remove(self, key: str, kind: str, origin: int, revision: int | None = None) -> None:
        self.keyspace.drop(key)
        self.revision = revision if revision is not None else self.revision + 1
        change = m.Change(self.revision, kind, key, None, None, origin)
        self.log.append(change)
        self._effects.append(change)

    def _current(self, key: str, now: float) -> Entry | None:
        """The entry as a write must see it: one whose deadline has passed is expired first."""
        entry = self._entries.get(key)
        if entry is not None and entry[2] is not None and entry[2] <= now:
            self._remove(key, m.EXPIRED, 0)
            return None
        return entry

    # --- reads ------------------------------------------------------------------------------

    def _get(self, origin: int, command: m.Get, now: float) -> bytes | None:
        entry = self._entries.get(command.key)
        if entry is None:
            check_name(command.key)
            return None
        if entry[2] is not None and entry[2] <= now:
            return None
        return entry[0]

    def _get_entry(
        self, origin: int, command: m.GetEntry, now: float
    ) -> tuple[bytes, int, float | None] | None:
        entry = self.keyspace.live(command.key, now)
        if entry is None:
            check_name(command.key)
            return None
        value, revision, deadline = entry
        return value, revision, None if deadline is None else deadline - now

    def _exists(self, origin: int, command: m.Exists, now: float) -> bool:
        return self._get(origin, m.Get(command.key), now) is not None

    def _get_many(self, origin: int, command: m.GetMany, now: float) -> list[bytes | None]:
        values = [self._get(origin, m.Get(key), now) for key in command.keys]
        check_reply(values)
        return values

    def _ttl(self, origin: int, command: m.Ttl, now: float) -> float | None:
        entry = self._get_entry(origin, m.GetEntry(command.key), now)
        return None if entry is None else entry[2]

    def _keys(self, origin: int, command: m.Keys, now: float) -> tuple[list[str], str | None]:
        pattern, after, limit = command
        found, next_after = self.keyspace.page(pattern, after, limit, now, sized=False)
        return [key for key, _ in found], next_after

    def _items(
        self, origin: int, command: m.Items, now: float
    ) -> tuple[list[tuple[str, bytes, int]], str | None]:
        pattern, after, limit = command
        found, next_after = self.keyspace.page(pattern, after, limit, now, sized=True)
        return [(key, entry[0], entry[1]) for key, entry in found], next_after

    def _count(self, origin: int, command: m.Count, now: float) -> tuple[int, str | None]:
        return self.keyspace.count(command.pattern, command.after, now)

    # --- writes -----------------------------------------------------------------------------

    def _set(self, origin: int, command: m.Set, now: float) -> int:
        key, value, ttl, if_revision, if_changed = command
        check_value(key, value)
        entry = self._current(key, now)
        if entry is None:
            check_writable(key)
        if if_revision is not None:
            check_revision(key, if_revision, entry)
        if if_changed and entry is not None and entry[0] == value:
            return entry[1]
        revision = self.revision + 1
        self._write(key, value, None if ttl is None else now + ttl, revision, origin)
        return revision

    def _set_many(self, origin: int, command: m.SetMany, now: float) -> int:
        for key, value in command.values.items():
            check_writable(key)
            check_value(key, value)
        for key in command.values:
            self._current(key, now)
        revision = self.revision + 1 if command.values else self.revision
        deadline = None if command.ttl is None else now + command.ttl
        for key, value in command.values.items():
            self._write(key, value, deadline, revision, origin)
        return revision

    def _delete(self, origin: int, command: m.Delete, now: float) -> bool:
        key = command.key
        entry = self._current(key, now)
        if entry is None:
            check_writable(key)
        if command.if_revision is not None:
            check_revision(key, command.if_revision, entry)
        if entry is None:
            return False
        self._remove(key, m.DELETED, origin)
        return True

    def _increment(self, origin: int, command: m.Increment, now: float) -> Any:
        entry = self._current(command.key, now)
        if entry is None:
            check_writable(command.key)
        number, value = incremented(command, entry, self._numbers)
        deadline = None if entry is None else entry[2]
        self._write(command.key, value, deadline, self.revision + 1, origin)
        return number

    def _expire(self, origin: int, command: m.Expire, now: float) -> bool:
        return self._move_deadline(command.key, now + command.ttl, now)

    def _persist(self, origin: int, command: m.Persist, now: float) -> bool:
        entry = self.keyspace.live(command.key, now)
        had_deadline = entry is not None and entry[2] is not None
        self._move_deadline(command.key, None, now)
        return had_deadline

    def _move_deadline(self, key: str, deadline: float | None, now: float) -> bool:
        entry = self._current(key, now)
        if entry is None:
            check_writable(key)
            return False
        self.keyspace.put(key, (entry[0], entry[1], deadline))
        self._effects.append(m.DeadlineMoved(key, deadline))
        return True

    def _transaction(
        self, origin: int, command: m.Transaction, now: float
    ) -> tuple[int, list[Any]]:
        for key, _ in command.checks:
            self._current(key, now)
        for operation in command.operations:
            self._current(operation.key, now)
        revision = self.revision + 1
        staged, results = plan(command, self._entries, self._numbers, revision, now)
        for key, entry in staged.items():
            if entry is not None:
                self._write(key, entry[0], entry[2], revision, origin)
            elif key in self._entries:
                self._remove(key, m.DELETED, origin, revision)
        return self.revision, results

    # --- who wants to know ------------------------------------------------------------------

    def _watch(
        self, origin: int, command: m.Watch, now: float
    ) -> tuple[int, int, list[tuple[int, str, str, bytes | None]] | None]:
        pattern, from_revision = command
        check_pattern(pattern)
        missed: list[m.Change] | None = []
        if from_revision is not None:
            missed = None
            if from_revision <= self.revision:
                missed = self.log.since(from_revision, matcher(pattern))
        watch = self._register(origin, self.watches, [pattern])
        changes = missed if missed is None else [change[:4] for change in missed]
        return watch, self.revision, changes

    def _unwatch(self, origin: int, command: m.Unwatch, now: float) -> bool:
        return self._unregister(origin, self.watches, command.watch)

    def _subscribe(self, origin: int, command: m.Subscribe, now: float) -> int:
        for pattern in command.patterns:
            check_pattern(pattern)
        return self._register(origin, self.subscriptions, command.patterns)

    def _unsubscribe(self, origin: int, command: m.Unsubscribe, now: float) -> bool:
        return self._unregister(origin, self.subscriptions, command.subscription)

    def _publish(self, origin: int, command: m.Publish, now: float) -> int:
        topic, message = command
        check_writable(topic, "topic")
        check_value(topic, message)
        subscribers = self.subscriptions.find(topic)
        if subscribers:
            self._effects.append(m.Message(topic, message, subscribers))
        return len(subscribers)

    def _register(self, origin: int, interest: Interest, patterns: list[str]) -> int:
        registered = self._patterns.setdefault(origin, {})
        if len(registered) >= PATTERNS_PER_CONNECTION:
            raise LimitExceeded(
                f"this connection has {len(registered)} watches and subscriptions, the most there "
                "may be",
                limit="patterns_per_connection", maximum=PATTERNS_PER_CONNECTION,
                actual=len(registered) + 1,
            )  # fmt: skip
        number = self._next_id
        self._next_id += 1
        registered[number] = interest, patterns
        for pattern in patterns:
            interest.add(pattern, origin)
        return number

    def _unregister(self, origin: int, interest: Interest, number: int) -> bool:
        registered = self._patterns.get(origin, {})
        if number not in registered or registered[number][0] is not interest:
            return False
        for pattern in registered.pop(number)[1]:
            interest.remove(pattern, origin)
        return True

"""The engine once more, as plainly as can be: dicts and lists, recursion and whole copies.

Nothing here is shared with the engine but the messages, the classes of errors and the numbers of
limits. Two liberties are left to the engine. Which of several good reasons it gives when it
refuses; and when exactly it expires a key whose time has passed, as long as nobody can see the
dead key: it tells the model by calling `expire`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from udsbus import messages as m
from udsbus.errors import AccessDenied, Conflict, Error, InvalidRequest, LimitExceeded
from udsbus.limits import KEY_BYTES, NUMBER_BYTES
from udsbus.terms import CREATED, DELETED, EXPIRED, UPDATED

from .support import TextNumbers

Reasons = set[type[Error]]

RETAINED = "$sys/retained/"


class Refused(Exception):
    """The command is refused with an error of one of these classes."""

    def __init__(self, reasons: Reasons) -> None:
        self.reasons = reasons


class Row(NamedTuple):
    value: bytes
    revision: int
    deadline: float | None


# --- names and patterns ---------------------------------------------------------------------


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is one of those that `pattern` selects."""
    if name.startswith("$") and pattern.startswith("*"):
        return False
    return _matches(pattern.split("/"), name.split("/"))


def _matches(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return _matches(pattern[1:], name) or (name != [] and _matches(pattern, name[1:]))
    return name != [] and pattern[0] in ("*", name[0]) and _matches(pattern[1:], name[1:])


def wrong_shape(name: str) -> Reasons:
    reasons: Reasons = set()
    if len(name.encode()) > KEY_BYTES:
        reasons.add(LimitExceeded)
    if "" in name.split("/"):
        reasons.add(InvalidRequest)
    return reasons


def wrong_name(name: str) -> Reasons:
    return wrong_shape(name) | ({InvalidRequest} if "*" in name else set())


def not_writable(name: str) -> Reasons:
    return wrong_name(name) | ({AccessDenied} if name.startswith("$") else set())


def wrong_pattern(pattern: str) -> Reasons:
    mixed = any("*" in s and s not in ("*", "**") for s in pattern.split("/"))
    return wrong_shape(pattern) | ({InvalidRequest} if mixed else set())


def wrong_value(value: bytes) -> Reasons:
    return set() if value else {InvalidRequest}


def wrong_revision(row: Row | None, expected: int | None) -> Reasons:
    if expected is None or expected == (row.revision if row else 0):
        return set()
    return {Conflict}


# --- the bus --------------------------------------------------------------------------------


class Model:
    def __init__(self, log_changes: int, log_bytes: int) -> None:
        self.revision = 0
        self.rows: dict[str, Row] = {}
        self.history: list[m.Change] = []
        """Every change there has ever been."""
        self.watches: dict[int, tuple[int, list[str]]] = {}
        """Number → whose it is, and its patterns."""
        self.watched: dict[int, m.Watch] = {}
        """Number → what was asked for."""
        self.subscriptions: dict[int, tuple[int, list[str]]] = {}
        self.quiet: dict[int, tuple[int, list[str]]] = {}
        """Those without echo."""
        self.detailed: set[int] = set()
        """The numbers of those with details."""
        self.registered = 0
        self.sessions: dict[int, str] = {}
        """Connection → its session."""
        self.effects: list[m.Effect] = []
        """Of the last command."""
        self._log_changes = log_changes
        self._log_bytes = log_bytes
        self._numbers = TextNumbers()

    def execute(self, origin: int, command: m.EngineCommand, now: float) -> Any:
        """The result of `command`. Raises Refused, and has then not changed."""
        trial = deepcopy(self)
        trial.effects = []
        result = getattr(trial, type(command).__name__)(origin, command, now)
        self.__dict__ = trial.__dict__
        return result

    def expire(self, key: str, now: float) -> None:
        """The engine says that the time of `key` has passed, and takes a revision for that."""
        assert key in due(self.rows, now)
        self.effects = []
        self._remove(key, EXPIRED, self.revision + 1, 0)

    def disconnect(self, origin: int) -> None:
        for register in (self.watches, self.subscriptions, self.quiet):
            for number in [n for n, (owner, _) in register.items() if owner == origin]:
                del register[number]

    # --- what can be asked at any time ---

    def live(self, now: float) -> dict[str, Row]:
        return {key: row for key, row in self.rows.items() if key not in due(self.rows, now)}

    def matching(self, pattern: str, now: float) -> list[str]:
        return sorted(key for key in self.live(now) if matches(pattern, key))

    def watchers(self, key: str) -> set[int]:
        return _interested(self.watches, key)

    def subscribers(self, topic: str, publisher: int) -> set[int]:
        session = self.sessions.get(publisher)
        own = {each for each, of in self.sessions.items() if of == session} | {publisher}
        others = _interested(self.quiet, topic) - own
        return _interested(self.subscriptions, topic) | others

    def details_for(self, retained: bool) -> set[int]:
        """The connections that are told the details of a message."""
        registered = self.subscriptions | self.quiet if retained else self.quiet
        return {owner for number, (owner, _) in registered.items() if number in self.detailed}

    def changes_since(self, revision: int, pattern: str) -> list[m.Change] | None:
        """The changes that a resumed watch has missed; None when they are not all known."""
        remembered = 0
        size = 0
        for change in reversed(self.history):
            size += len(change.key) + len(change.value or b"") + len(change.before or b"")
            if remembered == self._log_changes or size > self._log_bytes:
                break
            remembered += 1
        forgotten = self.history[: len(self.history) - remembered]
        if revision > self.revision or any(change.revision > revision for change in forgotten):
            return None
        return [c for c in self.history if c.revision > revision and matches(pattern, c.key)]

    # --- reads ---

    def Get(self, origin: int, command: m.Get, now: float) -> bytes | None:
        _refuse(wrong_name(command.key))
        row = self.live(now).get(command.key)
        return row.value if row else None

    def GetEntry(self, origin: int, command: m.GetEntry, now: float) -> Any:
        _refuse(wrong_name(command.key))
        row = self.live(now).get(command.key)
        if row is None:
            return None
        return row.value, row.revision, None if row.deadline is None else row.deadline - now

    def Exists(self, origin: int, command: m.Exists, now: float) -> bool:
        _refuse(wrong_name(command.key))
        return command.key in self.live(now)

    def GetMany(self, origin: int, command: m.GetMany, now: float) -> list[bytes | None]:
        _refuse({reason for key in command.keys for reason in wrong_name(key)})
        return [self.Get(origin, m.Get(key), now) for key in command.keys]

    def Ttl(self, origin: int, command: m.Ttl, now: float) -> float | None:
        entry = self.GetEntry(origin, m.GetEntry(command.key), now)
        return entry[2] if entry else None

    # --- writes ---

    def Set(self, origin: int, command: m.Set, now: float) -> int:
        return int(self._alone(origin, command, now))

    def Delete(self, origin: int, command: m.Delete, now: float) -> bool:
        return bool(self._alone(origin, command, now))

    def Increment(self, origin: int, command: m.Increment, now: float) -> Any:
        return self._alone(origin, command, now)

    def SetMany(self, origin: int, command: m.SetMany, now: float) -> int:
        _refuse(
            {
                reason
                for key, value in command.values.items()
                for reason in not_writable(key) | wrong_value(value)
            }
        )
        sets: list[m.TransactionOperation] = [
            m.Set(key, value, command.ttl) for key, value in command.values.items()
        ]
        return self.Transaction(origin, m.Transaction([], sets), now)[0]

    def Transaction(self, origin: int, command: m.Transaction, now: float) -> tuple[int, list[Any]]:
        before = self.live(now)
        for key, expected in command.checks:
            _refuse(wrong_name(key) | wrong_revision(before.get(key), expected))
        after = dict(before)
        written: list[str] = []
        results = []
        for operation in command.operations:
            row = after.get(operation.key)
            results.append(self._operate(after, operation, self.revision + 1, now))
            if after.get(operation.key) is not row and operation.key not in written:
                written.append(operation.key)
        revision = self.revision + 1
        for key in written:
            if key in after:
                kind = UPDATED if key in before else CREATED
                self._write(key, kind, after[key], origin)
            elif key in before:
                self._remove(key, DELETED, revision, origin)
        return self.revision, results

    def Expire(self, origin: int, command: m.Expire, now: float) -> bool:
        return self._move_deadline(command.key, now + command.ttl, now)

    def Persist(self, origin: int, command: m.Persist, now: float) -> bool:
        row = self.live(now).get(command.key)
        self._move_deadline(command.key, None, now)
        return row is not None and row.deadline is not None

    # --- who wants to know ---

    def Watch(self, origin: int, command: m.Watch, now: float) -> Any:
        session = self.sessions.get(origin)
        unknown = {InvalidRequest} if command.ignore_own and session is None else set()
        _refuse(wrong_pattern(command.pattern) | unknown)
        missed: list[m.Change] | None = []
        if command.from_revision is not None:
            missed = self.changes_since(command.from_revision, command.pattern)
        number = self._register(self.watches, origin, [command.pattern])
        self.watched[number] = command
        if missed is None:
            return number, self.revision, None
        told = [
            change
            for change in missed
            if (command.kinds is None or change.kind in command.kinds)
            and not (command.ignore_own and change.session == session and change.kind != DELETED)
        ]
        detailed = command.ignore_own or command.previous
        return (
            number,
            self.revision,
            [(*c[:4], c.before, c.session) if detailed else tuple(c[:4]) for c in told],
        )

    def Unwatch(self, origin: int, command: m.Unwatch, now: float) -> bool:
        return _unregister(self.watches, origin, command.watch)

    def Subscribe(self, origin: int, command: m.Subscribe, now: float) -> Any:
        _refuse({reason for pattern in command.patterns for reason in wrong_pattern(pattern)})
        register = self.subscriptions if command.echo else self.quiet
        number = self._register(register, origin, command.patterns)
        if not command.details:
            return number
        self.detailed.add(number)
        return number, self.revision, sum(key.startswith(RETAINED) for key in self.rows)

    def Unsubscribe(self, origin: int, command: m.Unsubscribe, now: float) -> bool:
        number = command.subscription
        loud = _unregister(self.subscriptions, origin, number)
        return loud or _unregister(self.quiet, origin, number)

    def Publish(self, origin: int, command: m.Publish, now: float) -> int:
        key = RETAINED + command.topic
        too_long = wrong_shape(key) if command.retain else set()
        _refuse(not_writable(command.topic) | wrong_value(command.message) | too_long)
        revision = None
        if command.retain:
            revision = self.revision + 1
            kind = UPDATED if key in self.rows else CREATED
            self._write(key, kind, Row(command.message, revision, None), origin)
        told = self.subscribers(command.topic, origin)
        detailed = told & self.details_for(command.retain)
        if told:
            self.effects.append(
                m.Message(
                    command.topic,
                    command.message,
                    tuple(sorted(told - detailed)),
                    tuple(sorted(detailed)),
                    (revision, self.sessions.get(origin)) if detailed else (None, None),
                )
            )
        return len(told)

    def Unretain(self, origin: int, command: m.Unretain, now: float) -> bool:
        _refuse(not_writable(command.topic))
        there = RETAINED + command.topic in self.rows
        if there:
            self._remove(RETAINED + command.topic, DELETED, self.revision + 1, origin)
        return there

    # --- their parts ---

    def _alone(self, origin: int, operation: m.TransactionOperation, now: float) -> Any:
        """A single write is a transaction of one operation."""
        return self.Transaction(origin, m.Transaction([], [operation]), now)[1][0]

    def _operate(
        self, rows: dict[str, Row], operation: m.TransactionOperation, revision: int, now: float
    ) -> Any:
        """Carry out one operation of a transaction on `rows`."""
        key = operation.key
        row = rows.get(key)
        if isinstance(operation, m.Get):
            _refuse(wrong_name(key))
            return row.value if row else None
        reasons = not_writable(key)
        if isinstance(operation, m.Set):
            _refuse(
                reasons | wrong_value(operation.value) | wrong_revision(row, operation.if_revision)
            )
            if operation.if_changed and row and row.value == operation.value:
                return row.revision
            deadline = None if operation.ttl is None else now + operation.ttl
            if operation.keep and row:
                deadline = row.deadline
            rows[key] = Row(operation.value, revision, deadline)
            return revision
        if isinstance(operation, m.Delete):
            _refuse(reasons | wrong_revision(row, operation.if_revision))
            return rows.pop(key, None) is not None
        number = 0
        if row:
            number = self._numbers.decode(row.value)
            if isinstance(number, str) or len(row.value) > NUMBER_BYTES:
                _refuse(reasons | {InvalidRequest})
        number += operation.by  # type: ignore[assignment]  # int or float, as asked
        value = self._numbers.encode(number)
        _refuse(reasons | ({LimitExceeded} if len(value) > NUMBER_BYTES else set()))
        rows[key] = Row(value, revision, row.deadline if row else None)
        return number

    def _write(self, key: str, kind: str, row: Row, origin: int) -> None:
        stale = self.rows.get(key)
        assert stale is None or kind == UPDATED, f"{key} was written before its expiry was told"
        self.rows[key] = row
        self.revision = row.revision
        before = None if stale is None else stale.value
        session = self.sessions.get(origin)
        fields = row.revision, kind, key, row.value, row.deadline, origin, before, session
        self._tell(m.Change(*fields))

    def _remove(self, key: str, kind: str, revision: int, origin: int) -> None:
        before = self.rows.pop(key).value
        self.revision = revision
        session = self.sessions.get(origin)
        self._tell(m.Change(revision, kind, key, None, None, origin, before, session))

    def _tell(self, change: m.Change) -> None:
        self.history.append(change)
        self.effects.append(change)

    def _move_deadline(self, key: str, deadline: float | None, now: float) -> bool:
        _refuse(not_writable(key))
        row = self.live(now).get(key)
        if row is None:
            return False
        self.rows[key] = row._replace(deadline=deadline)
        self.effects.append(m.DeadlineMoved(key, deadline))
        return True

    def _register(
        self, register: dict[int, tuple[int, list[str]]], origin: int, patterns: list[str]
    ) -> int:
        self.registered += 1
        register[self.registered] = origin, patterns
        return self.registered


def due(rows: dict[str, Row], now: float) -> set[str]:
    """The keys whose time has passed."""
    return {key for key, row in rows.items() if row.deadline is not None and row.deadline <= now}


def _refuse(reasons: Reasons) -> None:
    if reasons:
        raise Refused(reasons)


def _interested(register: dict[int, tuple[int, list[str]]], name: str) -> set[int]:
    return {
        owner
        for owner, patterns in register.values()
        if any(matches(pattern, name) for pattern in patterns)
    }


def _unregister(register: dict[int, tuple[int, list[str]]], origin: int, number: int) -> bool:
    if number not in register or register[number][0] != origin:
        return False
    del register[number]
    return True

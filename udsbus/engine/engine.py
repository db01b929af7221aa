"""The engine: a deterministic state machine. A command and the time go in; out come a result, or
an exception that refuses, and effects.

    result = engine.execute(origin, command, now)
    effects = engine.take_effects()
    engine.settle()                                  when they are safe; or engine.undo()

The same commands at the same times give the same results, revisions and effects: no I/O, no
clock, no threads, no randomness. Values are bytes that it does not look into; the two exceptions,
`increment` and schemas, go through the `Codec` and the `Compile` that it was given.

Every change of a key goes through `_write` or `_remove`, and so gets its revision, its place in
the change log and its effect; but for the commonest write, for which `_set` has a short way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from .. import messages as m
from ..errors import AccessDenied, Error, InvalidRequest, LockLost
from ..limits import EXPIRIES_PER_TURN, PAGE_BYTES, VALUE_BYTES
from ..patterns import (
    CLIENT_KEYS,
    IN_HAND_KEYS,
    LOCK_KEYS,
    QUEUE_KEYS,
    RESERVED,
    SCHEMA_KEYS,
    TAKEN_KEYS,
    check_name,
    check_pattern,
    check_writable,
    matcher,
    shown,
)
from ..terms import CREATED, DELETED, EXPIRED, RELEASED, UPDATED
from .changelog import ChangeLog
from .deadlines import Agenda
from .keyspace import Entry, Keyspace
from .locks import Locks
from .owners import Owners
from .publishing import Publishing
from .queues import Queues
from .registrations import Registrations
from .rules import Codec, check_reply, check_revision, check_value, incremented
from .schemas import Compile, Schemas, cannot_compile
from .services import Services
from .transactions import plan
from .waiting import WaitingList
from .wants import Want

NOTED = LOCK_KEYS, QUEUE_KEYS, TAKEN_KEYS, IN_HAND_KEYS
"""Below these, keys that the locks and the queues have an index of."""
_new: Any = tuple.__new__
"""Makes a named tuple without its Python-level `__new__`, in half the time."""


class Engine:
    """The state of one bus."""

    def __init__(
        self,
        codec: Codec,
        log: ChangeLog | None = None,
        first_revision: int = 0,
        compile_schema: Compile = cannot_compile,
    ) -> None:
        """`first_revision` is that of the empty bus; the first write takes the next."""
        self.revision = self._first_revision = first_revision
        self.changes = 0
        """How many there have been; several may share a revision."""
        self.log = log if log is not None else ChangeLog()
        self.log.forgotten = first_revision
        self.agenda = Agenda()
        """When `tend` wants to be called: as soon as that is due. What is to be settled stands in
        it after `settle`: most of that is done by the command that has left it."""
        self.keyspace = Keyspace(self.agenda)
        self.owners = Owners()
        self.sessions: dict[int, str] = {}
        """Connection → its session, of those that have one."""
        self._session = self.sessions.get
        self._owned = self.owners.sessions
        self.waiting = WaitingList(self, self.agenda)
        self.locks = Locks(self, codec, self.waiting, self.agenda)
        self._held = self.locks.tokens
        self.queues = Queues(self, codec, self.waiting)
        self.services = Services(self, codec)
        self.registrations = Registrations(self.to_undo)
        self.watches = self.registrations.watches
        self.subscriptions = self.registrations.subscriptions
        self.wants = self.registrations.wants
        self.publishing = Publishing(self, self.keyspace, self.registrations, self.waiting)
        self.schemas = Schemas(compile_schema)
        self._schema_checks = self.schemas.checks
        self._codec = codec
        self._entries = self.keyspace.entries
        self.effects: list[m.Effect] = []
        """What has happened since `take_effects`, in order."""
        self._changes: list[m.Change] = []
        """Those of the effects that the change log does not have yet: it gets them all at once."""
        self._undo: list[tuple[str, Entry | None]] | None = None
        """The entries that were there before what `settle` has not settled yet, if kept."""
        self._frozen = False
        self._undo_steps: list[Callable[[], object]] = []
        """How to undo everything else."""
        self._settled = (first_revision, 0)
        """The revision, and the number of changes, that `undo` goes back to."""
        self.handlers: dict[type, Callable[..., Any]] = {
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
            m.SetSchema: self._set_schema,
            m.Watch: self._watch,
            m.Unwatch: self._unwatch,
            **self.locks.handlers,
            **self.queues.handlers,
            **self.services.handlers,
            **self.publishing.handlers,
        }
        """What carries out each command: called with (origin, now, *command). A caller that has
        the fields of a command need not make one."""

    # --- in and out -------------------------------------------------------------------------

    def execute(self, origin: int, command: m.EngineCommand, now: float) -> Any:
        """Carry out `command` for connection `origin` at `now` (seconds, any monotonic clock).

        Returns what docs/protocol.md says of the method. Raises an Error that refuses; then
        nothing has changed.
        """
        return self.handlers[type(command)](origin, now, *command)

    def take_effects(self) -> list[m.Effect]:
        """What has happened since the last call, in order."""
        effects = self.effects
        if effects:
            self.effects = []
        return effects

    def keep_undo(self) -> None:
        """From now on be able to `undo`."""
        self._undo = []
        self.settle()

    def settle(self) -> None:
        """All that has happened is safe: it enters the change log, and `undo` does not go back
        beyond this."""
        if self._changes:
            self._log_changes()
        if not self._frozen and (self.locks.unsettled or self.queues.unsettled):
            self.agenda.by(0.0)
        if self._undo is not None:
            self._settled = self.revision, self.changes
            self._undo.clear()
            self._undo_steps.clear()

    def undo(self) -> None:
        """Go back to where `settle` was called last, as if nothing had been asked since."""
        assert self._undo is not None
        for key, entry in reversed(self._undo):
            was_there = key in self._entries
            if entry is not None:
                self.keyspace.put(key, entry)
            elif was_there:
                self.keyspace.drop(key)
            if key[0] == RESERVED:
                self._note(key, was_there)
        if any(key.startswith(SCHEMA_KEYS) for key, _ in self._undo):
            self.use_schemas()
        self._undo.clear()
        for undo in reversed(self._undo_steps):
            undo()
        self._undo_steps.clear()
        self.effects, self._changes = [], []
        self.waiting.undone()
        self.agenda.by(0.0)
        self.revision, self.changes = self._settled
        self.log.take_back(self.revision)

    @property
    def frozen(self) -> bool:
        """Nothing may change: what is due is absent, but does not expire."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._frozen = frozen
        self.agenda.by(0.0)

    def next_deadline(self) -> float:
        """When something is due next; infinity while nothing has a deadline."""
        due = self.waiting.next_deadline()
        if self._frozen:
            return due
        return min(due, self.locks.due(), self.queues.due(), self.keyspace.deadlines.next())

    def tend(self, now: float) -> None:
        """Do what is due: end waiting that has lasted long enough, and expire keys, at most
        EXPIRIES_PER_TURN. The agenda says when to call it again."""
        self.waiting.tend(now)
        if self.publishing.unsettled:
            self.publishing.settle()
        if not self._frozen:
            self.locks.tend(now)
            self.queues.settle()
            self._expire_due(now)
        self.agenda.due = self.next_deadline()

    def _expire_due(self, now: float) -> None:
        for _ in range(EXPIRIES_PER_TURN):
            key = self.keyspace.deadlines.pop_due(now)
            if key is None:
                return
            entry = self._entries.get(key)
            if entry is None or entry[2] is None:
                continue
            if entry[2] <= now:
                self._remove(key, EXPIRED, 0)
            else:
                self.keyspace.deadlines.schedule(key, entry[2])

    def has_patterns(self, origin: int) -> bool:
        """Whether a connection watches or subscribes to anything."""
        return self.registrations.has(origin)

    def disconnect(self, origin: int) -> None:
        """Forget what belongs to a connection that is gone."""
        self.waiting.forget(origin)
        self.registrations.disconnect(origin)
        self.publishing.caught_up(origin)

    # --- what was before ---------------------------------------------------------------------

    def load(
        self,
        entries: dict[str, Entry],
        owners: Iterable[tuple[str, str]],
        revision: int,
        latest: list[m.Change],
        forgotten: int,
    ) -> None:
        """Begin with what a database holds: the entries in order of their keys, the sessions that
        own some of them, as (key, session), the revision, and the latest changes, before which
        those up to `forgotten` are no longer known."""
        self.keyspace.fill(entries)
        for key, session in owners:
            self.owners.give(key, session)
        for below in NOTED:
            for key, _ in self.keyspace.below(below):
                self._note(key, was_there=False)
        self.revision = revision
        self.log.forgotten = forgotten
        self._changes += latest
        self._log_changes()
        self.changes = 0

    def begin_again(self, revision: int) -> None:
        """What comes is another history, in which revisions begin later: nobody who has seen the
        one before can go on with it."""
        self.revision = self._first_revision = max(self.revision, revision)
        self.log.forget_all(self.revision)

    def replay(
        self,
        changes: Sequence[m.Recorded | m.DeadlineMoved | m.Owned],
        writers: Mapping[int, m.Writer] = MappingProxyType({}),
    ) -> None:
        """Change again what a journal tells of, in the order in which it happened; `writers` are
        those whom it knows, by `Change.origin`.

        What a repaired journal no longer tells the beginning of is left out.
        """
        keyspace, entries = self.keyspace, self._entries
        told: list[m.Recorded] = []
        before: list[Entry | None] = []
        size = 0
        for change in changes:
            if len(change) != 6:  # quicker than to look at its class
                if isinstance(change, m.Owned):
                    if change.key in entries:
                        self.owners.give(change.key, change.session)
                elif isinstance(change, m.DeadlineMoved) and change.key in entries:
                    value, revision, _ = entries[change.key]
                    keyspace.put(change.key, (value, revision, change.deadline))
                continue
            revision, _, key, new, deadline, _ = change
            entry = entries.get(key)
            if new is None:
                if entry is not None:
                    keyspace.drop(key)
                    self.owners.give(key, None)
            elif entry is not None and entry[2] is None and deadline is None:
                entries[key] = (new, revision, None)  # neither order nor deadlines change
            else:
                keyspace.put(key, (new, revision, deadline))
            if key[0] == RESERVED:
                self._note(key, entry is not None)
            self.revision = revision
            told.append(change)
            before.append(entry)
            size += len(key) if new is None else len(key) + len(new)
            if entry is not None:
                size += len(entry[0])
        if told:
            self.changes += len(told)
            self.log.extend_recorded(told, before, writers, size)

    def _note(self, key: str, was_there: bool) -> None:
        """A key of the broker's own is as `_entries` has it now."""
        value, revision, _ = self._entries.get(key, (None, 0, None))
        if key.startswith(LOCK_KEYS):
            self.locks.note(key, value, revision)
        else:
            self.queues.note(key, was_there, value)

    def use_schemas(self) -> dict[str, Error]:
        """Check from now on by the schemas that are kept. To be called when `load` and `replay` are
        done. Returns those that cannot be used, by pattern, and why: what they are of cannot be
        written."""
        kept = self.keyspace.below(SCHEMA_KEYS)
        return self.schemas.begin({key.removeprefix(SCHEMA_KEYS): entry[0] for key, entry in kept})

    # --- the two ways to change a key -------------------------------------------------------

    def _write(
        self, key: str, value: bytes, deadline: float | None, revision: int, origin: int
    ) -> None:
        before = self._entries.get(key)
        if self._undo is not None:
            self._undo.append((key, before))
        if before is not None and before[2] is None and deadline is None:
            self._entries[key] = (value, revision, None)  # neither order nor deadlines change
            kind = UPDATED
        else:
            kind = UPDATED if self.keyspace.put(key, (value, revision, deadline)) else CREATED
        self.revision = revision
        value_before = None if before is None else before[0]
        session = self._session(origin)
        fields = revision, kind, key, value, deadline, origin, value_before, session
        change = _new(m.Change, fields)
        self.effects.append(change)
        self._changes.append(change)

    def _remove(self, key: str, kind: str, origin: int, revision: int | None = None) -> None:
        before = self._entries[key]
        if self._undo is not None:
            self._undo.append((key, before))
        self.keyspace.drop(key)
        if key in self._owned:
            self._give(key, None)
        if key[0] == RESERVED:
            self.locks.dropped(key)
            self.queues.dropped(key)
        self.revision = revision if revision is not None else self.revision + 1
        session = self._session(origin)
        change = m.Change(self.revision, kind, key, None, None, origin, before[0], session)
        self.effects.append(change)
        self._changes.append(change)

    def _give(self, key: str, session: str | None) -> None:
        """Change whose a key is, if it is another's."""
        before = self.owners.give(key, session)
        if before != session:
            self.to_undo(lambda: self.owners.give(key, before))

    def _own(self, key: str, session: str | None) -> None:
        """The same for a key that has just been written; to be journaled."""
        if self._owned.get(key) != session:
            self._give(key, session)
            self.effects.append(m.Owned(key, session, self.revision))

    def _log_changes(self) -> None:
        if self._changes:
            self.changes += len(self._changes)
            self.log.extend(self._changes)
            self._changes = []

    def _current(self, key: str, now: float) -> Entry | None:
        """The entry as a write must see it: one whose deadline has passed is expired first."""
        entry = self._entries.get(key)
        if entry is not None and entry[2] is not None and entry[2] <= now:
            if not self._frozen:
                self._remove(key, EXPIRED, 0)
            return None
        return entry

    def _written(self, key: str, now: float) -> Entry | None:
        """The same, if the key may be written at all."""
        entry = self._current(key, now)
        if entry is None or key[0] == RESERVED:
            check_writable(key)
        return entry

    # --- reads ------------------------------------------------------------------------------

    def _get(self, origin: int, now: float, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            check_name(key)
            return None
        if entry[2] is not None and entry[2] <= now:
            return None
        return entry[0]

    def _get_entry(
        self, origin: int, now: float, key: str
    ) -> tuple[bytes, int, float | None] | None:
        entry = self.keyspace.live(key, now)
        if entry is None:
            check_name(key)
            return None
        value, revision, deadline = entry
        return value, revision, None if deadline is None else deadline - now

    def _exists(self, origin: int, now: float, key: str) -> bool:
        return self._get(origin, now, key) is not None

    def _get_many(self, origin: int, now: float, keys: list[str]) -> list[bytes | None]:
        values = [self._get(origin, now, key) for key in keys]
        check_reply(values)
        return values

    def _ttl(self, origin: int, now: float, key: str) -> float | None:
        entry = self._get_entry(origin, now, key)
        return None if entry is None else entry[2]

    def _keys(
        self, origin: int, now: float, pattern: str, after: str | None, limit: int | None
    ) -> tuple[list[str], str | None]:
        found, next_after = self.keyspace.page(pattern, after, limit, now, sized=False)
        return [key for key, _ in found], next_after

    def _items(
        self, origin: int, now: float, pattern: str, after: str | None, limit: int | None
    ) -> tuple[list[tuple[str, bytes, int]], str | None]:
        found, next_after = self.keyspace.page(pattern, after, limit, now, sized=True)
        return [(key, entry[0], entry[1]) for key, entry in found], next_after

    def _count(
        self, origin: int, now: float, pattern: str, after: str | None
    ) -> tuple[int, str | None]:
        return self.keyspace.count(pattern, after, now)

    # --- writes -----------------------------------------------------------------------------

    def _set(
        self,
        origin: int,
        now: float,
        key: str,
        value: bytes,
        ttl: float | None = None,
        if_revision: int | None = None,
        if_changed: bool = False,
        ephemeral: bool = False,
        fence: int | None = None,
        keep: bool = False,
    ) -> int:
        if not 0 < len(value) <= VALUE_BYTES:
            check_value(key, value)
        if self._schema_checks:
            self.schemas.check(key, value)
        entry = self._entries.get(key)
        if entry is None or entry[2] is not None or key[0] == RESERVED:
            entry = self._written(key, now)
        elif (
            ttl is None
            and if_revision is None
            and not if_changed
            and not ephemeral
            and fence is None
            and key not in self._owned
        ):
            # The shortest way, for what is done most: neither order nor deadlines change.
            if self._undo is not None:
                self._undo.append((key, entry))
            revision = self.revision = self.revision + 1
            self._entries[key] = (value, revision, None)
            session = self._session(origin)
            fields = revision, UPDATED, key, value, None, origin, entry[0], session
            change = _new(m.Change, fields)
            self.effects.append(change)
            self._changes.append(change)
            return revision
        if if_revision is not None:
            check_revision(key, if_revision, entry)
        if fence is not None:
            self._check_fence(fence)
        owner = self.session_of(origin, "an ephemeral key") if ephemeral else None
        deadline = None if ttl is None else now + ttl
        if keep and entry is not None:
            owner, deadline = self._owned.get(key), entry[2]
        unchanged = entry is not None and entry[0] == value and self._owned.get(key) == owner
        if if_changed and entry is not None and unchanged:
            return entry[1]
        revision = self.revision + 1
        self._write(key, value, deadline, revision, origin)
        self._own(key, owner)
        return revision

    def _check_fence(self, token: int) -> None:
        if token not in self._held:
            raise LockLost(f"the lock with the token {token} is not held any more", token=token)

    def _set_many(
        self, origin: int, now: float, values: dict[str, bytes], ttl: float | None
    ) -> int:
        entries = self._entries
        for key, value in values.items():
            if not 0 < len(value) <= VALUE_BYTES:
                check_value(key, value)
            if key not in entries or key[0] == RESERVED:
                check_writable(key)
            if self._schema_checks:
                self.schemas.check(key, value)
        for key in values:
            entry = entries.get(key)
            if entry is not None and entry[2] is not None:
                self._current(key, now)
        revision = self.revision + 1 if values else self.revision
        deadline = None if ttl is None else now + ttl
        for key, value in values.items():
            self._write(key, value, deadline, revision, origin)
            if key in self._owned:
                self._own(key, None)
        return revision

    def _delete(
        self,
        origin: int,
        now: float,
        key: str,
        if_revision: int | None = None,
        fence: int | None = None,
    ) -> bool:
        entry = self._written(key, now)
        if if_revision is not None:
            check_revision(key, if_revision, entry)
        if fence is not None:
            self._check_fence(fence)
        if entry is None:
            return False
        self._remove(key, DELETED, origin)
        return True

    def _increment(self, origin: int, now: float, key: str, by: int | float = 1) -> Any:
        entry = self._written(key, now)
        number, value = incremented(key, by, entry, self._codec)
        if self._schema_checks:
            self.schemas.check(key, value)
        deadline = None if entry is None else entry[2]
        self._write(key, value, deadline, self.revision + 1, origin)
        return number

    def _expire(self, origin: int, now: float, key: str, ttl: float) -> bool:
        return self._move_deadline(key, now + ttl, now)

    def _persist(self, origin: int, now: float, key: str) -> bool:
        entry = self.keyspace.live(key, now)
        had_deadline = entry is not None and entry[2] is not None
        self._move_deadline(key, None, now)
        return had_deadline

    def _move_deadline(self, key: str, deadline: float | None, now: float) -> bool:
        entry = self._written(key, now)
        if entry is None:
            return False
        if self._undo is not None:
            self._undo.append((key, entry))
        self.keyspace.put(key, (entry[0], entry[1], deadline))
        self.effects.append(m.DeadlineMoved(key, deadline))
        return True

    def _transaction(
        self,
        origin: int,
        now: float,
        checks: list[tuple[str, int]],
        operations: list[m.TransactionOperation],
        fence: int | None = None,
    ) -> tuple[int, list[Any]]:
        if fence is not None:
            self._check_fence(fence)
        for key, _ in checks:
            self._current(key, now)
        for operation in operations:
            if isinstance(operation, m.Set | m.Delete) and operation.fence is not None:
                self._check_fence(operation.fence)
            self._current(operation.key, now)
        revision = self.revision + 1
        entries: Mapping[str, Entry] = self._entries
        if self._frozen:  # in which what is due is still there
            keys = {key for key, _ in checks} | {operation.key for operation in operations}
            live = ((key, self.keyspace.live(key, now)) for key in keys)
            entries = {key: entry for key, entry in live if entry is not None}
        owner = self.sessions.get(origin)
        if any(type(operation) is m.Set and operation.ephemeral for operation in operations):
            owner = self.session_of(origin, "an ephemeral key")
        staged, owners, results = plan(
            checks, operations, entries, self._owned, owner, self._codec, self._check, revision,
            now,
        )  # fmt: skip
        for key, entry in staged.items():
            if entry is not None:
                self._write(key, entry[0], entry[2], revision, origin)
                self._own(key, owners[key])
            elif key in self._entries:
                self._remove(key, DELETED, origin, revision)
        return self.revision, results

    def _check(self, key: str, value: bytes) -> None:
        check_value(key, value)
        self.schemas.check(key, value)

    def _set_schema(self, origin: int, now: float, pattern: str, schema: bytes | None) -> int:
        check_pattern(pattern)
        if pattern.startswith(RESERVED):
            raise AccessDenied(f"the keys of {shown(pattern)} are the broker's own")
        key = SCHEMA_KEYS + pattern
        entry = self._entries.get(key)
        if schema is None:
            if entry is not None:
                self.schemas.drop(pattern)
                self._remove(key, DELETED, origin)
            return self.revision
        if entry is not None and entry[0] == schema:
            return entry[1]
        self.schemas.put(pattern, schema)
        self._write(key, schema, None, self.revision + 1, origin)
        return self.revision

    # --- sessions ---------------------------------------------------------------------------

    def session_of(self, origin: int, what: str) -> str:
        """The session that `what` is to belong to. Raises InvalidRequest if there is none."""
        session = self.sessions.get(origin)
        if session is None:
            raise InvalidRequest(f"{what} needs a session that it belongs to; name one in `hello`")
        return session

    def is_of(self, origin: int, session: str) -> bool:
        """Whether a connection is one of a session."""
        return self.sessions.get(origin) == session

    def hold(self, key: str, value: bytes, session: str | None, origin: int) -> int:
        """Write a key of the broker's own, which belongs to a session, or to none."""
        revision = self.revision + 1
        self._write(key, value, None, revision, origin)
        self._own(key, session)
        return revision

    def let_go(self, key: str, origin: int, kind: str) -> None:
        """Remove such a key."""
        self._remove(key, kind, origin)

    def entry(self, key: str) -> Entry | None:
        """The entry of such a key; none of them expires."""
        return self._entries.get(key)

    def is_owned(self, key: str) -> bool:
        """Whether a key belongs to a session."""
        return key in self._owned

    def linger(self, session: str, now: float) -> None:
        """A session is kicked: let the locks that linger belong to nobody, so that they do not go
        with it."""
        for key in self.locks.linger(list(self.owners.of(session)), now):
            self._own(key, None)

    def to_undo(self, step: Callable[[], object]) -> None:
        """`step` is a part of `undo`; what happened last is undone first, but for the keys, which
        are as they were already."""
        if self._undo is not None:
            self._undo_steps.append(step)

    def join(self, session: str, about: bytes) -> None:
        """There is a session; `about` is what the others are told of it."""
        key = CLIENT_KEYS + session
        entry = self._entries.get(key)
        if entry is None or entry[0] != about:
            self._write(key, about, None, self.revision + 1, 0)
            self._own(key, session)

    def release(self, session: str, most: int, now: float) -> int:
        """A session has ended: remove what belongs to it, at most `most` keys, itself at last; and
        let others have the locks that it held, and the items of queues that it had not done.
        Returns how many."""
        own = CLIENT_KEYS + session
        keys = list(islice((key for key in self.owners.of(session) if key != own), most))
        if len(keys) < most and own in self._owned:
            keys.append(own)
        size = removed = 0
        for key in keys:
            size += self.queues.come_back(key)
            self._remove(key, RELEASED, 0)
            removed += 1
            if size > PAGE_BYTES:  # which the turn has to write
                break
        self.locks.grant(now)
        self.queues.settle()
        return removed

    # --- who wants to know ------------------------------------------------------------------

    def _watch(
        self,
        origin: int,
        now: float,
        pattern: str,
        from_revision: int | None,
        kinds: frozenset[str] | None = None,
        ignore_own: bool = False,
        previous: bool = False,
    ) -> tuple[int, int, list[tuple[Any, ...]] | None]:
        check_pattern(pattern)
        session = self.session_of(origin, "a watch without its own changes") if ignore_own else None
        want = Want(kinds, ignore_own, previous or ignore_own)
        missed: list[m.Change] | None = []
        if from_revision is not None:
            missed = None
            from_revision = from_revision or self._first_revision  # 0: from the very beginning
            if from_revision <= self.revision:
                self._log_changes()
                missed = self.log.since(from_revision, matcher(pattern))
        watch = self.registrations.add(origin, [pattern], self.watches, want=want)
        if missed is None:
            return watch, self.revision, None
        told = [change for change in missed if want.wants(change, session)]
        return (
            watch,
            self.revision,
            [(*change[:4], *change[6:]) if want.detail else change[:4] for change in told],
        )

    def _unwatch(self, origin: int, now: float, watch: int) -> bool:
        return self.registrations.remove(origin, watch, self.watches)

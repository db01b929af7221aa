"""Who holds a lock, who is next, and that this is so after an undo and in a replica too."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.errors import (
    AccessDenied,
    Conflict,
    Deadlock,
    Error,
    InvalidRequest,
    LimitExceeded,
    LockLost,
)
from udsbus.limits import GRANTS_PER_TURN, KEY_BYTES, PAGE_KEYS, WAITS_PER_CONNECTION
from udsbus.terms import CREATED, DELETED, RELEASED

from .support import examples, recorded, steps

A, B, C = 1, 2, 3
"""Connections; each is a session of its own."""


class Literals:
    """Values as Python writes them."""

    def decode(self, data: bytes) -> Any:
        return ast.literal_eval(data.decode())

    def encode(self, value: Any) -> bytes:
        return repr(value).encode()


class Locked:
    """An engine with three sessions, and what each of their claims has come to."""

    def __init__(self) -> None:
        self.engine = Engine(Literals())
        self.engine.keep_undo()
        self.engine.sessions.update({A: "a", B: "b", C: "c"})
        self.now = 0.0
        self.outcomes: dict[tuple[int, int], int | str | None] = {}
        """(session, claim) → the token, None, or "waiting"."""
        self._claims = 0
        self._tickets: dict[int, tuple[int, int]] = {}

    def acquire(self, origin: int, lock: str = "x", **options: Any) -> int:
        """Returns the claim."""
        self._claims += 1
        claim = self._claims
        command = m.Acquire(lock, claim, **{"owner": 0, **options})
        result = self.engine.execute(origin, command, self.now)
        if isinstance(result, m.Later):
            self._tickets[result.ticket] = origin, claim
            self.outcomes[origin, claim] = "waiting"
        else:
            self.outcomes[origin, claim] = result
        return claim

    def release(self, origin: int, claim: int, lock: str = "x") -> bool:
        released: bool = self.engine.execute(origin, m.Release(lock, claim), self.now)
        self.tell()
        return released

    def tend(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.engine.tend(self.now)
        self.tell()

    def tell(self) -> None:
        for ticket, result in self.engine.waiting.answers:
            self.outcomes[self._tickets.pop(ticket)] = result
        self.engine.waiting.answers.clear()

    def has(self, origin: int, claim: int) -> bool:
        token = self.outcomes[origin, claim]
        if not isinstance(token, int):
            return False
        assert self.engine.locks.tokens[token].session == "-abc"[origin]
        return True

    def waits(self, origin: int, claim: int) -> bool:
        return self.outcomes[origin, claim] == "waiting"


@pytest.fixture
def locked() -> Locked:
    return Locked()


def keys(engine: Engine) -> list[str]:
    return [key for key, _ in engine.keyspace.below("$sys/locks/")]


# --- one holds, the others wait --------------------------------------------------------------


def test_first_come_first_served(locked: Locked) -> None:
    a, b, c = locked.acquire(A), locked.acquire(B), locked.acquire(C)
    assert (locked.has(A, a), locked.waits(B, b), locked.waits(C, c)) == (True, True, True)
    assert locked.release(A, a)
    assert (locked.has(B, b), locked.waits(C, c)) == (True, True)
    again = locked.acquire(A)
    assert locked.release(B, b)
    assert (locked.has(C, c), locked.waits(A, again)) == (True, True)


def test_a_holder_is_a_key_of_its_session(locked: Locked) -> None:
    claim = locked.acquire(A, "jobs/import", owner=7)
    key = f"$sys/locks/jobs/import/a.{claim}"
    assert keys(locked.engine) == [key]
    value, revision, _ = locked.engine.keyspace.entries[key]
    assert revision == locked.outcomes[A, claim]
    assert ast.literal_eval(value.decode()) == {
        "owner": 7, "shared": False, "permits": None, "since": 0.0,
    }  # fmt: skip
    assert list(locked.engine.owners.of("a")) == [key]
    locked.release(A, claim, "jobs/import")
    assert keys(locked.engine) == []
    kinds = [one.kind for one in locked.engine.take_effects() if isinstance(one, m.Change)]
    assert kinds == [CREATED, DELETED]


def test_a_token_is_higher_than_all_before(locked: Locked) -> None:
    claims = [locked.acquire(A), locked.acquire(B)]
    locked.release(A, claims[0])
    first, second = locked.outcomes[A, claims[0]], locked.outcomes[B, claims[1]]
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert second > first


def test_nothing_is_left_of_a_lock_that_nobody_wants(locked: Locked) -> None:
    for options in ({}, {"shared": True}, {"shared": True, "permits": 2}):
        claims = [locked.acquire(origin, **options) for origin in (A, B, C)]
        for origin, claim in zip((A, B, C), claims, strict=True):
            assert locked.release(origin, claim)
            assert not locked.release(origin, claim), "only once"
        locks = locked.engine.locks
        assert (locks._locks, locks._waiters, locks.tokens, keys(locked.engine)) == ({}, {}, {}, [])
        waiting = locked.engine.waiting
        assert (waiting.waiters, waiting._of_origin, locks._of_node) == ({}, {}, {})


def test_readers_share_and_do_not_starve_a_writer(locked: Locked) -> None:
    first, second = locked.acquire(A, shared=True), locked.acquire(B, shared=True)
    assert locked.has(A, first)
    assert locked.has(B, second)
    writer, third = locked.acquire(C), locked.acquire(A, shared=True)
    fourth = locked.acquire(B, shared=True)
    assert locked.waits(A, third), "it could join the readers, but the writer was here first"
    assert locked.outcomes[A, locked.acquire(A, shared=True, timeout=0)] is None
    locked.release(A, first)
    assert locked.waits(C, writer)
    locked.release(B, second)
    assert locked.has(C, writer)
    locked.release(C, writer)
    assert locked.has(A, third)
    assert locked.has(B, fourth), "all readers up to the next writer"


def test_a_writer_that_gives_up_lets_the_readers_by(locked: Locked) -> None:
    locked.acquire(A, shared=True)
    locked.acquire(B, timeout=1.0)
    reader = locked.acquire(C, shared=True)
    locked.tend(1.0)
    assert locked.has(C, reader)


def test_a_semaphore(locked: Locked) -> None:
    two: dict[str, Any] = {"shared": True, "permits": 2}
    claims = [(origin, locked.acquire(origin, **two)) for origin in (A, A, B, C)]
    assert [locked.has(*claim) for claim in claims] == [True, True, False, False]
    locked.release(*claims[0])
    assert [locked.waits(*claim) for claim in claims[2:]] == [False, True]
    locked.engine.execute(A, m.AddPermits("x", 2, 3), 0.0)
    locked.tell()
    assert locked.has(*claims[3])
    for _ in range(2):
        assert locked.has(A, locked.acquire(A, **two))
    assert locked.waits(A, locked.acquire(A, **two))
    with pytest.raises(Conflict, match="semaphore of 2 permits now, not a semaphore of 3"):
        locked.acquire(A, shared=True, permits=3)
    with pytest.raises(Conflict, match="semaphore of 2 permits now, not a lock"):
        locked.acquire(A)


def test_a_semaphore_without_permits_waits_for_the_first(locked: Locked) -> None:
    claim = locked.acquire(A, shared=True, permits=0)
    assert locked.waits(A, claim)
    locked.engine.execute(B, m.AddPermits("x", 0, 1), 0.0)
    locked.tell()
    assert locked.has(A, claim)


# --- waiting ends -------------------------------------------------------------------------------


def test_a_timeout_leaves_no_ghost(locked: Locked) -> None:
    a = locked.acquire(A)
    assert locked.outcomes[B, locked.acquire(B, timeout=0)] is None
    b, c = locked.acquire(B, timeout=5.0), locked.acquire(C, timeout=7.0)
    assert locked.engine.next_deadline() == 5.0
    locked.tend(4.9)
    assert locked.waits(B, b)
    locked.tend(0.1)
    assert locked.outcomes[B, b] is None
    assert not locked.release(B, b)
    locked.release(A, a)
    assert locked.has(C, c)
    locked.tend(10.0)
    assert locked.has(C, c), "the time was for waiting"


def test_a_connection_that_is_gone_waits_for_nothing(locked: Locked) -> None:
    a, _, c = locked.acquire(A), locked.acquire(B), locked.acquire(C)
    locked.engine.sessions.pop(B)
    locked.engine.disconnect(B)
    locked.release(A, a)
    assert locked.has(C, c)


def test_who_asks_again(locked: Locked) -> None:
    """Over another connection: the answer may have been lost. What it has got it keeps; its place
    it loses, like the connection."""
    locked.engine.sessions[9] = "b"
    a, b, c = locked.acquire(A), locked.acquire(B), locked.acquire(C)
    with pytest.raises(Conflict, match="waits for 'x' already"):
        locked.engine.execute(B, m.Acquire("x", b, 0), 0.0)
    again = locked.engine.execute(9, m.Acquire("x", b, 0), 0.0)
    assert isinstance(again, m.Later)
    locked.tell()
    assert locked.outcomes[B, b] is None, "nobody listens there any more"
    locked.engine.disconnect(B)
    locked._tickets[again.ticket] = B, b
    locked.release(A, a)
    assert locked.has(C, c)
    locked.release(C, c)
    assert locked.has(B, b)
    assert locked.engine.execute(9, m.Acquire("x", b, 0), 0.0) == locked.outcomes[B, b]


def test_a_lock_lingers_when_its_session_is_kicked(locked: Locked) -> None:
    a, other, plain = (
        locked.acquire(A, linger=5.0),
        locked.acquire(A, "y", linger=2.0),
        locked.acquire(A, "z"),
    )
    b, c = locked.acquire(B), locked.acquire(C, "z")
    token = locked.outcomes[A, a]
    assert isinstance(token, int)
    locked.engine.linger("a", 0.0)
    locked.engine.release("a", 10, 0.0)
    locked.tell()
    assert locked.has(C, c), "that one does not"
    assert locked.waits(B, b)
    assert locked.engine.next_deadline() == 2.0
    locked.engine.execute(A, m.Set("k", b"1", fence=token), 0.0)
    locked.tend(2.0)
    assert locked.outcomes[A, other] not in locked.engine.locks.tokens
    assert keys(locked.engine) == ["$sys/locks/x/a.1", f"$sys/locks/z/c.{c}"]
    assert not locked.release(A, plain, "z")
    assert not locked.release(A, a), "it was lost; but the lingering is over"
    assert locked.has(B, b)
    locked.tend(10.0)
    assert locked.has(B, b)


def test_who_asks_again_after_a_kick_waits_anew(locked: Locked) -> None:
    claim = locked.acquire(A, linger=5.0)
    b = locked.acquire(B)
    locked.engine.linger("a", 0.0)
    again = locked.engine.execute(A, m.Acquire("x", claim, 0), 0.0)
    assert isinstance(again, m.Later)
    locked.tell()
    assert locked.has(B, b)


def test_many_are_granted_in_turns(locked: Locked) -> None:
    writer = locked.acquire(A)
    readers = [locked.acquire(B, shared=True) for _ in range(GRANTS_PER_TURN + 10)]
    locked.release(A, writer)
    assert sum(locked.has(B, reader) for reader in readers) == GRANTS_PER_TURN
    assert locked.engine.next_deadline() == 0.0
    locked.tend()
    assert all(locked.has(B, reader) for reader in readers)


def test_a_lock_lingers_over_a_takeover(locked: Locked) -> None:
    locked.acquire(A, linger=5.0)
    locked.engine.linger("a", 0.0)
    replica = Engine(Literals())
    replica.replay(recorded(locked.engine.take_effects()))
    replica.locks.adopt(100.0)
    assert replica.next_deadline() == 105.0
    replica.tend(105.0)
    assert keys(replica) == []


def test_a_claim_can_be_taken_back_whatever_became_of_it(locked: Locked) -> None:
    a, b, c = locked.acquire(A), locked.acquire(B), locked.acquire(C)
    assert locked.release(B, b)
    assert locked.outcomes[B, b] is None
    assert locked.release(A, a)
    assert locked.has(C, c)


def test_the_end_of_a_session_lets_others_have_its_locks(locked: Locked) -> None:
    claims = [locked.acquire(A, f"x/{number}") for number in range(5)]
    others = [locked.acquire(B, f"x/{number}") for number in range(5)]
    assert len(claims) == len(others)
    del locked.engine.sessions[A]
    assert locked.engine.release("a", 3, 0.0) == 3
    locked.tell()
    assert [locked.has(B, claim) for claim in others] == [True, True, True, False, False]
    locked.engine.release("a", 3, 0.0)
    locked.tell()
    assert all(locked.has(B, claim) for claim in others)
    kinds = [one.kind for one in locked.engine.take_effects() if isinstance(one, m.Change)]
    assert kinds.count(RELEASED) == 5


def test_nothing_is_granted_while_nothing_can_be_written(locked: Locked) -> None:
    locked.acquire(A, shared=True)
    b = locked.acquire(B)
    c = locked.acquire(C, shared=True, timeout=3.0)
    locked.engine.frozen = True
    locked.engine.disconnect(B)
    locked.engine.waiting.answers.clear()
    assert locked.engine.next_deadline() == 3.0
    locked.tend(1.0)
    locked.engine.settle()
    assert locked.engine.agenda.due == 3.0, "nobody looks for ever for what cannot be done"
    assert locked.waits(C, c)
    locked.engine.frozen = False
    assert locked.engine.agenda.due == locked.engine.next_deadline() == 0.0
    locked.tend()
    assert locked.has(C, c)
    assert locked.waits(B, b)


# --- what is refused -----------------------------------------------------------------------------


def test_a_fence(locked: Locked) -> None:
    engine = locked.engine
    claim = locked.acquire(A)
    token = locked.outcomes[A, claim]
    assert isinstance(token, int)
    engine.execute(B, m.Set("k", b"1", fence=token), 0.0)
    engine.execute(B, m.Transaction([], [m.Set("k", b"2", fence=token)], token), 0.0)
    locked.release(A, claim)
    locked.acquire(B)
    for command in (
        m.Set("k", b"3", fence=token),
        m.Delete("k", fence=token),
        m.Transaction([], [m.Set("k", b"3")], fence=token),
        m.Transaction([], [m.Set("k", b"3", fence=token)]),
        m.Transaction([], [m.Delete("k", fence=token)]),
    ):
        with pytest.raises(LockLost, match=str(token)):
            engine.execute(A, command, 0.0)
    assert engine.execute(A, m.Get("k"), 0.0) == b"2"


def test_names(locked: Locked) -> None:
    for lock in ("", "a//b", "a/*"):
        with pytest.raises(InvalidRequest):
            locked.acquire(A, lock)
    with pytest.raises(AccessDenied):
        locked.acquire(A, "$x")
    with pytest.raises(LimitExceeded, match="lock's key"):
        locked.acquire(A, "x" * (KEY_BYTES - 50))
    with pytest.raises(InvalidRequest, match="a lock needs a session"):
        locked.acquire(9)
    with pytest.raises(InvalidRequest, match="a lock needs a session"):
        locked.engine.execute(9, m.Release("x", 1), 0.0)


def test_a_connection_waits_for_so_many_at_most(locked: Locked) -> None:
    locked.acquire(A)
    for _ in range(WAITS_PER_CONNECTION):
        locked.acquire(B)
    with pytest.raises(LimitExceeded, match="wait for 10001 things"):
        locked.acquire(B)


def test_deadlock(locked: Locked) -> None:
    for origin, lock in ((A, "x"), (B, "y"), (C, "z")):
        locked.acquire(origin, lock, owner=origin)
    locked.acquire(A, "y", owner=A)
    locked.acquire(B, "z", owner=B)
    with pytest.raises(Deadlock, match="3 wait in a circle") as caught:
        locked.acquire(C, "x", owner=C, unless_deadlock=True)
    assert caught.value.details["cycle"] == [["c", C], ["a", A], ["b", B]]
    assert locked.waits(C, locked.acquire(C, "y", owner=9, unless_deadlock=True)), "another thread"
    assert locked.waits(C, locked.acquire(C, "x", owner=C)), "who does not ask may wait"


def test_deadlock_with_oneself(locked: Locked) -> None:
    locked.acquire(A, owner=1)
    with pytest.raises(Deadlock, match="who asks holds it"):
        locked.acquire(A, owner=1, unless_deadlock=True)


def test_a_semaphore_of_several_permits_is_no_deadlock(locked: Locked) -> None:
    """Any of its holders may give his back."""
    locked.acquire(A, "s", owner=A, shared=True, permits=2)
    locked.acquire(C, "s", owner=C, shared=True, permits=2)
    locked.acquire(B, owner=B)
    locked.acquire(A, owner=A)
    semaphore = {"shared": True, "permits": 2, "unless_deadlock": True}
    assert locked.waits(B, locked.acquire(B, "s", owner=B, **semaphore))


def test_who_waits_is_told_a_page_at_a_time(locked: Locked) -> None:
    locked.acquire(A)
    for _ in range(PAGE_KEYS + 5):
        locked.acquire(B, owner=4, timeout=9.0)
    rows, after = locked.engine.execute(C, m.Waiting(), 2.0)
    assert len(rows) == PAGE_KEYS
    assert rows[0][1:] == ("x", "b", 4, False, 2.0)
    more, end = locked.engine.execute(C, m.Waiting(after), 2.0)
    assert (len(more), end) == (5, None)


# --- undo and replay ------------------------------------------------------------------------------

kinds = st.sampled_from([
    {}, {"linger": 1.0}, {"shared": True}, {"shared": True, "permits": 2},
    {"shared": True, "permits": 0},
])  # fmt: skip
acts = st.one_of(
    st.tuples(
        st.just("acquire"), st.sampled_from([A, B, C]), st.sampled_from("xy"), kinds,
        st.sampled_from([None, 0.0, 2.0]),
    ),
    st.tuples(st.just("release"), st.sampled_from([A, B, C]), st.integers(1, 12)),
    st.tuples(st.just("add"), st.sampled_from([0, 2]), st.sampled_from("xy")),
    st.tuples(st.just("tend"), st.sampled_from([0.0, 1.0, 3.0])),
    st.tuples(st.just("end"), st.sampled_from([A, B])),
    st.tuples(st.just("kick"), st.sampled_from([A, B])),
    st.tuples(st.just("drop"), st.sampled_from([A, B, C])),
)  # fmt: skip


def act(locked: Locked, what: Any) -> None:
    engine = locked.engine
    try:
        if what[0] == "acquire":
            _, origin, lock, kind, timeout = what
            locked.acquire(origin, lock, timeout=timeout, **kind)
        elif what[0] == "release":
            for lock in "xy":
                locked.release(what[1], what[2], lock)
        elif what[0] == "add":
            engine.execute(A, m.AddPermits(what[2], what[1], 1), locked.now)
            locked.tell()
        elif what[0] == "tend":
            locked.tend(what[1])
        elif what[0] == "kick":
            engine.waiting.forget(what[1], None)
            engine.linger("-abc"[what[1]], locked.now)
        elif what[0] == "end":
            engine.waiting.forget(what[1], None)
            engine.release("-abc"[what[1]], 2, locked.now)
            locked.tell()
        else:
            engine.disconnect(what[1])
            locked.tend()
    except Error:
        pass


def held(engine: Engine) -> Any:
    """What can be compared, once it has been seen that it agrees with itself."""
    locks = engine.locks
    for lock in locks._locks.values():
        exclusive = [claim for claim in lock.holders.values() if not claim.shared]
        assert len(lock.holders) == 1 or not exclusive
        if lock.permits is not None:
            assert len(lock.holders) <= lock.permits + lock.added
        assert list(lock.waiting) == sorted(lock.waiting)
        assert lock.holders or lock.waiting or lock.added
    held_keys = {key for lock in locks._locks.values() for key in lock.holders}
    assert held_keys == set(locks._holdings) == {key for key in keys(engine) if "." in key}
    assert {key: token for key, (_, token) in locks._holdings.items()} == {
        key: engine.keyspace.entries[key][1] for key in held_keys
    }
    assert dict(locks.tokens) == {token: claim for claim, token in locks._holdings.values()}
    return {
        name: (lock.permits, lock.added, dict(lock.holders))
        for name, lock in locks._locks.items()
        if lock.holders or lock.added
    }


def queues(engine: Engine) -> Any:
    locks = engine.locks
    waiters = [waiter for lock in locks._locks.values() for waiter in lock.waiting.values()]
    assert {waiter.wanted.key for waiter in waiters} == set(locks._waiters)
    assert sorted(key for of in locks._of_node.values() for key in of) == sorted(locks._waiters)
    waiting = engine.waiting
    assert list(waiting.waiters) == sorted(waiter.ticket for waiter in waiters)
    assert sorted(ticket for of in waiting._of_origin.values() for ticket in of) == list(
        waiting.waiters
    )
    for lock in locks._locks.values():
        if lock.waiting and lock.name not in locks.unsettled:
            first = next(iter(lock.waiting.values()))
            assert not lock.admits(first.wanted.shared), "somebody waits for nothing"
    return sorted((one.wanted, one.ticket, one.origin, one.deadline) for one in waiters)


@given(st.lists(acts, max_size=15), st.lists(acts, max_size=8))
@examples(500)
def test_what_is_undone_never_happened(before: Any, undone: Any) -> None:
    locked = Locked()
    for what in before:
        act(locked, what)
    engine = locked.engine
    engine.settle()
    expected = held(engine), queues(engine), engine.revision
    for what in undone:
        act(locked, what)
        held(engine)
        queues(engine)
    engine.undo()
    assert (held(engine), queues(engine), engine.revision) == expected
    later = engine.next_deadline()
    assert later is not None or all(waiter[3] is None for waiter in expected[1])


@given(st.lists(acts, max_size=15))
@examples(300)
def test_a_replica_knows_the_holders(history: Any) -> None:
    locked = Locked()
    for what in history:
        act(locked, what)
    engine, replica, loaded = locked.engine, Engine(Literals()), Engine(Literals())
    replica.replay(recorded(engine.take_effects()))
    entries = dict(sorted(engine.keyspace.entries.items()))
    loaded.load(entries, engine.owners.sessions.items(), engine.revision, [], 0)
    assert held(replica) == held(loaded) == held(engine)


# --- how much it costs ---------------------------------------------------------------------------


def test_a_search_looks_at_each_once() -> None:
    """However many hold what all of them wait for."""

    def cost(number: int) -> int:
        locked = Locked()
        for owner in range(1, number):
            locked.acquire(A, "c", owner=owner, shared=True)
        for owner in range(1, number):
            locked.acquire(A, "c", owner=owner)
        locked.acquire(B, "d", owner=1)
        command = m.Acquire("c", 10**6, 1, unless_deadlock=True)
        return steps(locked.engine.execute, B, command, 0.0)

    assert cost(400) < 12 * cost(40)


def test_an_undo_costs_by_what_was_done() -> None:
    def cost(number: int) -> int:
        locked = Locked()
        writer = locked.acquire(A)
        for _ in range(number):
            locked.acquire(B, shared=True)
        locked.engine.settle()
        locked.release(A, writer)
        assert len(locked.engine.locks.tokens) == number
        return steps(locked.engine.undo)

    assert cost(400) < 14 * cost(40)

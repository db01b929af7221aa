"""What is in a queue and who gets it, and that this is so after an undo and in a replica too."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine import Engine
from udsbus.engine.waiting import NOBODY
from udsbus.errors import AccessDenied, Error, InvalidRequest, LimitExceeded
from udsbus.limits import GRANTS_PER_TURN, ORDER_BYTES, PAGE_BYTES, WAITS_PER_CONNECTION
from udsbus.patterns import IN_HAND_KEYS, QUEUE_KEYS, TAKEN_KEYS

from .support import examples, recorded, steps
from .test_locks import Literals

A, B, C = 1, 2, 3
"""Connections; each is a session of its own."""
STRANGER = 9
"""A connection without a session."""


class Queueing:
    """An engine with three sessions, and what has come of each of their requests."""

    def __init__(self) -> None:
        self.engine = Engine(Literals())
        self.engine.keep_undo()
        self.engine.sessions.update({A: "a", B: "b", C: "c"})
        self.now = 0.0
        self._tickets: dict[int, int] = {}
        self._results: list[Any] = []

    def ask(self, origin: int, command: m.EngineCommand) -> int:
        """Returns the number by which `result` knows it."""
        result = self.engine.execute(origin, command, self.now)
        if isinstance(result, m.Later):
            self._tickets[result.ticket] = len(self._results)
            result = "waits"
        self._results.append(result)
        self.tell()
        return len(self._results) - 1

    def put(self, item: bytes, origin: int = A, queue: str = "q", **options: Any) -> int:
        return self.ask(origin, m.Put(queue, item, **options))

    def take(self, origin: int = A, queue: str = "q", **options: Any) -> int:
        return self.ask(origin, m.Take(queue, **options))

    def done(self, origin: int = A, claim: int | None = None) -> Any:
        return self.result(self.ask(origin, m.Done("q", claim)))

    def result(self, number: int) -> Any:
        return self._results[number]

    def item(self, number: int) -> Any:
        """What a `take` has got, without its place."""
        result = self.result(number)
        return result[1] if isinstance(result, tuple) else result

    def tend(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.engine.tend(self.now)
        self.tell()

    def tell(self) -> None:
        for ticket, result in self.engine.waiting.answers:
            self._results[self._tickets.pop(ticket)] = result
        self.engine.waiting.answers.clear()

    def keys(self, below: str = "$sys/") -> list[str]:
        return [key for key, _ in self.engine.keyspace.below(below)]

    def queued(self) -> Any:
        return self.engine.execute(A, m.Queued("q"), self.now)


@pytest.fixture
def queueing() -> Queueing:
    return Queueing()


# --- in and out -----------------------------------------------------------------------------------


def test_first_in_first_out(queueing: Queueing) -> None:
    for item in (b"1", b"2", b"3"):
        queueing.put(item)
    assert len(queueing.keys(QUEUE_KEYS + "q/")) == 3
    taken = [queueing.take(B) for _ in range(3)]
    assert [queueing.item(each) for each in taken] == [b"1", b"2", b"3"]
    assert queueing.item(queueing.take(B, timeout=0.0)) is None


def test_nothing_is_due_when_an_item_has_come_and_gone(queueing: Queueing) -> None:
    queueing.put(b"1")
    queueing.take(B)
    queueing.engine.settle()
    assert queueing.engine.agenda.due == inf


def test_the_last_first(queueing: Queueing) -> None:
    for item in (b"1", b"2", b"3"):
        queueing.put(item)
    taken = [queueing.take(B, last=True) for _ in range(3)]
    assert [queueing.item(each) for each in taken] == [b"3", b"2", b"1"]


def test_by_order_and_then_by_age(queueing: Queueing) -> None:
    for order, item in ((b"b", b"1"), (b"a", b"2"), (b"ab", b"3"), (b"a", b"4"), (b"\xff", b"5")):
        queueing.put(item, order=order)
    taken = [queueing.item(queueing.take(B)) for _ in range(5)]
    assert taken == [b"2", b"4", b"3", b"1", b"5"]


def test_queues_do_not_mix(queueing: Queueing) -> None:
    """Whatever their names have in common."""
    for queue in ("q", "q/0", "q/a", "q/00000000000000000001"):
        queueing.put(queue.encode(), queue=queue)
    for queue in ("q", "q/0", "q/a", "q/00000000000000000001"):
        assert queueing.item(queueing.take(B, queue=queue)) == queue.encode()
        assert queueing.item(queueing.take(B, queue=queue, timeout=0.0)) is None


def test_who_waits_longest_gets_the_next(queueing: Queueing) -> None:
    first, second, third = queueing.take(A), queueing.take(B), queueing.take(C)
    queueing.put(b"1")
    assert [queueing.item(each) for each in (first, second, third)] == [b"1", "waits", "waits"]
    queueing.put(b"2")
    queueing.put(b"3")
    assert [queueing.item(each) for each in (second, third)] == [b"2", b"3"]


def test_room(queueing: Queueing) -> None:
    queueing.put(b"1", maxsize=1)
    assert queueing.result(queueing.put(b"x", maxsize=1, timeout=0.0)) is None
    second, third = queueing.put(b"2", B, maxsize=1), queueing.put(b"3", C, maxsize=1)
    unbounded = queueing.put(b"4")
    assert queueing.result(second) == queueing.result(third) == "waits"
    assert type(queueing.result(unbounded)) is int
    taken = [queueing.item(queueing.take()) for _ in range(4)]
    assert taken == [b"1", b"4", b"2", b"3"]
    assert queueing.result(third) > queueing.result(second)


def test_room_for_the_next_when_the_first_gives_up(queueing: Queueing) -> None:
    for _ in range(3):
        queueing.put(b"1")
    small, large = queueing.put(b"2", B, maxsize=2, timeout=1.0), queueing.put(b"3", C, maxsize=4)
    assert queueing.result(large) == "waits", "it would overtake"
    assert queueing.engine.next_deadline() == 1.0
    queueing.tend(1.0)
    assert queueing.result(small) is None
    assert type(queueing.result(large)) is int


def test_time_outs(queueing: Queueing) -> None:
    first, second = queueing.take(A, timeout=2.0), queueing.take(B, timeout=1.0)
    queueing.tend(1.5)
    assert (queueing.result(first), queueing.result(second)) == ("waits", None)
    queueing.put(b"1")
    assert queueing.item(first) == b"1"
    queueing.tend(1.0)
    assert queueing.engine.next_deadline() == inf


def test_who_is_gone_gets_nothing(queueing: Queueing) -> None:
    first, second = queueing.take(A), queueing.take(B)
    queueing.engine.disconnect(A)
    queueing.put(b"1", C)
    assert queueing.result(first) is NOBODY
    assert queueing.item(second) == b"1"


def test_a_stranger_waits_for_nothing(queueing: Queueing) -> None:
    """Nobody could tell it from another after an undo."""
    queueing.put(b"1", STRANGER)
    assert queueing.item(queueing.take(STRANGER)) == b"1"
    assert queueing.keys() == []
    for command in (m.Take("q"), m.Take("q", claim=1), m.Done("q", claim=1)):
        queueing.put(b"1", STRANGER)
        queueing.take(STRANGER)
        if isinstance(command, m.Done):
            queueing.put(b"2", STRANGER)
        with pytest.raises(InvalidRequest, match="needs a session"):
            queueing.ask(STRANGER, command)


def test_what_is_refused(queueing: Queueing) -> None:
    wrong: list[tuple[type[Error], m.EngineCommand]] = [
        (InvalidRequest, m.Put("q", b"")),
        (InvalidRequest, m.Put("q/", b"1")),
        (AccessDenied, m.Put("$q", b"1")),
        (LimitExceeded, m.Put("q" * 1000, b"1")),
        (LimitExceeded, m.Put("q", b"1", order=b"x" * (ORDER_BYTES + 1))),
        (InvalidRequest, m.Put("q", b"1", place="../x")),
        (InvalidRequest, m.Put("q", b"1", place="1")),
        (InvalidRequest, m.Put("q", b"1", place=f"{1:020}")),
        (AccessDenied, m.Take("$q")),
        (AccessDenied, m.Join("$q")),
        (AccessDenied, m.Done("$q")),
        (AccessDenied, m.GiveBack("$q", 1)),
        (AccessDenied, m.Queued("$q")),
    ]
    for error, command in wrong:
        with pytest.raises(error):
            queueing.ask(A, command)
    assert queueing.engine.queues._queues == {}
    assert queueing.keys() == []


def test_waits_are_limited(queueing: Queueing) -> None:
    for number in range(WAITS_PER_CONNECTION):
        queueing.take(A, queue=f"q/{number}")
    with pytest.raises(LimitExceeded):
        queueing.take(A, queue="another")
    assert len(queueing.engine.queues._queues) == WAITS_PER_CONNECTION
    queueing.engine.disconnect(A)
    queueing.tend()
    assert queueing.engine.queues._queues == {}


# --- done, and not done ---------------------------------------------------------------------------


def test_joining(queueing: Queueing) -> None:
    def join(**options: Any) -> int:
        return queueing.ask(C, m.Join("q", **options))

    assert queueing.result(join()) is True
    for item in (b"1", b"2"):
        queueing.put(item)
    assert queueing.result(join(timeout=0.0)) is None
    waits, gives_up = join(), join(timeout=1.0)
    queueing.take(A)
    queueing.take(B)
    assert queueing.queued()["unfinished"] == 2
    assert queueing.done(A) is True
    queueing.tend(1.0)
    assert (queueing.result(waits), queueing.result(gives_up)) == ("waits", None)
    assert queueing.done(A) is True, "whoever took it may have passed it on"
    assert queueing.result(waits) is True
    assert queueing.done(A) is False
    assert queueing.keys() == []


def test_what_a_dead_process_has_in_hand_is_not_waited_for(queueing: Queueing) -> None:
    queueing.put(b"1")
    queueing.take(A)
    assert queueing.keys(IN_HAND_KEYS) == [IN_HAND_KEYS + "q/a"]
    waits = queueing.ask(C, m.Join("q"))
    queueing.engine.release("a", 10, queueing.now)
    queueing.tell()
    assert queueing.result(waits) is True


def test_what_is_taken_by_a_claim_comes_back_to_its_place(queueing: Queueing) -> None:
    for item in (b"1", b"2", b"3"):
        queueing.put(item)
    assert queueing.item(queueing.take(A, claim=7)) == b"1"
    assert queueing.item(queueing.take(A, claim=8)) == b"2"
    assert queueing.queued() == {
        "items": 1, "unfinished": 3, "taken": 2, "takers": 0, "putters": 0,
    }  # fmt: skip
    assert queueing.done(A, 8) is True
    assert queueing.done(A, 8) is False
    assert queueing.done(B, 7) is False, "it is another's"
    queueing.engine.release("a", 10, queueing.now)
    assert queueing.keys(TAKEN_KEYS) == []
    assert [queueing.item(queueing.take(B)) for _ in range(2)] == [b"1", b"3"]


def test_what_comes_back_goes_to_who_waits(queueing: Queueing) -> None:
    queueing.put(b"1")
    queueing.take(A, claim=1)
    waits = queueing.take(B, claim=1)
    assert queueing.result(queueing.ask(A, m.GiveBack("q", 1))) is True
    assert queueing.item(waits) == b"1"
    assert queueing.result(queueing.ask(A, m.GiveBack("q", 1))) is False
    waits = queueing.take(C)
    queueing.engine.release("b", 10, queueing.now)
    queueing.tell()
    assert queueing.item(waits) == b"1"


def test_what_comes_back_needs_no_room(queueing: Queueing) -> None:
    queueing.put(b"1", maxsize=1)
    queueing.take(A, claim=1)
    queueing.put(b"2", maxsize=1)
    waits = queueing.put(b"3", maxsize=1)
    queueing.ask(A, m.GiveBack("q", 1))
    assert queueing.queued()["items"] == 2
    assert queueing.result(waits) == "waits"
    assert queueing.item(queueing.take()) == b"1"
    assert queueing.result(waits) == "waits"


def test_who_asks_again_by_a_claim_has_what_it_got(queueing: Queueing) -> None:
    for item in (b"1", b"2"):
        queueing.put(item)
    first = queueing.take(A, claim=1)
    queueing.engine.sessions[4] = "a"
    assert queueing.result(queueing.take(4, claim=1)) == queueing.result(first)
    assert queueing.queued()["items"] == 1
    # Both over connections of one session, and both wait.
    queueing.take(A)
    waits = queueing.take(A, claim=2), queueing.take(4, claim=2)
    queueing.put(b"3")
    queueing.put(b"4")
    assert [queueing.item(each) for each in waits] == [b"3", b"3"]
    assert queueing.queued()["items"] == 1, "one claim, one item"


def test_what_is_put_back(queueing: Queueing) -> None:
    """Taken without a claim, and the taker could not have it."""
    for item in (b"1", b"2"):
        queueing.put(item)
    place, item = queueing.result(queueing.take(A))
    revision = queueing.result(queueing.put(item, place=place))
    assert queueing.result(queueing.put(item, place=place)) == revision, "once"
    assert queueing.queued()["unfinished"] == 2
    assert [queueing.item(queueing.take(B)) for _ in range(2)] == [b"1", b"2"]


def test_what_is_put_back_ends_nothing_of_others(queueing: Queueing) -> None:
    """Its session has ended meanwhile, say, and what it had in hand is forgotten."""
    queueing.put(b"1")
    queueing.put(b"2")
    place, item = queueing.result(queueing.take(A))
    queueing.take(B)
    queueing.engine.release("a", 10, queueing.now)
    queueing.put(item, A, place=place)
    assert queueing.queued()["unfinished"] == 2
    assert queueing.done(B) is True


def test_what_comes_back_displaces_nothing(queueing: Queueing) -> None:
    queueing.put(b"1", order=b"a")
    place, _ = queueing.result(queueing.take(A, claim=1))
    queueing.put(b"2", B, place=place)
    queueing.ask(A, m.GiveBack("q", 1))
    assert [queueing.item(queueing.take(B)) for _ in range(2)] == [b"2", b"1"]


# --- the whole ------------------------------------------------------------------------------------

acts = st.one_of(
    st.tuples(
        st.just("put"), st.sampled_from([A, B, STRANGER]), st.sampled_from("qr"),
        st.sampled_from([{}, {"order": b"b"}, {"order": b"a"}, {"maxsize": 1}, {"maxsize": 2}]),
        st.sampled_from([None, 0.0, 2.0]),
    ),
    st.tuples(
        st.just("take"), st.sampled_from([A, B, C]), st.sampled_from("qr"),
        st.sampled_from([{}, {"last": True}, {"claim": 1}, {"claim": 2}]),
        st.sampled_from([None, 0.0, 2.0]),
    ),
    st.tuples(
        st.just("done"), st.sampled_from([A, B, C]), st.sampled_from("qr"),
        st.sampled_from([None, 1, 2]),
    ),
    st.tuples(
        st.just("give"), st.sampled_from([A, B]), st.sampled_from("qr"), st.sampled_from([1, 2])
    ),
    st.tuples(st.just("back"), st.sampled_from([A, B]), st.sampled_from("qr")),
    st.tuples(st.just("join"), st.just(C), st.sampled_from("qr"), st.sampled_from([None, 2.0])),
    st.tuples(st.just("tend"), st.sampled_from([0.0, 1.0, 3.0])),
    st.tuples(st.just("end"), st.sampled_from([A, B]), st.sampled_from([1, 2, 10])),
    st.tuples(st.just("drop"), st.sampled_from([A, B, C])),
)  # fmt: skip


def act(queueing: Queueing, what: Any) -> None:
    engine = queueing.engine
    try:
        if what[0] == "put":
            _, origin, queue, options, timeout = what
            item = str(len(queueing._results)).encode()
            queueing.put(item, origin, queue, timeout=timeout, **options)
        elif what[0] == "take":
            _, origin, queue, options, timeout = what
            queueing.take(origin, queue, timeout=timeout, **options)
        elif what[0] == "done":
            queueing.ask(what[1], m.Done(what[2], what[3]))
        elif what[0] == "give":
            queueing.ask(what[1], m.GiveBack(what[2], what[3]))
        elif what[0] == "back":
            taken = [one for one in queueing._results if isinstance(one, tuple)]
            if taken:
                queueing.put(taken[-1][1], what[1], what[2], place=taken[-1][0])
        elif what[0] == "join":
            queueing.ask(what[1], m.Join(what[2], what[3]))
        elif what[0] == "tend":
            queueing.tend(what[1])
        elif what[0] == "end":
            engine.waiting.forget(what[1], None)
            engine.release("-abc"[what[1]], what[2], queueing.now)
            queueing.tell()
        else:
            engine.disconnect(what[1])
            queueing.tend()
    except Error:
        pass


def content(engine: Engine) -> Any:
    """What can be compared, once it has been seen that it agrees with itself."""
    found = {}
    keys = list(engine.keyspace.entries)
    for name, queue in engine.queues._queues.items():
        items = list(queue.items.after(""))
        mine = [key for key in keys if key.rpartition("/")[0] == f"{QUEUE_KEYS}{name}"]
        assert items == sorted(mine)
        assert queue.length == len(items)
        assert sorted(queue.taken.values()) == sorted(
            key for key in keys if key.rpartition("/")[0] == f"{TAKEN_KEYS}{name}"
        )
        assert {f"{IN_HAND_KEYS}{name}/{session}" for session in queue.in_hand} == {
            key for key in keys if key.rpartition("/")[0] == f"{IN_HAND_KEYS}{name}"
        }
        assert all(number > 0 for number in queue.in_hand.values())
        if items or queue.taken or queue.in_hand:
            found[name] = (items, dict(queue.taken), dict(queue.in_hand))
    assert len(keys) == sum(
        len(items) + len(taken) + len(in_hand) for items, taken, in_hand in found.values()
    )
    return found


def lines(engine: Engine) -> Any:
    found = []
    for name, queue in engine.queues._queues.items():
        for line in (queue.takers, queue.putters, queue.joiners):
            assert list(line) == sorted(line)
            found += [(one.wanted, one.ticket, one.origin, one.deadline) for one in line.values()]
        settled = name not in engine.queues.unsettled
        assert queue.used or not settled
        if settled and queue.takers:
            assert not queue.length, "somebody waits for what is there"
        if settled and queue.putters:
            first = next(iter(queue.putters.values()))
            assert queue.length >= first.wanted.maxsize, "somebody waits for room that is there"
        if settled and queue.joiners:
            assert queue.unfinished
    assert sorted(ticket for _, ticket, _, _ in found) == list(engine.waiting.waiters)
    return sorted(found, key=lambda one: one[1])


@given(st.lists(acts, max_size=20), st.lists(acts, max_size=8))
@examples(600)
def test_what_is_undone_never_happened(before: Any, undone: Any) -> None:
    queueing = Queueing()
    for what in before:
        act(queueing, what)
        content(queueing.engine)
        lines(queueing.engine)
    engine = queueing.engine
    engine.settle()
    expected = content(engine), lines(engine), engine.revision
    owners = dict(engine.owners.sessions)
    for what in undone:
        act(queueing, what)
        content(engine)
        lines(engine)
    engine.undo()
    assert (content(engine), lines(engine), engine.revision) == expected
    assert engine.owners.sessions == owners


@given(st.lists(acts, max_size=20))
@examples(400)
def test_a_replica_knows_what_is_in_them(history: Any) -> None:
    queueing = Queueing()
    for what in history:
        act(queueing, what)
    engine, replica, loaded = queueing.engine, Engine(Literals()), Engine(Literals())
    replica.replay(recorded(engine.take_effects()))
    entries = dict(sorted(engine.keyspace.entries.items()))
    loaded.load(entries, engine.owners.sessions.items(), engine.revision, [], 0)
    assert content(replica) == content(loaded) == content(engine)
    for other in (replica, loaded):
        assert all(queue.used for queue in other.queues._queues.values()), "it remembers no other"
        assert other.queues.due() == inf or other.queues._queues


@given(st.lists(acts, max_size=30))
@examples(400)
def test_nothing_is_lost_and_nothing_doubled(history: Any) -> None:
    """Each item that was put is in a queue, or was given to somebody, or belongs to somebody."""
    queueing = Queueing()
    put: set[bytes] = set()
    for what in history:
        if what[0] == "back":  # may put what was not taken there
            continue
        act(queueing, what)
        engine = queueing.engine
        changes = [one for one in engine.take_effects() if isinstance(one, m.Change)]
        for change in changes:
            if change.key.startswith(QUEUE_KEYS) and change.value is not None:
                put.add(change.value)
    inside = [
        entry[0]
        for key, entry in queueing.engine.keyspace.entries.items()
        if not key.startswith(IN_HAND_KEYS)
    ]
    gone = {result[1] for result in queueing._results if isinstance(result, tuple)}
    assert len(inside) == len(set(inside)), "nothing is there twice"
    assert set(inside) | gone == put


# --- how much in one turn -------------------------------------------------------------------------


def test_many_are_served_in_turns(queueing: Queueing) -> None:
    """And nobody overtakes those that are to come."""
    for _ in range(2):
        queueing.put(b"1")
    queueing.put(b"small", A, maxsize=1, timeout=1.0)
    waits = [
        queueing.put(b"%d" % number, B, maxsize=10_000) for number in range(GRANTS_PER_TURN + 10)
    ]
    queueing.tend(1.0)
    served = [queueing.result(each) != "waits" for each in waits]
    assert served == [True] * GRANTS_PER_TURN + [False] * 10
    late = queueing.put(b"late", C, maxsize=10_000)
    queueing.engine.settle()
    assert queueing.engine.agenda.due == queueing.engine.next_deadline() == 0.0
    queueing.tend()
    assert all(queueing.result(each) < queueing.result(late) for each in waits)


def test_takers_are_not_overtaken_either(queueing: Queueing) -> None:
    number = GRANTS_PER_TURN + 10
    for claim in range(number):
        queueing.put(b"%d" % claim)
        queueing.take(A, claim=claim)
    waits = [queueing.take(B) for _ in range(number)]
    queueing.engine.release("a", number, queueing.now)
    queueing.tell()
    late = queueing.take(C)
    queueing.put(b"late")
    for _ in range(2):
        queueing.tend()
    assert [queueing.item(each) for each in waits] == [b"%d" % claim for claim in range(number)]
    assert queueing.item(late) == b"late"


def test_large_items_come_back_in_turns(queueing: Queueing) -> None:
    """A turn writes all of them into the journal."""
    large = bytes(PAGE_BYTES // 2)
    for claim in range(10):
        queueing.put(large)
        queueing.take(A, claim=claim)
    assert queueing.engine.release("a", 500, queueing.now) == 3
    assert queueing.engine.release("a", 500, queueing.now) == 3


# --- how much it costs ----------------------------------------------------------------------------


def test_a_long_queue_costs_as_much_as_a_short_one() -> None:
    def cost(number: int) -> int:
        queueing = Queueing()
        for _ in range(number):
            queueing.put(b"1")
        return steps(queueing.take) + steps(queueing.put, b"1")

    assert cost(10_000) < 1.5 * cost(10)


def test_to_tell_the_number_of_keys_looks_at_few() -> None:
    def cost(number: int) -> int:
        queueing = Queueing()
        for _ in range(number):
            queueing.put(b"1")
        return steps(queueing.engine.keyspace.number_below, "$")

    queueing = Queueing()
    queueing.put(b"1")
    queueing.engine.execute(A, m.Set("k", b"1"), 0.0)
    queueing.engine.execute(A, m.Set("#", b"1"), 0.0)
    assert queueing.engine.keyspace.number_below("$") == 1
    assert cost(5_000) <= 2 * cost(10)  # when compiled, both are none

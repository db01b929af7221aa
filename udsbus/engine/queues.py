"""Queues: what is in them, who waits for an item, and what has been taken but is not done.

An item is a key below `$sys/queues/NAME/`. So it is journaled, told to those who watch, and
survives whatever a key survives. The order of these keys is that of the items: the last segment,
the *place* of an item, is the number of the revision that put it, so that who was put first comes
first; before that number stands the *order* that it was put with, if any, which makes it a priority
queue. Who wants the last item and not the first has a stack.

    put ──► queues/NAME/PLACE ──take──► gone; in_hand/NAME/SESSION counts it, until `done`
                   ▲  └──take(claim)──► taken/NAME/SESSION.CLAIM.PLACE ──done──► gone
                   └────── give_back, or its session ends ──┘

What is taken by a claim belongs to the session that took it. When that ends, the item goes back to
its place, and to the next who waits for one. What is taken without is the taker's; that it has some
in hand is known only so that `join` can wait for it.

First come, first served: among those who wait for an item, and among those who wait for room.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, Protocol

from .. import messages as m
from ..errors import InvalidRequest, LimitExceeded
from ..limits import GRANTS_PER_TURN, ORDER_BYTES, SESSION_BYTES
from ..patterns import (
    IN_HAND_KEYS,
    QUEUE_KEYS,
    TAKEN_KEYS,
    check_name,
    check_writable,
    shown,
)
from ..terms import DELETED
from .keyspace import Entry
from .rules import Codec, check_value
from .sortedkeys import SortedKeys
from .waiting import NOBODY, Waiter, WaitingList

PLACE = re.compile(rf"(?:(?:[0-9a-f]{{2}}){{1,{ORDER_BYTES}}}-)?[0-9]{{20}}")
LONGEST = "x" * SESSION_BYTES + f".{2**64}." + "ff" * ORDER_BYTES + "-" + "0" * 20
"""As long as the last segment of a key can be."""
KNOWN = 4_096
"""Names that are remembered as good; each is short."""


class Keys(Protocol):
    """What the queues need of the engine that they are a part of."""

    revision: int
    sessions: dict[int, str]

    def session_of(self, origin: int, what: str) -> str: ...
    def is_of(self, origin: int, session: str) -> bool: ...
    def hold(self, key: str, value: bytes, session: str | None, origin: int) -> int: ...
    def let_go(self, key: str, origin: int, kind: str) -> None: ...
    def entry(self, key: str) -> Entry | None: ...


class Putting(NamedTuple):
    """What waits for room."""

    queue: str
    item: bytes
    order: bytes
    maxsize: int


class Taking(NamedTuple):
    """Who waits for an item."""

    queue: str
    session: str
    claim: int | None
    last: bool


class Joining(NamedTuple):
    """Who waits until all is done."""

    queue: str


class Queue:
    """One that has items, or that somebody waits at."""

    __slots__ = (
        "all_in_hand", "in_hand", "items", "joiners", "length", "name", "putters", "taken",
        "takers",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = SortedKeys()
        """Their keys."""
        self.length = 0
        self.taken: dict[str, str] = {}
        """`SESSION.CLAIM` → the key of what was taken by it."""
        self.in_hand: dict[str, int] = {}
        """Session → how many items it has taken otherwise that are not done."""
        self.all_in_hand = 0
        """Of all sessions together."""
        self.takers: OrderedDict[int, Waiter] = OrderedDict()
        self.putters: OrderedDict[int, Waiter] = OrderedDict()
        self.joiners: OrderedDict[int, Waiter] = OrderedDict()

    @property
    def unfinished(self) -> int:
        """How many items were put that are not done."""
        return self.length + len(self.taken) + self.all_in_hand

    def count_in_hand(self, session: str, number: int) -> None:
        """So many has a session in hand now."""
        self.all_in_hand += number - self.in_hand.pop(session, 0)
        if number:
            self.in_hand[session] = number

    @property
    def used(self) -> bool:
        return bool(
            self.length or self.taken or self.in_hand
            or self.takers or self.putters or self.joiners
        )  # fmt: skip


class Queues:
    def __init__(self, keys: Keys, codec: Codec, waiting: WaitingList) -> None:
        self.handlers: dict[type, Callable[..., Any]] = {
            m.Put: self._put,
            m.Take: self._take,
            m.Done: self._done,
            m.GiveBack: self._give_back,
            m.Join: self._join,
            m.Queued: self._queued,
        }
        self._keys = keys
        self._codec = codec
        self._waiting = waiting
        self._queues: dict[str, Queue] = {}
        self.unsettled: dict[str, None] = {}
        """Queues of which something has gone, so that somebody's waiting may be over."""
        self._known: set[str] = set()
        """Names that have been checked."""

    # --- what the engine tells ----------------------------------------------------------------

    def note(self, key: str, was_there: bool, value: bytes | None) -> None:
        """A key has this value now; None: it is gone."""
        if value is None:
            queue = self.dropped(key) if was_there else None
            if queue is not None and not queue.used:
                self._forget(queue)
        elif key.startswith(QUEUE_KEYS):
            if not was_there:
                self._came(self._queue(_name(key, QUEUE_KEYS)), key)
        elif key.startswith(TAKEN_KEYS):
            claim, _ = _claim_and_place(key)
            self._queue(_name(key, TAKEN_KEYS)).taken[claim] = key
        elif key.startswith(IN_HAND_KEYS):
            queue = self._queue(_name(key, IN_HAND_KEYS))
            queue.count_in_hand(key.rpartition("/")[2], self._codec.decode(value))

    def dropped(self, key: str) -> Queue | None:
        """A key is gone. Returns its queue, if it is of one; see `settle`."""
        if key.startswith(QUEUE_KEYS):
            queue = self._queues[_name(key, QUEUE_KEYS)]
            queue.items.remove(key)
            queue.length -= 1
        elif key.startswith(TAKEN_KEYS):
            queue = self._queues[_name(key, TAKEN_KEYS)]
            del queue.taken[_claim_and_place(key)[0]]
        elif key.startswith(IN_HAND_KEYS):
            queue = self._queues[_name(key, IN_HAND_KEYS)]
            queue.count_in_hand(key.rpartition("/")[2], 0)
        else:
            return None
        self.unsettled[queue.name] = None
        return queue

    def come_back(self, key: str) -> int:
        """The session ends that has taken the item of this key, if it is one: put it where it was.
        Returns its size."""
        if not key.startswith(TAKEN_KEYS):
            return 0
        entry = self._keys.entry(key)
        assert entry is not None
        queue = self._queues[_name(key, TAKEN_KEYS)]
        place = _claim_and_place(key)[1]
        if self._keys.entry(f"{QUEUE_KEYS}{queue.name}/{place}") is not None:
            # Somebody has put another there, who took it for that of what he had taken.
            place = self._next_place(bytes.fromhex(place.rpartition("-")[0]))
        self._add(queue, entry[0], place, 0)
        return len(entry[0])

    def due(self) -> float:
        """When `settle` wants to be called next."""
        return 0.0 if self.unsettled else inf

    def settle(self) -> None:
        """Answer those whose waiting is over, or some of them: see `_serve`."""
        for name in list(self.unsettled):
            queue = self._queues.get(name)
            if queue is None:
                del self.unsettled[name]
            else:
                self._serve(queue)

    # --- commands ---------------------------------------------------------------------------

    def _put(
        self,
        origin: int,
        now: float,
        queue: str,
        item: bytes,
        order: bytes = b"",
        maxsize: int = 0,
        timeout: float | None = None,
        place: str | None = None,
    ) -> int | m.Later | None:
        check_value(queue, item)
        self._check(queue)
        if len(order) > ORDER_BYTES:
            raise LimitExceeded(
                f"an order of {len(order)} bytes; the limit is {ORDER_BYTES}",
                limit="order_bytes", maximum=ORDER_BYTES, actual=len(order),
            )  # fmt: skip
        if place is not None:
            return self._put_back(queue, item, place, origin)
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = Queue(queue)
        elif maxsize and (found.length >= maxsize or found.putters):
            if timeout is not None and timeout <= 0:
                return None
            wanted = Putting(queue, item, order, maxsize)
            return self._waiting.wait(self, wanted, origin, now, timeout, "to wait for room")
        revision = self._add(found, item, self._next_place(order), origin)
        if found.takers:
            self._serve(found)
        return revision

    def _put_back(self, name: str, item: bytes, place: str, origin: int) -> int:
        """What was taken without a claim goes back to where it was."""
        if PLACE.fullmatch(place) is None or int(place[-20:]) > self._keys.revision:
            raise InvalidRequest(f"{shown(place)} is no place of an item, as `take` tells it")
        entry = self._keys.entry(f"{QUEUE_KEYS}{name}/{place}")
        if entry is not None:
            return entry[1]
        queue = self._queue(name)
        revision = self._add(queue, item, place, origin)
        session = self._keys.sessions.get(origin, "")
        if session in queue.in_hand:
            self._set_in_hand(queue, session, queue.in_hand[session] - 1, origin)
        self._serve(queue)
        return revision

    def _take(
        self,
        origin: int,
        now: float,
        queue: str,
        claim: int | None = None,
        last: bool = False,
        timeout: float | None = None,
    ) -> tuple[str, bytes] | m.Later | None:
        session = self._keys.sessions.get(origin, "")
        if claim is not None and not session:
            self._keys.session_of(origin, "an item that comes back")
        self._check(queue)
        wanted = Taking(queue, session, claim, last)
        found = self._queues.get(queue)
        if found is not None:
            item = self._taken_before(found, wanted)
            if item is None and found.length and not found.takers:
                item = self._hand_over(found, wanted, origin)
                self._serve(found)
            if item is not None:
                return item
        if timeout is not None and timeout <= 0:
            return None
        return self._waiting.wait(self, wanted, origin, now, timeout, "to wait for an item")

    def _done(self, origin: int, now: float, queue: str, claim: int | None = None) -> bool:
        self._check(queue)
        found = self._queues.get(queue)
        if found is None:
            return False
        if claim is None:
            done = self._finish_one(found, origin)
        else:
            key = self._key_taken(found, claim, origin)
            done = key is not None
            if key is not None:
                self._keys.let_go(key, origin, DELETED)
        self._serve(found)
        return done

    def _give_back(self, origin: int, now: float, queue: str, claim: int) -> bool:
        self._check(queue)
        found = self._queues.get(queue)
        key = None if found is None else self._key_taken(found, claim, origin)
        if found is None or key is None:
            return False
        self.come_back(key)
        self._keys.let_go(key, origin, DELETED)
        self._serve(found)
        return True

    def _key_taken(self, queue: Queue, claim: int, origin: int) -> str | None:
        session = self._keys.session_of(origin, "an item that comes back")
        return queue.taken.get(f"{session}.{claim}")

    def _join(
        self, origin: int, now: float, queue: str, timeout: float | None = None
    ) -> bool | m.Later | None:
        self._check(queue)
        found = self._queues.get(queue)
        if found is None or not found.unfinished:
            return True
        if timeout is not None and timeout <= 0:
            return None
        return self._waiting.wait(self, Joining(queue), origin, now, timeout, "to wait for all")

    def _queued(self, origin: int, now: float, queue: str) -> dict[str, int]:
        self._check(queue)
        found = self._queues.get(queue) or Queue(queue)
        return {
            "items": found.length,
            "unfinished": found.unfinished,
            "taken": len(found.taken),
            "takers": len(found.takers),
            "putters": len(found.putters),
        }

    # --- inside -----------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        """Raise unless it can be the name of a queue. Those that can are remembered for a while."""
        if name in self._known:
            return
        check_writable(name, "queue")
        check_name(f"{TAKEN_KEYS}{name}/{LONGEST}", "queue's key")
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known.add(name)

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name)
        return queue

    def _next_place(self, order: bytes) -> str:
        number = f"{self._keys.revision + 1:020}"
        return f"{order.hex()}-{number}" if order else number

    def _add(self, queue: Queue, item: bytes, place: str, origin: int) -> int:
        key = f"{QUEUE_KEYS}{queue.name}/{place}"
        revision = self._keys.hold(key, item, None, origin)
        self._came(queue, key)
        return revision

    def _came(self, queue: Queue, key: str) -> None:
        queue.items.add(key)
        queue.length += 1

    def _taken_before(self, queue: Queue, wanted: Taking) -> tuple[str, bytes] | None:
        """What this claim has already, whose answer was lost."""
        if wanted.claim is None:
            return None
        key = queue.taken.get(f"{wanted.session}.{wanted.claim}")
        entry = None if key is None else self._keys.entry(key)
        if key is None or entry is None:
            return None
        return _claim_and_place(key)[1], entry[0]

    def _hand_over(self, queue: Queue, wanted: Taking, origin: int) -> tuple[str, bytes]:
        """Let somebody have the first item, or the last."""
        key = queue.items.last() if wanted.last else queue.items.first()
        place = key.rpartition("/")[2]
        entry = self._keys.entry(key)
        assert entry is not None
        session = wanted.session
        if wanted.claim is not None:
            claim = f"{session}.{wanted.claim}"
            taken = f"{TAKEN_KEYS}{queue.name}/{claim}.{place}"
            self._keys.hold(taken, entry[0], session, origin)
            queue.taken[claim] = taken
        elif session:
            self._set_in_hand(queue, session, queue.in_hand.get(session, 0) + 1, origin)
        self._keys.let_go(key, origin, DELETED)
        return place, entry[0]

    def _finish_one(self, queue: Queue, origin: int) -> bool:
        """One item less is in hand: in that of who says so, else in anybody's, for whoever took an
        item may have passed it on. False: none is."""
        session = self._keys.sessions.get(origin, "")
        if session not in queue.in_hand:
            session = next(iter(queue.in_hand), "")
        if not session:
            return False
        self._set_in_hand(queue, session, queue.in_hand[session] - 1, origin)
        return True

    def _set_in_hand(self, queue: Queue, session: str, number: int, origin: int) -> None:
        key = f"{IN_HAND_KEYS}{queue.name}/{session}"
        if number:
            self._keys.hold(key, self._codec.encode(number), session, origin)
            queue.count_in_hand(session, number)
        else:
            self._keys.let_go(key, origin, DELETED)

    def _serve(self, queue: Queue) -> None:
        """Answer those whose waiting is over, at most GRANTS_PER_TURN; `due` says that there are
        more. Forget a queue of which nothing is left."""
        self.unsettled.pop(queue.name, None)
        for _ in range(GRANTS_PER_TURN):
            if queue.length and queue.takers:
                self._serve_taker(queue, _first(queue.takers))
            elif queue.putters and queue.length < _first(queue.putters).wanted.maxsize:
                self._serve_putter(queue, _first(queue.putters))
            elif queue.joiners and not queue.unfinished:
                self._waiting.answer(_first(queue.joiners), True)
            else:
                self.unsettled.pop(queue.name, None)
                if not queue.used:
                    self._forget(queue)
                return
        self.unsettled[queue.name] = None

    def _forget(self, queue: Queue) -> None:
        self._queues.pop(queue.name, None)
        self.unsettled.pop(queue.name, None)

    def _serve_taker(self, queue: Queue, taker: Waiter) -> None:
        result: Any = NOBODY
        if self._keys.is_of(taker.origin, taker.session):
            before = self._taken_before(queue, taker.wanted)
            result = before or self._hand_over(queue, taker.wanted, taker.origin)
        self._waiting.answer(taker, result)

    def _serve_putter(self, queue: Queue, putter: Waiter) -> None:
        result: Any = NOBODY
        if self._keys.is_of(putter.origin, putter.session):
            putting: Putting = putter.wanted
            place = self._next_place(putting.order)
            result = self._add(queue, putting.item, place, putter.origin)
        self._waiting.answer(putter, result)

    # --- the host of those who wait ---------------------------------------------------------

    def line(self, wanted: Putting | Taking | Joining) -> OrderedDict[int, Waiter]:
        """Those who wait for the same."""
        queue = self._queue(wanted.queue)
        if isinstance(wanted, Taking):
            return queue.takers
        return queue.putters if isinstance(wanted, Putting) else queue.joiners

    def came(self, waiter: Waiter, again: bool) -> None:
        """Somebody waits."""

    def went(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""
        queue = self._queues[waiter.wanted.queue]
        if queue.putters or not queue.used:
            self.unsettled[queue.name] = None


def _first(line: OrderedDict[int, Waiter]) -> Waiter:
    return next(iter(line.values()))


def _name(key: str, below: str) -> str:
    return key[len(below) :].rpartition("/")[0]


def _claim_and_place(key: str) -> tuple[str, str]:
    """`SESSION.CLAIM` and the place, of a key below TAKEN_KEYS."""
    claim, _, place = key.rpartition("/")[2].rpartition(".")
    return claim, place

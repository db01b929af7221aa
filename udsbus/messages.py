"""What travels between the parts of udsbus: commands, and what they cause.

One immutable class per message. They are named tuples: made in C, 0.17 µs for one of five fields
where a frozen slotted dataclass takes 0.61 µs, and every request makes one. Beware that two of
different classes with equal fields compare equal; nothing here relies on comparing them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

# --- commands: what a peer may ask; carried out by the engine -------------------------------


class Get(NamedTuple):
    key: str


class GetEntry(NamedTuple):
    key: str


class Exists(NamedTuple):
    key: str


class GetMany(NamedTuple):
    keys: list[str]


class Read(NamedTuple):
    """An entry, and by which word of the version page one sees whether it is still so."""

    key: str
    bare: bool = False
    """The value is not wanted."""


class ReadMany(NamedTuple):
    keys: list[str]


class Set(NamedTuple):
    key: str
    value: bytes
    ttl: float | None = None
    if_revision: int | None = None
    if_changed: bool = False
    ephemeral: bool = False
    """The key belongs to the session that writes it, and goes with it."""
    fence: int | None = None
    """Only while the lock with this token is held."""
    keep: bool = False
    """When the key expires, and whose it is, stays as it is."""


class SetMany(NamedTuple):
    values: dict[str, bytes]
    ttl: float | None = None


class Delete(NamedTuple):
    key: str
    if_revision: int | None = None
    fence: int | None = None


class Increment(NamedTuple):
    key: str
    by: int | float = 1


class Expire(NamedTuple):
    key: str
    ttl: float


class Persist(NamedTuple):
    key: str


class Ttl(NamedTuple):
    key: str


class Keys(NamedTuple):
    pattern: str
    after: str | None = None
    limit: int | None = None


class Items(NamedTuple):
    pattern: str
    after: str | None = None
    limit: int | None = None


class Count(NamedTuple):
    pattern: str
    after: str | None = None


class Transaction(NamedTuple):
    checks: list[tuple[str, int]]
    """(key, revision) pairs; revision 0 means that the key must not exist."""
    operations: list[Get | Set | Delete | Increment]
    fence: int | None = None


class SetSchema(NamedTuple):
    pattern: str
    schema: bytes | None
    """None: there shall be none any more."""


class Acquire(NamedTuple):
    lock: str
    claim: int
    """A number that the session gives to this attempt, and to no other."""
    owner: int
    """What in the session will hold it, a thread say; 0: not told."""
    shared: bool = False
    permits: int | None = None
    timeout: float | None = None
    """Seconds to wait; None: for as long as it takes."""
    unless_deadlock: bool = False
    linger: float = 0.0
    """Seconds that it stays taken when its session is kicked."""


class Release(NamedTuple):
    lock: str
    claim: int


class AddPermits(NamedTuple):
    lock: str
    permits: int
    more: int


class Waiting(NamedTuple):
    after_ticket: int = 0


class Put(NamedTuple):
    queue: str
    item: bytes
    order: bytes = b""
    """Where it goes: behind those whose order is less or the same."""
    maxsize: int = 0
    """Wait until there are fewer; 0: there is always room."""
    timeout: float | None = None
    """Seconds to wait; None: for as long as it takes."""
    place: str | None = None
    """To where it was when it was taken."""


class Take(NamedTuple):
    queue: str
    claim: int | None = None
    """The item comes back when the session ends before it is `Done`. A number that the session
    gives to this attempt, and to no other."""
    last: bool = False
    """The last one, and not the first."""
    timeout: float | None = None


class Done(NamedTuple):
    queue: str
    claim: int | None = None


class GiveBack(NamedTuple):
    queue: str
    claim: int


class Join(NamedTuple):
    queue: str
    timeout: float | None = None


class Queued(NamedTuple):
    queue: str


class Batch(NamedTuple):
    requests: list[Any]
    """[method, params] each, still to be checked one by one."""


class Watch(NamedTuple):
    pattern: str
    from_revision: int | None = None
    kinds: frozenset[str] | None = None
    """Only changes of these kinds; None: of all."""
    ignore_own: bool = False
    """Not what the session of this connection has changed itself."""
    previous: bool = False
    """Tell the values before, too."""


class Unwatch(NamedTuple):
    watch: int


class Subscribe(NamedTuple):
    patterns: list[str]
    echo: bool = True
    """Also to what this very client publishes."""
    details: bool = False
    """Messages come with the revision that retains them, and the session that published them: those
    that are retained, and without `echo` all."""
    policy: str = "drop_oldest"
    """What becomes of messages that are not taken in time: one of POLICIES."""


class Unsubscribe(NamedTuple):
    subscription: int


class Publish(NamedTuple):
    topic: str
    message: bytes
    retain: bool = False
    """Keep it as the last message of its topic."""
    wait: float | None = None
    """Seconds to wait for those who subscribe by `block` and are behind; None: not at all."""


class Unretain(NamedTuple):
    topic: str


class Hello(NamedTuple):
    version: int
    name: str | None = None
    session: str | None = None
    lane: int = 0
    unanswered: int = 1
    metadata: bytes | None = None
    heartbeat: float | None = None
    """Seconds between two signs of life, as the client wishes; None: there shall be none."""
    page: bool = False
    """The version page is wanted."""


class Pong(NamedTuple):
    """The answer to a `ping`."""

    revision: int


class Received(NamedTuple):
    up_to: int
    missing: list[int]


class Cancel(NamedTuple):
    msgid: int


class Goodbye(NamedTuple):
    pass


class Offer(NamedTuple):
    service: str
    worker: str
    about: bytes
    """What those who call it have to know, encoded."""


class Withdraw(NamedTuple):
    service: str
    worker: str


class Kick(NamedTuple):
    client: str
    """Its session."""


class Ping(NamedTuple):
    pass


class Info(NamedTuple):
    pass


TransactionOperation = Get | Set | Delete | Increment
EngineCommand = (
    Get | GetEntry | Exists | GetMany | Set | SetMany | Delete | Increment | Expire | Persist
    | Ttl | Keys | Items | Count | Transaction | SetSchema | Acquire | Release | AddPermits
    | Waiting | Put | Take | Done | GiveBack | Join | Queued | Watch | Unwatch | Subscribe
    | Unsubscribe | Publish | Unretain | Offer | Withdraw
)  # fmt: skip
Command = (
    EngineCommand | Batch | Hello | Received | Cancel | Pong | Goodbye | Kick | Ping | Info | Read
    | ReadMany
)  # fmt: skip
WRITES: Final = (
    Set, SetMany, Delete, Increment, Expire, Persist, Transaction, SetSchema, Acquire, Release,
    AddPermits, Put, Take, Done, GiveBack, Publish, Unretain, Offer, Withdraw, Kick,
)  # fmt: skip
"""Those that change what is kept; `Publish` does if it is to be retained."""


class Later(NamedTuple):
    """In the place of a result: it will come under this number."""

    ticket: int
    to_native: Callable[[Any], Any] | None = None
    """What the peer wants to be made of it; may raise an Error, which is then the answer."""


# --- effects: what carrying out commands has caused -----------------------------------------


class Change(NamedTuple):
    """One key has changed. The changes of a transaction share one revision."""

    revision: int
    kind: str
    key: str
    value: bytes | None
    """The new value; None when the key is gone."""
    deadline: float | None = None
    """When the key will expire, on the clock the engine is given."""
    origin: int = 0
    """The connection that asked for it; 0 for the broker itself."""
    before: bytes | None = None
    """The value that there was; None: the key was absent."""
    session: str | None = None
    """That of the connection, when it asked: known as long as the change is, while connections go
    and their numbers are given again by the next broker."""


class Recorded(NamedTuple):
    """What a journal holds of a change: the rest follows from what was before it, and from the
    connections that it names."""

    revision: int
    kind: str
    key: str
    value: bytes | None
    deadline: float | None = None
    origin: int = 0


class DeadlineMoved(NamedTuple):
    """`expire` or `persist`: to be journaled, but no change that a watcher is told of."""

    key: str
    deadline: float | None


class Owned(NamedTuple):
    """A key belongs to another session now, or to none: to be journaled, but no change that a
    watcher is told of. It comes after the change that made it so."""

    key: str
    session: str | None
    revision: int
    """Of that change."""


class Writer(NamedTuple):
    """Who asked for a change, as the history tells it. A `pid` of 0: not known."""

    pid: int
    uid: int
    name: str | None
    session: str | None = None
    lane: int = 0


class Answered(NamedTuple):
    """What was answered to a request that may have changed something."""

    origin: int
    """The connection that asked."""
    msgid: int
    response: bytes
    """The whole of it, as it was sent."""


class Message(NamedTuple):
    """A published message and the subscribers that it is for."""

    topic: str
    message: bytes
    subscribers: tuple[int, ...]
    detailed: tuple[int, ...] = ()
    """Others, who want to know the following too."""
    about: tuple[int | None, str | None] = (None, None)
    """The revision that retains it, if one does, and the session of who published it, if he has
    one."""
    waited: bool = False
    """It was not published before there was room for it where publishers shall wait."""


Effect = Change | DeadlineMoved | Owned | Message

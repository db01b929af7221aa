"""The table of methods: what a request may be called, what it takes and what it returns.

One row a method; the broker's dispatch, the client's method names, the check that
docs/protocol.md is complete and `udsbus info` all read this table. A request's `params` are the
positional arguments, then an optional map of options.

Values are MessagePack bytes inside a `bin`, which the broker does not look into. For clients of
other languages there is a way out: a value that is not `bin` is encoded by the broker, and the
option `native` makes a read return the object itself (and makes a write encode a `bin` too).
"""

from __future__ import annotations

from collections.abc import Callable
from reprlib import repr as short_repr
from typing import Any, NamedTuple

import msgpack

from .. import messages as m
from ..errors import InvalidRequest, LimitExceeded, UnsupportedValue
from ..limits import KEYS_PER_REQUEST, REQUESTS_PER_BATCH, VALUE_BYTES
from ..terms import KINDS, POLICIES

# --- kinds of arguments: each checks one and returns it as the command holds it ---------------


def _text(name: str, value: Any) -> Any:
    if type(value) is not str:
        raise InvalidRequest(f"{name} must be a string, not {_shown(value)}")
    return value


def _optional_text(name: str, value: Any) -> Any:
    return None if value is None else _text(name, value)


def _integer(name: str, value: Any) -> Any:
    if type(value) is not int or value < 0:
        raise InvalidRequest(f"{name} must be a whole number from 0, not {_shown(value)}")
    return value


def _positive(name: str, value: Any) -> Any:
    if not _integer(name, value):
        raise InvalidRequest(f"{name} must be a whole number from 1, not 0")
    return value


def _optional_integer(name: str, value: Any) -> Any:
    return None if value is None else _integer(name, value)


def _number(name: str, value: Any) -> Any:
    if type(value) is not int and type(value) is not float:
        raise InvalidRequest(f"{name} must be a number, not {_shown(value)}")
    return value


def _seconds(name: str, value: Any) -> Any:
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise InvalidRequest(f"{name} must be a number of seconds above 0, not {_shown(value)}")
    return float(value)


def _optional_seconds(name: str, value: Any) -> Any:
    return None if value is None else _seconds(name, value)


def _optional_wait(name: str, value: Any) -> Any:
    if value is None or (type(value) in (int, float) and 0 <= value < float("inf")):
        return value
    raise InvalidRequest(f"{name} must be a number of seconds from 0, not {_shown(value)}")


def _flag(name: str, value: Any) -> Any:
    if type(value) is not bool:
        raise InvalidRequest(f"{name} must be true or false, not {_shown(value)}")
    return value


def _value(name: str, value: Any) -> Any:
    return value if type(value) is bytes else msgpack.packb(value)


def _optional_value(name: str, value: Any) -> Any:
    return None if value is None else _value(name, value)


def _bytes(name: str, value: Any) -> Any:
    if type(value) is not bytes:
        raise InvalidRequest(f"{name} must be a bin, not {_shown(value)}")
    return value


def _texts(name: str, value: Any) -> Any:
    for item in _list(name, value):
        _text(f"each of {name}", item)
    return value


def _integers(name: str, value: Any) -> Any:
    for item in _list(name, value):
        _integer(f"each of {name}", item)
    return value


def _kinds(name: str, value: Any) -> Any:
    if value is None:
        return None
    known = ", ".join(KINDS)
    for kind in _list(name, value):
        if type(kind) is not str or kind not in KINDS:
            raise InvalidRequest(f"each of {name} must be one of {known}, not {_shown(kind)}")
    if not value:
        raise InvalidRequest(f"{name} must be at least one of {known}")
    kinds = frozenset(value)
    return None if len(kinds) == len(KINDS) else kinds


def _policy(name: str, value: Any) -> Any:
    if value not in POLICIES:
        raise InvalidRequest(f"{name} must be one of {', '.join(POLICIES)}, not {_shown(value)}")
    return value


def _values(name: str, value: Any) -> Any:
    if type(value) is not dict:
        raise InvalidRequest(f"{name} must be a map of key to value, not {_shown(value)}")
    _bounded(name, value)
    # msgpack interns the keys of a map, and the interpreter's table of interned strings would have
    # each of them for as long as it is kept: 32 bytes. A copy is not interned.
    return {
        (_text(f"each key of {name}", key) + " ")[:-1]: _value(name, item)
        for key, item in value.items()
    }


def _checks(name: str, value: Any) -> Any:
    checks = []
    for item in _list(name, value):
        if type(item) is not list or len(item) != 2:
            raise InvalidRequest(f"each of {name} must be [key, revision], not {_shown(item)}")
        checks.append((_text("key", item[0]), _integer("revision", item[1])))
    return checks


def _operations(name: str, value: Any) -> Any:
    operations: list[m.TransactionOperation] = []
    for item in _list(name, value):
        if type(item) is not list or not item or item[0] not in TRANSACTION_METHODS:
            allowed = ", ".join(TRANSACTION_METHODS)
            raise InvalidRequest(
                f"each of {name} must be [method, argument, …] with one of {allowed}, "
                f"not {_shown(item)}"
            )
        command, native = METHODS[item[0]].parse(item[1:])
        if native and isinstance(command, m.Get):
            raise InvalidRequest(
                "`native` for what is read goes with the transaction's own options"
            )
        operations.append(command)  # type: ignore[arg-type]
    return operations


def _requests(name: str, value: Any) -> list[Any]:
    if type(value) is not list:
        raise InvalidRequest(f"{name} must be an array, not {_shown(value)}")
    if len(value) > REQUESTS_PER_BATCH:
        raise LimitExceeded(
            f"{name} has {len(value)} items; the limit for one batch is {REQUESTS_PER_BATCH}",
            limit="requests_per_batch", maximum=REQUESTS_PER_BATCH, actual=len(value),
        )  # fmt: skip
    return value


def _list(name: str, value: Any) -> list[Any]:
    if type(value) is not list:
        raise InvalidRequest(f"{name} must be an array, not {_shown(value)}")
    _bounded(name, value)
    return value


def _bounded(name: str, value: list[Any] | dict[Any, Any]) -> None:
    if len(value) > KEYS_PER_REQUEST:
        raise LimitExceeded(
            f"{name} has {len(value)} items; the limit for one request is {KEYS_PER_REQUEST}",
            limit="keys_per_request", maximum=KEYS_PER_REQUEST, actual=len(value),
        )  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float | None):
        return short_repr(value)
    return type(value).__name__


# --- what `native` does to a result ---------------------------------------------------------


def _native(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return msgpack.unpackb(value, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds
        raise UnsupportedValue(
            f"the stored {len(value)} bytes are no MessagePack: {type(error).__name__}"
        ) from None


def _native_entry(entry: Any) -> Any:
    return None if entry is None else (_native(entry[0]), *entry[1:])


def _native_item(item: Any) -> Any:
    """It is out of its queue already, so it is given in any case: as it is, if it must be."""
    if item is None:
        return None
    place, packed = item
    try:
        value = _native(packed)
        fits = len(msgpack.packb(value)) <= VALUE_BYTES
    except Exception:  # msgpack raises many kinds
        fits = False
    return (place, value) if fits else item


def _native_list(values: list[bytes | None]) -> Any:
    return [_native(value) for value in values]


def _native_transaction(answer: Any) -> Any:
    revision, results = answer
    return revision, [_native(value) if type(value) is bytes else value for value in results]


def _native_items(page: Any) -> Any:
    items, after = page
    return [(key, _native(value), revision) for key, value, revision in items], after


# --- the table -------------------------------------------------------------------------------

Check = Callable[[str, Any], Any]


class Parameter(NamedTuple):
    name: str
    check: Check
    meaning: str


class Method(NamedTuple):
    """One row: how a request becomes a command."""

    name: str
    command: type[m.Command]
    summary: str
    result: str
    arguments: tuple[Parameter, ...] = ()
    options: tuple[Parameter, ...] = ()
    reads: bool = False
    """Changes nothing, so that a client may send it again after a lost connection."""
    to_native: Callable[[Any], Any] | None = None
    plain: int = 0
    """The fast path: if there are just so many `params`, the first of them a string and the second,
    if any, a `bin`, they are good as they stand. Below 0: so many, a string and then whole numbers
    from 0. 0: always parse."""

    def parse(self, params: list[Any]) -> tuple[m.Command, bool]:
        """The command that `params` describe, and whether its result is wanted `native`.

        Raises InvalidRequest or LimitExceeded.
        """
        arity = len(self.arguments)
        options: dict[Any, Any] = {}
        if type(params) is not list:
            raise InvalidRequest(f"{self.name}: params must be an array, not {_shown(params)}")
        if len(params) == arity + 1 and type(params[arity]) is dict:
            options = dict(params[arity])
        elif len(params) != arity:
            raise InvalidRequest(f"{self.name}: expected {self._usage()}; got {len(params)}")
        native = _flag("native", options.pop("native", False))
        fields: dict[str, Any] = {}
        for parameter, given in zip(self.arguments, params, strict=False):
            if native and parameter.check is _value:
                given = msgpack.packb(given)
            elif native and parameter.check is _values and type(given) is dict:
                given = {key: msgpack.packb(value) for key, value in given.items()}
            fields[parameter.name] = parameter.check(parameter.name, given)
        for option in self.options:
            if option.name in options:
                fields[option.name] = option.check(option.name, options.pop(option.name))
        if options:
            known = ", ".join(option.name for option in self.options) or "none"
            raise InvalidRequest(
                f"{self.name}: unknown option {_shown(next(iter(options)))} (known: {known})"
            )
        return self.command(**fields), native

    def _usage(self) -> str:
        names = ", ".join(parameter.name for parameter in self.arguments) or "none"
        return f"the arguments {names}, then an optional map of options"


_KEY = Parameter("key", _text, "key")
_VALUE = Parameter("value", _value, "encoded value")
_PATTERN = Parameter("pattern", _text, "pattern of keys")
_AFTER = Parameter("after", _optional_text, "go on after this key (from the last page)")
_LIMIT = Parameter("limit", _optional_integer, "keys a page, at most `page_keys`")
_FENCE = Parameter(
    "fence", _optional_integer, "only while the lock with this fencing token is held"
)
_LOCK = Parameter("lock", _text, "name of the lock")
_QUEUE = Parameter("queue", _text, "name of the queue")
_SERVICE = Parameter("service", _text, "name of the service")
_WORKER = Parameter("worker", _text, "name of the worker")
_WAIT = Parameter("timeout", _optional_wait, "seconds to wait at most; 0: not at all")
_CLAIM = Parameter("claim", _integer, "a number that this session gives to no other attempt")
_IF_REVISION = Parameter(
    "if_revision", _optional_integer, "only if the key is at this revision; 0: only if absent"
)
_TTL = Parameter("ttl", _optional_seconds, "seconds until the key expires")

_ROWS = (
    Method(
        "hello", m.Hello,
        "Introduce a client; optional. Refused when the broker does not speak this version.",
        "map: `version`, `broker` (its release), `bus` (which state this is), `epoch` (which of "
        "its brokers), `pid`, `revision`, `limits`, `heartbeat` (seconds; nil: there is none); "
        "`page` if that was asked for (map: `life`, `words`, `records`; nil: there is none)",
        (Parameter("version", _integer, "protocol version"),),
        (
            Parameter("name", _optional_text, "what to call this client"),
            Parameter("session", _optional_text, "which client this is, over all its connections"),
            Parameter("lane", _integer, "which of its sequences of requests goes on here"),
            Parameter(
                "unanswered", _positive, "how many requests may be on their way, and be sent again"
            ),
            Parameter("metadata", _optional_value, "what to tell the others of this client"),
            Parameter(
                "heartbeat", _optional_seconds,
                "how often either side says that it lives, while something is followed",
            ),
            Parameter("page", _flag, "hand over the version page"),
        ),
        reads=True,
    ),
    Method(
        "received", m.Received,
        "Say which answers have come, so that the broker need not keep them for its lane.",
        "bool: this connection has a lane",
        (
            Parameter("up_to", _integer, "the answers to all requests up to this msgid"),
            Parameter("missing", _integers, "but not to these"),
        ),
        reads=True,
    ),
    Method(
        "cancel", m.Cancel,
        "Do not wait any longer: a request of this connection that waits is answered now, as if "
        "its time were over.",
        "bool: it did wait",
        (Parameter("msgid", _integer, "that of the request"),), reads=True,
    ),
    Method(
        "pong", m.Pong, "Say that this client lives: the answer to a `ping`, as a notification.",
        "nil", (Parameter("revision", _integer, "that of the `ping`"),), reads=True,
    ),
    Method(
        "goodbye", m.Goodbye,
        "End this session now: what belongs to it goes, and its other connections end.",
        "bool: there was one", reads=True,
    ),
    Method(
        "offer", m.Offer,
        "Say that a worker serves, until it is withdrawn or this session ends. Whoever calls the "
        "service finds it by the keys below `$sys/services/` and `$sys/workers/`.",
        "the revision",
        (
            _SERVICE, _WORKER,
            Parameter("about", _value, "what those who call it have to know: see Calls"),
        ),
    ),
    Method(
        "withdraw", m.Withdraw, "Say that it serves no longer.", "bool: it did",
        (_SERVICE, _WORKER),
    ),
    Method(
        "kick", m.Kick, "End another client's session.", "bool: there was one",
        (Parameter("client", _text, "the name of its session"),),
    ),
    Method("ping", m.Ping, "Ask whether the broker is there.", "the bus's revision", reads=True),
    Method(
        "info", m.Info, "What the broker is and does.",
        "map: pid, version, address, uptime, revision, connections, counters, limits",
        reads=True,
    ),
    Method(
        "get", m.Get, "The value of a key.", "the value, nil if absent", (_KEY,),
        reads=True, to_native=_native, plain=1,
    ),
    Method(
        "entry", m.GetEntry, "The value of a key with what is known of it.",
        "[value, revision, seconds left or nil], nil if absent", (_KEY,),
        reads=True, to_native=_native_entry, plain=1,
    ),
    Method(
        "exists", m.Exists, "Whether a key is there.", "bool", (_KEY,), reads=True, plain=1,
    ),
    Method(
        "get_many", m.GetMany, "The values of several keys at one revision.",
        "array of values in the order of `keys`, nil for an absent one",
        (Parameter("keys", _texts, "array of keys"),), reads=True, to_native=_native_list,
    ),
    Method(
        "read", m.Read,
        "The value of a key, and which word of the version page says what for as long as it is so.",
        "[word, number] if absent; [word, number, value, revision]; with a time to live [word, "
        "number, value, revision, seconds left]",
        (_KEY,), (Parameter("bare", _flag, "without the value: nil in its place"),),
        reads=True, plain=1,
    ),
    Method(
        "read_many", m.ReadMany, "The same of several keys, at one revision.",
        "array of what `read` gives, in the order of `keys`",
        (Parameter("keys", _texts, "array of keys"),), reads=True,
    ),
    Method(
        "set", m.Set, "Write a key.", "the revision that holds the value", (_KEY, _VALUE),
        (
            _TTL, _IF_REVISION,
            Parameter("if_changed", _flag, "write and tell nothing if the bytes are the same"),
            Parameter("ephemeral", _flag, "the key goes when the session that writes it ends"),
            _FENCE,
            Parameter("keep", _flag, "when it expires and whose it is stays, if the key is there"),
        ),
        plain=2,
    ),
    Method(
        "set_many", m.SetMany, "Write several keys at one revision.", "the revision",
        (Parameter("values", _values, "map of key to encoded value"),), (_TTL,),
    ),
    Method(
        "delete", m.Delete, "Remove a key.", "bool: it was there", (_KEY,), (_IF_REVISION, _FENCE),
        plain=1,
    ),
    Method(
        "increment", m.Increment, "Add to a number; an absent key counts as 0. Keeps the TTL.",
        "the new number", (_KEY,), (Parameter("by", _number, "what to add, 1 by default"),),
        plain=1,
    ),
    Method(
        "expire", m.Expire, "Give a key a time to live. Not a change: no revision, no event.",
        "bool: the key is there",
        (_KEY, Parameter("ttl", _seconds, "seconds from now")),
    ),
    Method("persist", m.Persist, "Take a key's time to live away.", "bool: it had one", (_KEY,)),
    Method("ttl", m.Ttl, "The time a key has left.", "seconds, nil if it has no end or is absent",
           (_KEY,), reads=True),
    Method(
        "keys", m.Keys, "The keys that match, in order, a page at a time.",
        "[array of keys, the `after` of the next page or nil]", (_PATTERN,), (_AFTER, _LIMIT),
        reads=True,
    ),
    Method(
        "items", m.Items, "The entries that match, in order of keys, a page at a time.",
        "[array of [key, value, revision], the `after` of the next page or nil]",
        (_PATTERN,), (_AFTER, _LIMIT), reads=True, to_native=_native_items,
    ),
    Method(
        "count", m.Count, "How many keys match, counted a page at a time.",
        "[number in this page, the `after` of the next page or nil]", (_PATTERN,), (_AFTER,),
        reads=True,
    ),
    Method(
        "transaction", m.Transaction, "Check, read and write atomically, at one revision.",
        "[revision, array of each operation's result]",
        (
            Parameter("checks", _checks, "array of [key, revision]; revision 0: absent"),
            Parameter("operations", _operations, "array of [method, argument, …, options]"),
        ),
        (_FENCE,),
        to_native=_native_transaction,
    ),
    Method(
        "set_schema", m.SetSchema,
        "From now on refuse to write what does not match, whoever writes.",
        "the revision that holds the schema",
        (
            Parameter("pattern", _text, "pattern of the keys whose values are checked"),
            Parameter("schema", _optional_value, "encoded JSON Schema; nil: none any more"),
        ),
    ),
    Method(
        "acquire", m.Acquire,
        "Hold a lock. Answered when it is granted, or not to be waited for any longer.",
        "the fencing token; nil: not granted",
        (_LOCK, _CLAIM, Parameter("owner", _integer, "what holds it, a thread say; 0: not told")),
        (
            Parameter("shared", _flag, "besides others who share it"),
            Parameter("permits", _integer, "by so many at once at most: a semaphore"),
            _WAIT,
            Parameter("unless_deadlock", _flag, "be refused rather than wait in a circle"),
            Parameter("linger", _seconds, "so long it stays taken when this session is kicked"),
        ),
        plain=-3,
    ),
    Method(
        "release", m.Release, "Hold a lock no longer, or do not wait for it any longer.",
        "bool: this claim held it or waited for it", (_LOCK, _CLAIM), plain=-2,
    ),
    Method(
        "add_permits", m.AddPermits, "Let more hold a semaphore at once from now on.",
        "the revision",
        (
            _LOCK,
            Parameter("permits", _integer, "how many it has without those added"),
            Parameter("more", _positive, "how many to add"),
        ),
    ),
    Method(
        "waiting", m.Waiting, "Who waits for a lock, who came first first, a page at a time.",
        "[array of [ticket, lock, session, owner, shared, seconds], the `after_ticket` of the next "
        "page or nil]",
        (), (Parameter("after_ticket", _integer, "go on after this one (from the last page)"),),
        reads=True,
    ),
    Method(
        "put", m.Put, "Put an item into a queue. Answered when there is room for it.",
        "the revision; nil: there was none in time",
        (_QUEUE, Parameter("item", _value, "encoded item")),
        (
            Parameter("order", _bytes, "before all items of a higher order, bytes compared"),
            Parameter("maxsize", _integer, "wait while there are so many items; 0: never wait"),
            _WAIT,
            Parameter("place", _text, "where it was when it was taken without a claim"),
        ),
        plain=2,
    ),
    Method(
        "take", m.Take, "Take the first item of a queue. Answered when there is one.",
        "[place, item]; nil: there was none in time", (_QUEUE,),
        (
            Parameter(
                "claim", _integer,
                "it comes back when the session ends before `done`; a number that this session "
                "gives to no other attempt",
            ),
            Parameter("last", _flag, "the last item, not the first"),
            _WAIT,
        ),
        to_native=_native_item, plain=1,
    ),
    Method(
        "done", m.Done, "What was taken is done.",
        "bool: something was taken, by that claim or without one", (_QUEUE,),
        (Parameter("claim", _integer, "by which it was taken; else one without"),),
        plain=1,
    ),
    Method(
        "give_back", m.GiveBack, "Put an item back where it was.",
        "bool: something was taken by that claim", (_QUEUE, _CLAIM), plain=-2,
    ),
    Method(
        "join", m.Join, "Answered when every item that was put into a queue is done.",
        "true; nil: they were not in time", (_QUEUE,), (_WAIT,), reads=True, plain=1,
    ),
    Method(
        "queue", m.Queued, "What is in a queue, and who waits.",
        "map: `items`, `unfinished` (those and what is taken and not done), `taken` (by claims), "
        "`takers` and `putters` who wait",
        (_QUEUE,), reads=True, plain=1,
    ),
    Method(
        "batch", m.Batch,
        "Carry out requests of one key each, one after the other, as if each had come alone.",
        "[array of results, map of index to [error, details] of those refused]; both end early "
        "after a read, when the values are more than `page_bytes` or it takes long",
        (Parameter("requests", _requests, "array of [method, params]"),),
    ),
    Method(
        "watch", m.Watch, "Be told of every change of the keys that match.",
        "[watch, revision, changes since `from_revision` (nil: they are no longer known)]",
        (_PATTERN,),
        (
            Parameter("from_revision", _optional_integer, "last revision seen"),
            Parameter("kinds", _kinds, "array of kinds: only changes of these"),
            Parameter("ignore_own", _flag, "of what this session has changed only deletions"),
            Parameter("previous", _flag, "tell the values before, too"),
        ),
        reads=True,
    ),
    Method("unwatch", m.Unwatch, "End a watch.", "bool: it was there",
           (Parameter("watch", _integer, "what `watch` returned"),), reads=True),
    Method(
        "subscribe", m.Subscribe, "Receive the messages published to the topics that match.",
        "subscription; with `details`: [subscription, revision, how many messages are retained]",
        (Parameter("patterns", _texts, "array of patterns of topics"),),
        (
            Parameter("echo", _flag, "also what this very client publishes, as usual"),
            Parameter(
                "details", _flag,
                "tell more of messages that are retained, and of all without `echo`",
            ),
            Parameter(
                "policy", _policy,
                "when this connection is behind: `drop_oldest` (usual), `disconnect` or `block`",
            ),
        ),
        reads=True,
    ),
    Method("unsubscribe", m.Unsubscribe, "End a subscription.", "bool: it was there",
           (Parameter("subscription", _integer, "what `subscribe` returned"),), reads=True),
    Method(
        "publish", m.Publish, "Send a message to whoever subscribes now.",
        "number of connections that it was sent to",
        (Parameter("topic", _text, "topic"), Parameter("message", _value, "encoded message")),
        (
            Parameter("retain", _flag, "keep it as the last of its topic, for who comes later"),
            Parameter(
                "wait", _optional_wait,
                "seconds to wait for subscribers of the policy `block` that are behind",
            ),
        ),
        plain=2,
    ),
    Method(
        "unretain", m.Unretain, "Keep the last message of a topic no longer.",
        "bool: there was one", (Parameter("topic", _text, "topic"),), plain=1,
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
ANSWERS_KEPT = frozenset(row.name for row in _ROWS if not row.reads)
"""The requests that must not be carried out again when they are sent again."""
BATCHED = frozenset(
    ("get", "entry", "exists", "set", "delete", "increment", "expire", "persist", "ttl", "publish")
)
"""What a `batch` may hold: requests of one key, none of which takes long."""
TRANSACTION_METHODS = ("get", "set", "delete", "increment")

NOTIFICATIONS: dict[str, tuple[str, str]] = {
    "change": (
        "A key that this connection watches has changed.",
        "[revision, kind, key, value or nil]",
    ),
    "changes": (
        "Several keys that this connection watches have changed at one revision.",
        "[revision, array of [kind, key, value or nil]]",
    ),
    "message": (
        "A message for a subscription of this connection.",
        "[topic, message]; with `details` [topic, message, revision or nil, session or nil]",
    ),
    "ping": (
        "The broker lives, and all changes up to this revision have been told.",
        "[revision]",
    ),
    "behind": (
        "This connection does not take what it is told as quickly as it comes, so it is told less.",
        "[revision, changes left out, messages dropped]",
    ),
    "in_step": (
        "This connection is behind no longer: it has been told everything up to this revision.",
        "[revision]",
    ),
    "closing": (
        "The broker is about to end the connection, and why.",
        "[reason, message]",
    ),
}
"""What the broker sends unasked: name → (meaning, params)."""

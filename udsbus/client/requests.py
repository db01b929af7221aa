"""Each request of a client described once: what to send and how to read the answer. Pure.

The sync and the async client present these as methods; neither knows more about a request than
the `Call` it gets from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import (
    ERRORS,
    BrokerUnavailable,
    Error,
    InvalidRequest,
    LimitExceeded,
    ProtocolError,
    RequestTimeout,
)
from ..limits import FRAME_BYTES
from ..terms import DROP_OLDEST
from ..version import PROTOCOL_VERSION
from ..wire.values import decode, encode

T = TypeVar("T")

AHEAD = 2
"""Frames of a pipeline on their way at once, so that the broker need not wait for the next."""


class Call(NamedTuple, Generic[T]):
    """One request: its method, its params, and what its result means."""

    method: str
    params: tuple[Any, ...]
    read: Callable[[Any], T]

    @property
    def fleeting(self) -> bool:
        """Whether it leaves no trace at a broker that comes after the one which carried it out."""
        return self.method == "publish" and not any(
            type(option) is dict and option.get("retain") for option in self.params[2:]
        )

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when nobody knows if it was carried out."""
        from ..wire.methods import METHODS  # seldom needed, and as large as all the rest here

        return METHODS[self.method].reads


_call: Any = tuple.__new__
"""Makes a `Call` in half the time, for the two methods that are called most."""


class Attempt:
    """A request that has to be carried out once, and whose answer may have to be asked for by
    somebody else: what that takes."""

    __slots__ = ("connection", "msgid")

    def __init__(self) -> None:
        self.connection: Any = None
        """Over which it was sent last."""
        self.msgid = 0
        """0: it was not sent."""


class Many:
    """The requests of a pipeline, and how far they are: what another connection needs to go on."""

    def __init__(
        self,
        requests: list[bytes],
        together: int,
        ahead: int,
        results: list[Any],
        refusals: dict[int, Any],
    ) -> None:
        """`requests` are packed [method, params]; up to `together` of them travel in one frame, and
        up to `ahead` frames are on their way at once. Fills in `results`, and `refusals` by index:
        [error, details]."""
        self.requests = requests
        self.together = together
        self.ahead = ahead
        self.results = results
        self.refusals = refusals
        self.begun = 0
        """Requests that are sent, or will be next."""
        self.frames: deque[tuple[int, int, int]] = deque()
        """Of each frame on its way: its msgid, and the part that it holds of `requests`."""


class Entry(NamedTuple):
    """A value with what the broker knows of it."""

    value: Any
    revision: int
    """The revision that wrote it, for `if_revision`."""
    ttl: float | None
    """Seconds until it expires, as of the answer; None: it does not."""


class ClientInfo(NamedTuple):
    """A client of a bus, as the others see it."""

    session: str
    """By which the broker knows it, whatever its name."""
    name: str | None
    """What it calls itself."""
    pid: int
    """0: the system does not say."""
    uid: int
    gid: int
    since: float
    """When it came, in seconds since 1970."""
    metadata: Any
    """What it tells of itself."""

    @classmethod
    def read(cls, session: str, about: dict[str, Any]) -> ClientInfo:
        return cls(session, *(about[field] for field in cls._fields[1:]))


def error_from(error: Any, details: Any) -> Error:
    """The exception for an error response."""
    number, message = error
    raised = ERRORS.get(number, Error)(message)
    if isinstance(details, dict):
        raised.details.update({key: value for key, value in details.items() if key != "error"})
    return raised


def read_batch(error: Any, answer: Any, results: list[Any], refusals: dict[int, Any]) -> None:
    """Append what a response to `batch` holds."""
    if error is not None:
        raise error_from(error, answer)
    try:
        some_results, some_refusals = answer
        refused = {len(results) + index: refusal for index, refusal in some_refusals.items()}
        results += some_results
        refusals |= refused
    except (TypeError, ValueError, AttributeError):
        raise ProtocolError("the answer to a batch has another form") from None


def is_refusal(error: BaseException) -> bool:
    """Whether this says that a request was not carried out. After others nobody knows."""
    uncertain = BrokerUnavailable, RequestTimeout, ProtocolError
    return isinstance(error, Error) and not isinstance(error, uncertain)


def cannot_be_sent(method: str, error: Exception) -> InvalidRequest:
    """For an argument that is no value but must travel: a key that is no text, say."""
    return InvalidRequest(f"{method}: an argument cannot be sent: {error}")


def check_frame(method: str, size: int) -> None:
    """Raise LimitExceeded if a request of so many bytes is more than the broker takes."""
    if size > FRAME_BYTES:
        raise LimitExceeded(
            f"{method}: a request of {size} bytes; the limit is {FRAME_BYTES}",
            limit="frame_bytes", maximum=FRAME_BYTES, actual=size,
        )  # fmt: skip


def check_timeout(timeout: float) -> None:
    """Raise InvalidRequest unless a request may take so many seconds."""
    if type(timeout) not in (int, float) or not timeout > 0:
        raise InvalidRequest(f"timeout must be a number of seconds above 0, not {timeout!r}")


def as_is(result: Any) -> Any:
    """Reads an answer that is the result itself."""
    return result


def _options(**options: Any) -> tuple[dict[str, Any], ...]:
    """The map of the options that are given, or nothing at all."""
    given = {name: value for name, value in options.items() if value is not None}
    return (given,) if given else ()


def _check_seconds(ttl: float | None) -> None:
    if ttl is not None and type(ttl) not in (int, float):
        raise InvalidRequest(f"ttl must be a number of seconds, not {ttl!r}")


# --- values ----------------------------------------------------------------------------------


def get(key: str, default: Any = None) -> Call[Any]:
    call: Call[Any] = _call(
        Call, ("get", (key,), lambda value: default if value is None else decode(value))
    )
    return call


def entry(key: str, read: Callable[[bytes], Any] = decode) -> Call[Entry | None]:
    """`read` makes the value of what was sent."""

    def read_entry(result: Any) -> Entry | None:
        return None if result is None else Entry(read(result[0]), result[1], result[2])

    return Call("entry", (key,), read_entry)


def exists(key: str) -> Call[bool]:
    return Call("exists", (key,), as_is)


def check_keys(keys: Iterable[str]) -> list[str]:
    """They as a list. Raises InvalidRequest for what is no list of keys."""
    if not isinstance(keys, Iterable) or isinstance(keys, str):
        raise InvalidRequest(f"keys must be a list of keys, not {type(keys).__name__}")
    return list(keys)


def get_many(wanted: list[str]) -> Call[dict[str, Any]]:
    return Call(
        "get_many",
        (wanted,),
        lambda values: {
            key: decode(value)
            for key, value in zip(wanted, values, strict=True)
            if value is not None
        },
    )


def set(  # noqa: A001  (named like the method that it describes)
    key: str,
    value: Any,
    ttl: float | None = None,
    if_revision: int | None = None,
    if_changed: bool = False,
    ephemeral: bool = False,
    fence: int | None = None,
    keep: bool = False,
) -> Call[int]:
    if (
        ttl is None
        and if_revision is None
        and not if_changed
        and not ephemeral
        and fence is None
        and not keep
    ):
        call: Call[int] = _call(Call, ("set", (key, encode(value)), as_is))
        return call
    _check_seconds(ttl)
    options = _options(
        ttl=ttl,
        if_revision=if_revision,
        if_changed=if_changed or None,
        ephemeral=ephemeral or None,
        fence=fence,
        keep=keep or None,
    )
    return Call("set", (key, encode(value), *options), as_is)


def set_many(values: Mapping[str, Any], ttl: float | None = None) -> Call[int]:
    if not isinstance(values, Mapping):
        raise InvalidRequest(f"values must be a dict, not {type(values).__name__}")
    _check_seconds(ttl)
    encoded = {key: encode(value) for key, value in values.items()}
    return Call("set_many", (encoded, *_options(ttl=ttl)), as_is)


def delete(key: str, if_revision: int | None = None, fence: int | None = None) -> Call[bool]:
    return Call("delete", (key, *_options(if_revision=if_revision, fence=fence)), as_is)


def increment(key: str, by: int | float = 1) -> Call[Any]:
    if type(by) not in (int, float):
        raise InvalidRequest(f"by must be an int or a float, not {by!r}")
    return Call("increment", (key,) if by == 1 and type(by) is int else (key, {"by": by}), as_is)


def expire(key: str, ttl: float) -> Call[bool]:
    _check_seconds(ttl)
    return Call("expire", (key, ttl), as_is)


def persist(key: str) -> Call[bool]:
    return Call("persist", (key,), as_is)


def ttl(key: str) -> Call[float | None]:
    return Call("ttl", (key,), as_is)


# --- pages -----------------------------------------------------------------------------------


class Page(NamedTuple, Generic[T]):
    items: T
    after: Any
    """Where the next page begins; None: this was the last."""


def keys_page(pattern: str, after: str | None = None) -> Call[Page[list[str]]]:
    return Call("keys", (pattern, *_options(after=after)), lambda page: Page(*page))


def items_page(pattern: str, after: str | None = None) -> Call[Page[list[tuple[str, Any]]]]:
    return Call("items", (pattern, *_options(after=after)), _read_items)


def _read_items(page: Any) -> Page[list[tuple[str, Any]]]:
    return Page([(key, decode(value)) for key, value, _ in page[0]], page[1])


def raw_items_page(pattern: str, after: str | None, limit: int | None = None) -> Call[Any]:
    """A page of (key, encoded value, revision), at most `limit` of them."""
    return Call("items", (pattern, *_options(after=after, limit=limit)), as_is)


def count_page(pattern: str, after: str | None = None) -> Call[Page[int]]:
    return Call("count", (pattern, *_options(after=after)), lambda page: Page(*page))


# --- transactions ----------------------------------------------------------------------------


def transaction(
    checks: list[tuple[str, int]], operations: list[Call[Any]], fence: int | None = None
) -> Call[Any]:
    """(revision, result of each operation, still to be read by that)."""
    params = [[operation.method, *operation.params] for operation in operations]
    return Call("transaction", (checks, params, *_options(fence=fence)), as_is)


# --- locks -----------------------------------------------------------------------------------


class Claim(NamedTuple):
    """An attempt to get a lock."""

    lock: str
    number: int
    owner: int
    """The thread or task that it is for."""
    shared: bool = False
    permits: int | None = None
    unless_deadlock: bool = False
    linger: float = 0.0


class Held(NamedTuple):
    """An attempt that was granted."""

    claim: Claim
    token: int


def acquire(claim: Claim, timeout: float | None) -> Call[int | None]:
    """The fencing token, or None when it is not granted within `timeout` seconds."""
    lock, number, owner, shared, permits, unless_deadlock, linger = claim
    options: tuple[dict[str, Any], ...] = ()
    if timeout is not None or shared or unless_deadlock or linger:
        options = _options(
            timeout=timeout,
            shared=shared or None,
            permits=permits,
            unless_deadlock=unless_deadlock or None,
            linger=linger or None,
        )
    return Call("acquire", (lock, number, owner, *options), as_is)


def release(claim: Claim) -> Call[bool]:
    return Call("release", (claim.lock, claim.number), as_is)


def add_permits(lock: str, permits: int, more: int) -> Call[int]:
    return Call("add_permits", (lock, permits, more), as_is)


def waiting_page(after: Any = None) -> Call[Page[list[Any]]]:
    return Call("waiting", _options(after_ticket=after), lambda page: Page(*page))


# --- queues ----------------------------------------------------------------------------------


def put(
    queue: str,
    item: bytes,
    order: bytes = b"",
    maxsize: int = 0,
    timeout: float | None = None,
    place: str | None = None,
) -> Call[int | None]:
    """`item` is encoded. The revision, or None when there is no room within `timeout` seconds."""
    options: tuple[dict[str, Any], ...] = ()
    if order or maxsize or place is not None:
        options = _options(
            order=order or None, maxsize=maxsize or None, timeout=timeout, place=place
        )
    return Call("put", (queue, item, *options), as_is)


def take(
    queue: str, timeout: float | None, last: bool = False, claim: int | None = None
) -> Call[list[Any] | None]:
    """[place, item], still encoded, or None when there is none within `timeout` seconds."""
    options: tuple[dict[str, Any], ...] = ()
    if timeout is not None or last or claim is not None:
        options = _options(timeout=timeout, last=last or None, claim=claim)
    return Call("take", (queue, *options), as_is)


def done(queue: str, claim: int | None = None) -> Call[bool]:
    return Call("done", (queue, *_options(claim=claim)), as_is)


def give_back(queue: str, claim: int) -> Call[bool]:
    return Call("give_back", (queue, claim), as_is)


def join(queue: str, timeout: float | None) -> Call[bool | None]:
    return Call("join", (queue, *_options(timeout=timeout)), as_is)


def queue(name: str) -> Call[dict[str, int]]:
    return Call("queue", (name,), as_is)


# --- rules -----------------------------------------------------------------------------------


def set_schema(pattern: str, schema: Mapping[str, Any] | bool | None) -> Call[int]:
    return Call("set_schema", (pattern, None if schema is None else encode(schema)), as_is)


# --- changes and messages --------------------------------------------------------------------


def watch(
    pattern: str,
    from_revision: int | None,
    kinds: Iterable[str] | None = None,
    ignore_own: bool = False,
    previous: bool = False,
) -> Call[Any]:
    options = _options(
        from_revision=from_revision,
        kinds=None if kinds is None else sorted(kinds),
        ignore_own=ignore_own or None,
        previous=previous or None,
    )
    return Call("watch", (pattern, *options), as_is)


def unwatch(number: int) -> Call[bool]:
    return Call("unwatch", (number,), as_is)


def subscribe(patterns: Iterable[str], policy: str = DROP_OLDEST, echo: bool = True) -> Call[Any]:
    """[number, revision, how many messages are retained]"""
    options = _options(
        policy=None if policy == DROP_OLDEST else policy,
        echo=None if echo else False,
        details=True,
    )
    return Call("subscribe", (list(patterns), *options), as_is)


def unsubscribe(number: int) -> Call[bool]:
    return Call("unsubscribe", (number,), as_is)


def publish(topic: str, message: Any, wait: float | None = None, retain: bool = False) -> Call[int]:
    options: tuple[dict[str, Any], ...] = ()
    if retain or wait is not None:
        options = _options(wait=wait, retain=retain or None)
    return Call("publish", (topic, encode(message), *options), as_is)


def check_wait(wait: float) -> None:
    """Raise InvalidRequest unless a publisher can wait so many seconds."""
    if type(wait) not in (int, float) or not wait >= 0:
        raise InvalidRequest(f"wait must be a number of seconds from 0, not {wait!r}")


def unretain(topic: str) -> Call[bool]:
    return Call("unretain", (topic,), as_is)


# --- the broker ------------------------------------------------------------------------------


def hello(
    name: str | None,
    session: str | None = None,
    lane: int | None = None,
    metadata: bytes | None = None,
    unanswered: int = AHEAD,
    heartbeat: float | None = None,
    page: bool = False,
) -> Call[dict[str, Any]]:
    options = _options(
        name=name,
        session=session,
        lane=lane,
        unanswered=None if session is None else unanswered,
        metadata=metadata,
        heartbeat=heartbeat,
        page=page or None,
    )
    return Call("hello", (PROTOCOL_VERSION, *options), as_is)


def received(up_to: int, missing: list[int]) -> Call[bool]:
    return Call("received", (up_to, missing), as_is)


def cancel(msgid: int) -> Call[bool]:
    return Call("cancel", (msgid,), as_is)


def offer(service: str, worker: str, about: Any) -> Call[int]:
    return Call("offer", (service, worker, encode(about)), as_is)


def withdraw(service: str, worker: str) -> Call[bool]:
    return Call("withdraw", (service, worker), as_is)


def pong(revision: int) -> Call[None]:
    return Call("pong", (revision,), as_is)


def goodbye() -> Call[bool]:
    return Call("goodbye", (), as_is)


def kick(session: str) -> Call[bool]:
    return Call("kick", (session,), as_is)


def ping() -> Call[int]:
    return Call("ping", (), as_is)


def info() -> Call[dict[str, Any]]:
    return Call("info", (), as_is)

# Made from udsbus/client/aio/batches.py by tools/twins.py. Change that one.
"""Several requests at once: transactions (all or nothing) and pipelines (one after the other)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import msgpack

from ..wire.values import encode
from . import requests
from .requests import AHEAD, Call, Many, as_is, cannot_be_sent, check_frame, error_from
from .results import Answers, Result

TOGETHER = 256
"""Requests of a pipeline that travel in one frame: some hundred microseconds for the broker."""
LARGE = 64 * 1024
"""A pipeline with a request of more bytes than this sends each in a frame of its own."""

T = TypeVar("T")


class Transaction:
    """Checks, reads and writes that happen together or not at all.

        with client.transaction() as t:
            t.check("stock/apples", entry.revision)
            t.set("stock/apples", 3)
            orders = t.increment("orders")
        print(t.revision, orders.value)

    It is sent when the with block ends; a block left by an exception sends nothing. Raises
    Conflict if a check fails. Later operations see what earlier ones have written. A value read
    that is no value raises UnsupportedValue at the end; the writes are done nevertheless.
    """

    def __init__(
        self,
        send: Callable[[Call[Any]], Any],
        stay: Callable[[], None],
        fence: int | None = None,
    ) -> None:
        self.revision: int | None = None
        """The revision of its writes, once carried out."""
        self._send = send
        self._stay = stay
        self._fence = fence
        self._checks: list[tuple[str, int]] = []
        self._answers = Answers()
        self._calls: list[Call[Any]] = []

    def check(self, key: str, revision: int) -> None:
        """The transaction fails unless `key` is at `revision`; 0: unless it is absent."""
        self._answers.check_open()
        self._checks.append((key, revision))

    def get(self, key: str, default: Any = None) -> Result[Any]:
        return self._add(requests.get(key, default))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        if_revision: int | None = None,
        if_changed: bool = False,
        ephemeral: bool = False,
    ) -> Result[int]:
        if ephemeral:
            self._stay()
        return self._add(requests.set(key, value, ttl, if_revision, if_changed, ephemeral))

    def delete(self, key: str, *, if_revision: int | None = None) -> Result[bool]:
        return self._add(requests.delete(key, if_revision))

    def increment(self, key: str, by: int | float = 1) -> Result[Any]:
        return self._add(requests.increment(key, by))

    def _add(self, call: Call[T]) -> Result[T]:
        self._answers.check_open()
        number = len(self._calls)
        self._calls.append(call)
        if call.read is not as_is:
            self._answers.readers.append((number, call.read))
        return Result(self._answers, number)

    def __enter__(self) -> Transaction:
        self._answers.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._answers.end()
        if kind is None:
            try:
                call = requests.transaction(self._checks, self._calls, self._fence)
                self.revision, values = self._send(call)
            except BaseException as failure:
                self._answers.fail(failure)
                raise
            self._answers.read(values)
            unreadable = self._answers.first_error()
            if unreadable is not None:
                raise unreadable


class Pipeline:
    """Requests sent together and carried out one after the other; each may fail by itself.

        with client.pipeline() as p:
            for key, value in rows:
                p.set(key, value)

    They are sent when the with block ends; a block left by an exception sends nothing. If some
    fail, the others are carried out all the same, and the first error is raised at the end; each
    result's `value` raises its own. When the broker is lost in the midst of it, those that it has
    answered have their values. Far faster than single requests, but not atomic: see
    `Transaction`, and `set_many` for many writes at one revision.
    """

    def __init__(self, send: Callable[[Many], None], stay: Callable[[], None]) -> None:
        self._send = send
        self._stay = stay
        self._pack = msgpack.Packer(autoreset=True).pack
        self._requests: list[bytes] = []
        """Packed [method, params]."""
        self._together = TOGETHER
        self._ahead = AHEAD
        """But one with requests that read values: a frame of them ends where the values fill a
        response, and the rest comes next."""
        self._answers = Answers()

    def get(self, key: str, default: Any = None) -> Result[Any]:
        self._ahead = 1
        return self._add(requests.get(key, default))

    def entry(self, key: str) -> Result[requests.Entry | None]:
        self._ahead = 1
        return self._add(requests.entry(key))

    def exists(self, key: str) -> Result[bool]:
        return self._add(requests.exists(key))

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        if_revision: int | None = None,
        if_changed: bool = False,
        ephemeral: bool = False,
        fence: int | None = None,
    ) -> Result[int]:
        plain = ttl is None and if_revision is None and fence is None
        if plain and not if_changed and not ephemeral:
            # The short way, for what is done most.
            return self._append("set", (key, encode(value)), as_is)
        if ephemeral:
            self._stay()
        return self._add(requests.set(key, value, ttl, if_revision, if_changed, ephemeral, fence))

    def delete(
        self, key: str, *, if_revision: int | None = None, fence: int | None = None
    ) -> Result[bool]:
        return self._add(requests.delete(key, if_revision, fence))

    def increment(self, key: str, by: int | float = 1) -> Result[Any]:
        return self._add(requests.increment(key, by))

    def expire(self, key: str, ttl: float) -> Result[bool]:
        return self._add(requests.expire(key, ttl))

    def persist(self, key: str) -> Result[bool]:
        return self._add(requests.persist(key))

    def ttl(self, key: str) -> Result[float | None]:
        return self._add(requests.ttl(key))

    def publish(self, topic: str, message: Any, *, retain: bool = False) -> Result[int]:
        return self._add(requests.publish(topic, message, retain=retain))

    def _add(self, call: Call[T]) -> Result[T]:
        return self._append(call.method, call.params, call.read)

    def _append(self, method: str, params: Any, read: Callable[[Any], T]) -> Result[T]:
        answers = self._answers
        if not answers.open:
            answers.check_open()
        try:
            packed = self._pack((method, params))
        except (ValueError, TypeError, OverflowError) as error:
            raise cannot_be_sent(method, error) from None
        if len(packed) > LARGE:
            self._together = 1
            check_frame(method, len(packed))
        number = len(self._requests)
        self._requests.append(packed)
        if read is not as_is:
            answers.readers.append((number, read))
        return Result(answers, number)

    def __enter__(self) -> Pipeline:
        self._answers.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        answers = self._answers
        answers.end()
        if kind is not None or not self._requests:
            return
        values: list[Any] = []
        refusals: dict[int, Any] = {}
        try:
            self._send(Many(self._requests, self._together, self._ahead, values, refusals))
        except BaseException as failure:
            answers.fail(failure)
            raise
        finally:  # what has been answered is known, even if the rest is not
            answers.errors = {number: error_from(*refusal) for number, refusal in refusals.items()}
            answers.read(values)
        first = answers.first_error()
        if first is not None:
            number = min(answers.errors) + 1
            first.add_note(f"request {number} of {len(values)} in the pipeline")
            raise first

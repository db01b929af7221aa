"""Several requests at once: transactions (all or nothing) and pipelines (one after the other)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import Error, InvalidRequest
from . import requests
from .requests import Call, error_from

T = TypeVar("T")


class Result(Generic[T]):
    """What a request in a transaction or pipeline has returned, once that is carried out."""

    __slots__ = ("_call", "_error", "_value")

    def __init__(self, call: Call[T]) -> None:
        self._call: Call[T] | None = call
        self._error: Error | None = None
        self._value: T | None = None

    @property
    def value(self) -> T:
        """Raises what the broker answered to this request; InvalidRequest before the end."""
        if self._error is not None:
            raise self._error
        if self._call is not None:
            raise InvalidRequest("the result is there when the with block has ended")
        return self._value  # type: ignore[return-value]

    def _read(self, answer: Any) -> Error | None:
        """Take the broker's answer. Returns the error if it cannot be read."""
        assert self._call is not None
        try:
            self._value = self._call.read(answer)
        except Error as unreadable:
            self._error = unreadable
        self._call = None
        return self._error

    def _refuse(self, error: Error) -> Error:
        self._error, self._call = error, None
        return error

    def __repr__(self) -> str:
        if self._call is not None:
            return "<Result: not there yet>"
        return f"<Result: {self._error!r}>" if self._error else f"<Result: {self._value!r}>"


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

    def __init__(self, send: Callable[[Call[Any]], Any]) -> None:
        self.revision: int | None = None
        """The revision of its writes, once carried out."""
        self._send = send
        self._checks: list[tuple[str, int]] = []
        self._results: list[Result[Any]] = []
        self._calls: list[Call[Any]] = []

    def check(self, key: str, revision: int) -> None:
        """The transaction fails unless `key` is at `revision`; 0: unless it is absent."""
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
    ) -> Result[int]:
        return self._add(requests.set(key, value, ttl, if_revision, if_changed))

    def delete(self, key: str, *, if_revision: int | None = None) -> Result[bool]:
        return self._add(requests.delete(key, if_revision))

    def increment(self, key: str, by: int | float = 1) -> Result[Any]:
        return self._add(requests.increment(key, by))

    def _add(self, call: Call[T]) -> Result[T]:
        result = Result(call)
        self._calls.append(call)
        self._results.append(result)
        return result

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            call = requests.transaction(self._checks, self._calls)
            self.revision, values = self._send(call)
            unreadable = [
                error
                for result, value in zip(self._results, values, strict=True)
                if (error := result._read(value)) is not None
            ]
            if unreadable:
                raise unreadable[0]


class Pipeline:
    """Requests sent together and carried out one after the other; each may fail by itself.

        with client.pipeline() as p:
            for key, value in rows:
                p.set(key, value)

    They are sent when the with block ends; a block left by an exception sends nothing. If some
    fail, the others are carried out all the same, and the first error is raised at the end; each
    result's `value` raises its own. Far faster than single requests, but not atomic: see
    `Transaction`, and `set_many` for many writes at one revision.
    """

    def __init__(self, send: Callable[[list[Call[Any]]], list[Any]]) -> None:
        self._send = send
        self._calls: list[Call[Any]] = []
        self._results: list[Result[Any]] = []

    def get(self, key: str, default: Any = None) -> Result[Any]:
        return self._add(requests.get(key, default))

    def entry(self, key: str) -> Result[requests.Entry | None]:
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
    ) -> Result[int]:
        return self._add(requests.set(key, value, ttl, if_revision, if_changed))

    def delete(self, key: str, *, if_revision: int | None = None) -> Result[bool]:
        return self._add(requests.delete(key, if_revision))

    def increment(self, key: str, by: int | float = 1) -> Result[Any]:
        return self._add(requests.increment(key, by))

    def expire(self, key: str, ttl: float) -> Result[bool]:
        return self._add(requests.expire(key, ttl))

    def persist(self, key: str) -> Result[bool]:
        return self._add(requests.persist(key))

    def ttl(self, key: str) -> Result[float | None]:
        return self._add(requests.ttl(key))

    def publish(self, topic: str, message: Any) -> Result[int]:
        return self._add(requests.publish(topic, message))

    def _add(self, call: Call[T]) -> Result[T]:
        result = Result(call)
        self._calls.append(call)
        self._results.append(result)
        return result

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None or not self._calls:
            return
        first: Error | None = None
        responses = self._send(self._calls)
        pairs = zip(self._results, responses, strict=True)
        for number, (result, (_, _, refusal, value)) in enumerate(pairs, 1):
            if refusal is None:
                failed = result._read(value)
            else:
                failed = result._refuse(error_from(refusal, value))
            if failed is not None and first is None:
                failed.add_note(f"request {number} of {len(self._calls)} in the pipeline")
                first = failed
        if first is not None:
            raise first

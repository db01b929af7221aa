"""Objects that hold the newest value of a key: what both clients' `bind` have in common. Pure."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import (
    Any,
    Generic,
    NotRequired,
    Required,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from ..errors import Conflict, Error, InvalidRequest, MissingExtra, SchemaViolation
from ..terms import GONE
from ..wire.values import Undecodable
from .followed import Change
from .requests import Entry

log = logging.getLogger("udsbus.client")

T = TypeVar("T")
Heard = TypeVar("Heard", bound=Callable[[Any], object])

MISSING: Any = object()


class Binding(Generic[T]):
    """Always the newest value of a key that is good. Take `value` once for each task, so that a
    task has the same from its beginning to its end.

    A value that is not what it should be is not taken: `value` stays what it was, `error` says
    why, and so does the log. So too when the key goes, unless there is a default.
    """

    def __init__(self, key: str, into: Any, default: T) -> None:
        self.key = key
        self.error: Error | None = None
        """Why the newest value was not taken; None: it was."""
        self.revision = 0
        """That of the key of which `value` is; 0: it is the default."""
        self._convert = converter(into)
        self._default = default
        self._seen = -1
        self._functions: list[Callable[[T], object]] = []
        self._value = default
        self._lock = threading.RLock()
        self._read_last = False
        """What was taken last was asked for, and is not from the watch, whose order is right."""

    @property
    def value(self) -> T:
        return self._value

    def on_change(self, function: Heard) -> Heard:
        """Call a function with each new value that is good, when `value` is it already; a
        decorator."""
        if not callable(function):
            raise InvalidRequest(f"on_change calls a function, not {type(function).__name__}")
        self._functions.append(function)
        return function

    def begin(self, entry: Entry | None, revision: int) -> None:
        """Take what is there at the beginning. Raises SchemaViolation for a value that is not what
        it should be, Conflict for a key that is not there, unless there is a default."""
        with self._lock:
            if self._seen < (revision if entry is None else entry.revision):
                self._read_last = True
                if entry is None:
                    self._take(revision, MISSING)
                else:
                    self._take(entry.revision, entry.value)
            # else a change has come already
        if self.error is not None and self._value is MISSING:
            raise self.error

    def changed(self, change: Change, started_over: int) -> bool:
        """Take a change; the watch has `started_over` so often, perhaps in another bus, in which
        revisions are lower. True: `value` is another."""
        revision, gone = change.revision, change.kind in GONE
        with self._lock:
            if revision == self._seen and not gone:
                return False
            if self._read_last and revision <= self._seen and not started_over:
                return False
            self._read_last = False
            return self._take(revision, MISSING if gone else change.value)

    def _take(self, revision: int, value: Any) -> bool:
        self._seen = revision
        if value is MISSING:
            if self._default is MISSING:
                self.error = Conflict(f"there is no {self.key!r} now, and it has no default")
                return False
            self._value, self.revision, self.error = self._default, 0, None
            return True
        if type(value) is Undecodable:
            self._refuse(revision, value.reason)
            return False
        try:
            good = self._convert(value)
        except Exception as error:  # `into` may run any code
            self._refuse(revision, reason_of(error))
            return False
        self._value, self.revision, self.error = good, revision, None
        return True

    def _refuse(self, revision: int, reason: str) -> None:
        self.error = SchemaViolation(
            f"{self.key!r} at revision {revision} is not what is bound to it: {reason}",
            key=self.key, reason=reason,
        )  # fmt: skip
        if self._value is not MISSING:
            log.error("%s; what it was before stays", self.error)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.key!r} at {self.revision}: {self._value!r}>"


def converter(into: Any) -> Callable[[Any], Any]:
    """What makes an `into` of a value, or raises a ValueError that says what is wrong with it; or
    whatever the code of `into` raises.

    Raises MissingExtra, and InvalidRequest for what nothing can be made into.
    """
    if into is None:
        return lambda value: value
    if isinstance(into, str):
        raise InvalidRequest(f"into is a type, as a dataclass or a pydantic model, not {into!r}")
    try:
        from pydantic import TypeAdapter, ValidationError
        from pydantic.errors import PydanticUserError
    except ImportError:
        raise MissingExtra(
            "bind(…, into=…) makes its objects with pydantic: pip install 'udsbus[bind]'"
        ) from None
    try:
        adapter = TypeAdapter(_known_to_pydantic(into))
    except PydanticUserError as error:
        raise InvalidRequest(f"nothing can be bound into {into!r}: {error}") from None

    def convert(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError("; ".join(_told(one) for one in error.errors())) from None

    return convert


def reason_of(error: Exception) -> str:
    """Why a value was not taken, as an exception says it."""
    try:
        text = str(error)
    except Exception:  # of the user's own class
        text = ""
    if isinstance(error, ValueError) and text:
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _known_to_pydantic(into: Any) -> Any:
    """Before Python 3.12 it takes only a TypedDict of typing_extensions, which it brings along."""
    if sys.version_info >= (3, 12) or not is_typeddict(into):
        return into
    import typing_extensions

    fields = {}
    for name, hint in get_type_hints(into, include_extras=True).items():
        required = name in into.__required_keys__
        if get_origin(hint) in (Required, NotRequired):  # unknown until now, if it was a text
            required = get_origin(hint) is Required
            (hint,) = get_args(hint)
        fields[name] = hint if required else NotRequired[hint]
    return typing_extensions.TypedDict(into.__name__, fields)  # type: ignore[operator]


def _told(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    return f"{where}: {error['msg']}" if where else str(error["msg"])

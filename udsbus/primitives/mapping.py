"""The dict that processes share: a view on the keys of the bus below its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ..client import requests
from ..client.requests import Call, Page
from ..errors import Conflict, UnsupportedValue
from ..patterns import check_pattern, check_writable
from ..wire.values import decode
from . import nested as nested  # without it, containers in a value would not be views
from .keys import is_plain, key_of, name_of
from .shared import ABSENT, DictLike, View, plain, view_of

if TYPE_CHECKING:
    from ..client.following import Watch
    from ..client.sync import Client

T = TypeVar("T")

CLEARED_AT_ONCE = 50_000
"""Keys whose names, however long, go into one request."""


class Mapping(DictLike):
    """The keys of the bus below `NAME/`, as a dict. `keys.py` tells which key is which.

    What a dict does in one step is one step here, whoever else does what meanwhile. A dict, list or
    set in it is shared too: reading gives a view, and what is changed through that is changed for
    all (`SharedDict`, `SharedList`, `SharedSet`).
    """

    __slots__ = ("_below", "_client", "name", "pattern")

    def __init__(self, client: Client, name: str) -> None:
        """Raises InvalidRequest or AccessDenied for a name that no key could begin with."""
        check_writable(name, "name")
        self.name = name
        self.pattern = f"{name}/*/**"
        """The pattern of its keys on the bus."""
        check_pattern(self.pattern)
        self._client = client
        self._below = f"{name}/"

    def bus_key(self, key: Any) -> str:
        """The key of the bus that holds the value of `key`, for `client.expire` and the like.

        Raises TypeError for what is not hashable or cannot be sent.
        """
        if type(key) is str and is_plain(key):
            return self._below + key
        return self._below + name_of(key)

    def key_of(self, bus_key: str) -> Any:
        """The key in this dict of a key of the bus, of a `Change` say. Raises KeyError if it is not
        below NAME."""
        if not bus_key.startswith(self._below):
            raise KeyError(bus_key)
        return key_of(bus_key[len(self._below) :])

    # --- one key ----------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        at = self.bus_key(key)
        value = self._client.get(at, ABSENT)
        if value is ABSENT:
            raise KeyError(key)
        return view_of(self._client, at, value)

    def get(self, key: Any, default: Any = None) -> Any:
        at = self.bus_key(key)
        value = self._client.get(at, ABSENT)
        return default if value is ABSENT else view_of(self._client, at, value)

    def __contains__(self, key: object) -> bool:
        return self._client.exists(self.bus_key(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        at = self.bus_key(key)
        try:
            self._client.set(at, value)
            return
        except UnsupportedValue:
            pass  # because of a view, perhaps
        if not (isinstance(value, View) and value.stays(self._client, at)):
            self._client.set(at, plain(value))

    def __delitem__(self, key: Any) -> None:
        if not self._client.delete(self.bus_key(key)):
            raise KeyError(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        at = self.bus_key(key)
        while True:
            value = self._client.get(at, ABSENT)
            if value is not ABSENT:
                return view_of(self._client, at, value)
            value = plain(default)
            with contextlib.suppress(Conflict):
                self._client.set(at, value, if_revision=0)
                return view_of(self._client, at, value)

    def pop(self, key: Any, default: Any = ABSENT) -> Any:
        """Remove it and return its value, plain."""
        at = self.bus_key(key)
        with self._client.transaction() as transaction:
            value = transaction.get(at, ABSENT)
            transaction.delete(at)
        if value.value is not ABSENT:
            return value.value
        if default is ABSENT:
            raise KeyError(key)
        return default

    def increment(self, key: Any, by: int | float = 1) -> int | float:
        """Add `by` to a number and return the sum, see `Client.increment`. 0 if it is absent."""
        return self._client.increment(self.bus_key(key), by)

    def change(self, key: Any, function: Callable[[Any], T], default: Any = None) -> T:
        """Replace the value by `function` of it, plain, see `Client.update`; of `default` if it is
        absent. Returns the new value."""

        def changed(value: Any) -> Any:
            # A new one each time, in case that the function changes it.
            return plain(function(plain(default) if value is ABSENT else value))

        return self._client.update(self.bus_key(key), changed, ABSENT)  # type: ignore[no-any-return]

    # --- all of them ------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._client.count(self.pattern)

    def __bool__(self) -> bool:
        return self._first() is not None

    def __iter__(self) -> Iterator[Any]:
        below = len(self._below)
        for at in self._pages(requests.keys_page):
            yield key_of(at[below:])

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        below = len(self._below)
        for at, value in self._pages(requests.items_page):
            yield key_of(at[below:]), view_of(self._client, at, value)

    def _pages(self, page: Callable[[str, Any], Call[Page[list[T]]]]) -> Iterator[T]:
        after = None
        while True:
            found, after = self._client._call(page(self.pattern, after))
            yield from found
            if after is None:
                return

    def copy(self) -> dict[Any, Any]:
        """A plain dict. It is read in pages, so what others change meanwhile may be in it in
        part."""
        below = len(self._below)
        return {key_of(at[below:]): value for at, value in self._client.items(self.pattern)}

    def _put(self, values: dict[Any, Any]) -> None:
        named = {self.bus_key(key): value for key, value in values.items()}
        try:
            self._client.set_many(named)
            return
        except UnsupportedValue:
            pass  # because of a view, perhaps
        self._client.set_many(plain(named))

    def popitem(self) -> tuple[Any, Any]:
        """Remove the first and return it, its value plain. Raises KeyError if there is none."""
        while (first := self._first()) is not None:
            at, data, revision = first
            value = decode(data)
            with contextlib.suppress(Conflict):
                self._client.delete(at, if_revision=revision)
                return self.key_of(at), value
        raise KeyError("popitem(): dictionary is empty")

    def _first(self) -> tuple[str, bytes, int] | None:
        """The first key of the bus, its encoded value and its revision."""
        after: str | None = None
        while True:
            page = requests.raw_items_page(self.pattern, after, limit=1)
            found, after = self._client._call(page)
            if found:
                return found[0]  # type: ignore[no-any-return]
            if after is None:
                return None

    def clear(self) -> None:
        """Delete what is there: at one revision, unless it is more than 50,000 keys. Keys that come
        meanwhile may stay."""
        keys = self._client.keys(self.pattern)
        for begin in range(0, len(keys), CLEARED_AT_ONCE):
            with self._client.transaction() as transaction:
                for key in keys[begin : begin + CLEARED_AT_ONCE]:
                    transaction.delete(key)

    def watch(self, **options: Any) -> Watch[Any]:
        """Follow its changes, see `Client.watch`. Their keys are those of the bus: see `key_of`."""
        return self._client.watch(self.pattern, **options)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping) and other._is(self):
            return True
        return super().__eq__(other)

    def _is(self, other: Mapping) -> bool:
        return self.name == other.name and self._client.address == other._client.address

    __hash__ = None

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.Mapping {self.name!r} on {self._client.address}>"

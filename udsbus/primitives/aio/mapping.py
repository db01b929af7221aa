"""The dict that processes share, for the async client: its methods are awaited.

Python's syntax for dicts cannot be: in the place of `m[key]` stand `get` and `set`, and in that of
views of what is nested `change`, which is one step as well.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ...client import requests
from ...errors import Conflict
from ...patterns import check_pattern, check_writable
from ...wire.values import decode
from ..keys import key_of, name_of
from ..shared import ABSENT, plain, plain_dict

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient
    from ...client.aio.following import AsyncWatch

T = TypeVar("T")

CLEARED_AT_ONCE = 50_000
"""Keys whose names, however long, go into one request."""


class AsyncMapping:
    """The keys of the bus below `NAME/`: the same as `Client.mapping` shows as a dict.

    Each method is one step, whoever else does what meanwhile. Values are plain: what is changed in
    one that was read is changed for nobody else, see `change`.
    """

    def __init__(self, client: AsyncClient, name: str) -> None:
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
        return self._below + name_of(key)

    def key_of(self, bus_key: str) -> Any:
        """The key in this dict of a key of the bus, of a `Change` say. Raises KeyError if it is not
        below NAME."""
        if not bus_key.startswith(self._below):
            raise KeyError(bus_key)
        return key_of(bus_key[len(self._below) :])

    # --- one key ----------------------------------------------------------------------------

    async def get(self, key: Any, default: Any = None) -> Any:
        return await self._client.get(self.bus_key(key), default)

    async def set(self, key: Any, value: Any) -> None:
        await self._client.set(self.bus_key(key), plain(value))

    async def has(self, key: Any) -> bool:
        return await self._client.exists(self.bus_key(key))

    async def delete(self, key: Any) -> None:
        """Raises KeyError if it is not there."""
        if not await self._client.delete(self.bus_key(key)):
            raise KeyError(key)

    async def setdefault(self, key: Any, default: Any = None) -> Any:
        at = self.bus_key(key)
        while True:
            value = await self._client.get(at, ABSENT)
            if value is not ABSENT:
                return value
            with contextlib.suppress(Conflict):
                await self._client.set(at, plain(default), if_revision=0)
                return default

    async def pop(self, key: Any, default: Any = ABSENT) -> Any:
        """Remove it and return its value. Raises KeyError if it is not there and there is no
        `default`."""
        at = self.bus_key(key)
        async with self._client.transaction() as transaction:
            value = transaction.get(at, ABSENT)
            transaction.delete(at)
        if value.value is not ABSENT:
            return value.value
        if default is ABSENT:
            raise KeyError(key)
        return default

    async def increment(self, key: Any, by: int | float = 1) -> int | float:
        """Add `by` to a number and return the sum, see `Client.increment`. 0 if it is absent."""
        return await self._client.increment(self.bus_key(key), by)

    async def change(self, key: Any, function: Callable[[Any], T], default: Any = None) -> T:
        """Replace the value by `function` of it, see `Client.update`; of `default` if it is
        absent. Returns the new value."""

        def changed(value: Any) -> Any:
            # A new one each time, in case that the function changes it.
            return plain(function(plain(default) if value is ABSENT else value))

        return await self._client.update(self.bus_key(key), changed, ABSENT)

    # --- all of them ------------------------------------------------------------------------

    async def size(self) -> int:
        """How many there are."""
        return await self._client.count(self.pattern)

    async def keys(self) -> list[Any]:
        below = len(self._below)
        return [key_of(at[below:]) for at in await self._client.keys(self.pattern)]

    async def values(self) -> list[Any]:
        return [value for _, value in await self._client.items(self.pattern)]

    async def items(self) -> list[tuple[Any, Any]]:
        below = len(self._below)
        return [(key_of(at[below:]), value) for at, value in await self._client.items(self.pattern)]

    async def copy(self) -> dict[Any, Any]:
        """A plain dict. It is read in pages, so what others change meanwhile may be in it in
        part."""
        return dict(await self.items())

    def __aiter__(self) -> AsyncIterator[Any]:
        """The keys; fetched in pages."""
        return _Keys(self, self._client)

    async def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all of that at once: nobody sees a part of it."""
        values = plain_dict(other) | more
        if values:
            named = {self.bus_key(key): plain(value) for key, value in values.items()}
            await self._client.set_many(named)

    async def popitem(self) -> tuple[Any, Any]:
        """Remove the first and return it. Raises KeyError if there is none."""
        after: str | None = None
        while True:
            page = requests.raw_items_page(self.pattern, after, limit=1)
            found, after = await self._client._call(page)
            if found:
                at, data, revision = found[0]
                value = decode(data)
                with contextlib.suppress(Conflict):
                    await self._client.delete(at, if_revision=revision)
                    return self.key_of(at), value
                after = None
            elif after is None:
                raise KeyError("popitem(): dictionary is empty")

    async def clear(self) -> None:
        """Delete what is there: at one revision, unless it is more than 50,000 keys. Keys that come
        meanwhile may stay."""
        keys = await self._client.keys(self.pattern)
        for begin in range(0, len(keys), CLEARED_AT_ONCE):
            async with self._client.transaction() as transaction:
                for key in keys[begin : begin + CLEARED_AT_ONCE]:
                    transaction.delete(key)

    def watch(self, **options: Any) -> AsyncWatch[Any]:
        """Follow its changes, see `Client.watch`. Their keys are those of the bus: see `key_of`."""
        return self._client.watch(self.pattern, **options)

    def __repr__(self) -> str:
        return f"<udsbus.AsyncMapping {self.name!r} on {self._client.address}>"


class _Keys:
    """One key after the other. Not a generator, which whoever leaves the loop would have to close;
    trio warns of it."""

    def __init__(self, of: AsyncMapping, client: AsyncClient) -> None:
        self._of = of
        self._client = client
        self._found = deque[str]()
        self._after: str | None = None
        self._was_last = False

    def __aiter__(self) -> _Keys:
        return self

    async def __anext__(self) -> Any:
        while not self._found:
            if self._was_last:
                raise StopAsyncIteration
            page = await self._client._call(requests.keys_page(self._of.pattern, self._after))
            self._found += page.items
            self._after = page.after
            self._was_last = page.after is None
        return self._of.key_of(self._found.popleft())

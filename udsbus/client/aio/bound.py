"""What `AsyncClient.bind` returns."""

from __future__ import annotations

import logging
from collections.abc import Generator
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar

from ...wire.values import decode_if_possible
from .. import requests
from ..binding import Binding
from ..followed import Change

if TYPE_CHECKING:
    from typing import Self

    from .base import AsyncBase
    from .following import AsyncWatch

log = logging.getLogger("udsbus.client")

T = TypeVar("T")


class AsyncBound(Binding[T]):
    """A `Binding` of an async client. Its functions, async or not, are called in a task of it."""

    def __init__(self, client: AsyncBase, key: str, into: Any, default: T) -> None:
        super().__init__(key, into, default)
        self._client = client
        self._watch: AsyncWatch | None = None

    async def start(self) -> Self:
        """Take what is there. `async with` does that, and awaiting this."""
        if self._watch is not None:
            return self
        self._watch = self._client._call_for(self.key, self._told, True, decode_if_possible)
        try:
            await self._watch
            revision = await self._client.revision()
            entry = await self._client._call(requests.entry(self.key, decode_if_possible))
            self.begin(entry, revision)
        except BaseException:
            self._watch.close()
            raise
        return self

    def close(self) -> None:
        """Follow the key no longer; `value` stays."""
        if self._watch is not None:
            self._watch.close()

    async def _told(self, change: Change) -> None:
        started_over = 0 if self._watch is None else self._watch.started_over
        if self.changed(change, started_over):
            value = self._value
            for function in self._functions:
                try:
                    result = function(value)
                    if isawaitable(result):
                        await result
                except Exception:
                    log.exception("%r failed, which is called when %r changes", function, self.key)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        self.close()

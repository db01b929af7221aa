"""A number that processes count on together, for the async client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InvalidRequest

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient


class AsyncCounter:
    """The number in the key `counters/NAME`; 0 if it is not there.

    `await counter.increment()` is one step: none of two that do it at once is lost. There is no
    `counter += 1`, which could not be awaited.
    """

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.name = name
        self.key = f"counters/{name}"
        self._client = client

    @property
    async def value(self) -> int | float:
        """The number now. Raises InvalidRequest if the key holds none."""
        value = await self._client.get(self.key, 0)
        if type(value) not in (int, float):
            raise InvalidRequest(f"{self.key!r} does not hold a number")
        return value  # type: ignore[no-any-return]

    async def increment(self, by: int | float = 1) -> int | float:
        """Add `by` and return the sum."""
        return await self._client.increment(self.key, by)

    async def decrement(self, by: int | float = 1) -> int | float:
        """Subtract `by` and return the difference."""
        if type(by) not in (int, float):
            raise InvalidRequest(f"by must be an int or a float, not {by!r}")
        return await self._client.increment(self.key, -by)

    async def reset(self, value: int | float = 0) -> None:
        """Let it be `value`, whatever it was."""
        if type(value) not in (int, float):
            raise InvalidRequest(f"value must be an int or a float, not {value!r}")
        await self._client.set(self.key, value)

    def __repr__(self) -> str:
        return f"<udsbus.AsyncCounter {self.name!r} on {self._client.address}>"

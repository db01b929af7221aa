"""A number that processes count on together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from ..client.sync import Client


class Counter:
    """The number in the key `counters/NAME`; 0 if it is not there.

    `counter += 1` is one step: none of two that do it at once is lost. The object is the same
    afterwards, so what it counts is what all count.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.key = f"counters/{name}"
        self._client = client

    @property
    def value(self) -> int | float:
        """The number now. Raises InvalidRequest if the key holds none."""
        value = self._client.get(self.key, 0)
        if type(value) not in (int, float):
            raise InvalidRequest(f"{self.key!r} does not hold a number")
        return value  # type: ignore[no-any-return]

    def increment(self, by: int | float = 1) -> int | float:
        """Add `by` and return the sum."""
        return self._client.increment(self.key, by)

    def decrement(self, by: int | float = 1) -> int | float:
        """Subtract `by` and return the difference."""
        if type(by) not in (int, float):
            raise InvalidRequest(f"by must be an int or a float, not {by!r}")
        return self._client.increment(self.key, -by)

    def reset(self, value: int | float = 0) -> None:
        """Let it be `value`, whatever it was."""
        if type(value) not in (int, float):
            raise InvalidRequest(f"value must be an int or a float, not {value!r}")
        self._client.set(self.key, value)

    def __iadd__(self, by: int | float) -> Counter:
        self.increment(by)
        return self

    def __isub__(self, by: int | float) -> Counter:
        self.decrement(by)
        return self

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.Counter {self.name!r} on {self._client.address}>"

"""How a function of the user's is called, async or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

T = TypeVar("T")

Function = Callable[[], Awaitable[T]] | Callable[[], T]


async def called(function: Function[T]) -> T:
    """What it returns; of an async one, in the end."""
    result: Any = function()
    value: T = await result if isawaitable(result) else result
    return value

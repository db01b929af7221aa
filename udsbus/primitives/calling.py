"""How a function of the user's is called; the async primitives call async ones too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

Function = Callable[[], T]


def called(function: Function[T]) -> T:
    """What it returns."""
    return function()

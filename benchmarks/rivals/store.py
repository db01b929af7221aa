"""What a measure is given of each client library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Store(NamedTuple):
    """The library's own functions, so that nothing of ours stands between it and the clock."""

    set: Callable[[Any, bytes], Any]
    get: Callable[[Any], Any]
    key: Callable[[str], Any] = str
    """Makes of a key what the library takes for one."""
    value: Callable[[Any], bytes] = bytes
    """The value in what `get` returns."""

"""What `Client.bind` returns."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from ..wire.values import decode_if_possible
from . import requests
from .binding import Binding
from .followed import Change
from .following import Watch

if TYPE_CHECKING:
    from typing import Self

    from .base import Base

log = logging.getLogger("udsbus.client")

T = TypeVar("T")


class Bound(Binding[T]):
    """A `Binding` of a sync client. Its functions are called like those of `Client.on_change`."""

    _watch: Watch | None = None
    """None: it has just begun, and a change comes already."""

    def __init__(self, client: Base, key: str, into: Any, default: T) -> None:
        super().__init__(key, into, default)
        self._watch = client._watch(key, None, True, function=self._told, read=decode_if_possible)
        try:
            revision = client.revision()
            self.begin(client._call(requests.entry(key, decode_if_possible)), revision)
        except BaseException:
            self._watch.close()
            raise

    def close(self) -> None:
        """Follow the key no longer; `value` stays."""
        if self._watch is not None:
            self._watch.close()

    def _told(self, change: Change) -> None:
        started_over = 0 if self._watch is None else self._watch.started_over
        if self.changed(change, started_over):
            value = self._value
            for function in self._functions:
                try:
                    function(value)
                except Exception:
                    log.exception("%r failed, which is called when %r changes", function, self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

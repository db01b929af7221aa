"""One connection for the one or two requests of a command.

`udsbus.Client` is for programs that live on: threads, watches, callbacks, brokers started on
demand. Importing that takes longer than `import msgpack, click` and hundreds of requests, so here
the same `Call`s go over the same `Connection` without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ..client import requests
from ..client.connecting import open_socket
from ..client.connection import Connection, ConnectionEnded
from ..client.requests import Call, Page
from ..errors import BrokerUnavailable
from . import options

T = TypeVar("T")


class Asker:
    """Asks one broker, one thing after the other. Raises like `udsbus.Client`, but does not
    reconnect: a person or a script is there to try again."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._connection = Connection(open_socket(address, timeout))
        self.ask(requests.hello("udsbus command"))

    def ask(self, call: Call[T]) -> T:
        try:
            return call.read(self._connection.request(call, self._timeout))
        except ConnectionEnded as ended:
            doubt = "" if call.repeatable else "; nobody knows whether it was carried out"
            raise BrokerUnavailable(
                f"the broker at {self.address} is gone before it answered ({ended}){doubt}"
            ) from None

    def pages(self, page_after: Callable[[str | None], Call[Page[T]]]) -> Iterator[T]:
        """What each page of a listing holds, page after page."""
        after: str | None = None
        while True:
            items, after = self.ask(page_after(after))
            yield items
            if after is None:
                return

    def close(self) -> None:
        self._connection.close()


def asker() -> Asker:
    """For the bus and with the time-out that the command's options name."""
    return Asker(options.address(), options.timeout())

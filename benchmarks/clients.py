"""The client libraries behind one face.

`get`, `set` and `publish` are the libraries' own bound methods, so that nothing of ours stands
between the clock and the library. Both are used as their documentation shows it first, but that
udsbus shall ask for what it could read from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .bare import BareClient
from .results import BARE, REDIS, UDSBUS
from .servers import Server


class Client(Protocol):
    get: Callable[[str], Any]
    set: Callable[[str, bytes], Any]
    publish: Callable[[str, bytes], Any]
    set_at_once: Callable[[dict[str, bytes]], Any]
    """One command for all items."""

    def set_in_pipeline(self, items: dict[str, bytes]) -> None:
        """One `set` an item, sent together."""

    def subscribe(self, topic: str) -> Iterator[bytes]:
        """The messages published from now on; the subscription stands when this returns."""


class RedisClient(Client):
    """redis-py, with the hiredis parser that it picks up by itself. Values stay bytes."""

    def __init__(self, address: str) -> None:
        import redis

        self._redis: Any = redis.Redis(unix_socket_path=address)
        self.get = self._redis.get
        self.set = self._redis.set
        self.publish = self._redis.publish
        self.set_at_once = self._redis.mset

    def set_in_pipeline(self, items: dict[str, bytes]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for key, value in items.items():
            pipe.set(key, value)
        pipe.execute()

    def subscribe(self, topic: str) -> Iterator[bytes]:
        pubsub = self._redis.pubsub()
        pubsub.subscribe(topic)
        messages = pubsub.listen()
        assert next(messages)["type"] == "subscribe"
        return (message["data"] for message in messages)


class UdsbusClient(Client):
    """Asks for each read, as the others do: `measures/cached.py` is about those that need not."""

    def __init__(self, address: str) -> None:
        import udsbus

        self._client: Any = udsbus.connect(address, cache=False)
        self.get = self._client.get
        self.set = self._client.set
        self.publish = self._client.publish
        self.set_at_once = self._client.set_many

    def set_in_pipeline(self, items: dict[str, bytes]) -> None:
        with self._client.pipeline() as pipe:
            for key, value in items.items():
                pipe.set(key, value)

    def subscribe(self, topic: str) -> Iterator[bytes]:
        subscription = self._client.subscribe(topic)
        return (message.value for message in subscription)


LIBRARIES: dict[str, Callable[[str], Client]] = {
    REDIS: RedisClient,
    UDSBUS: UdsbusClient,
    BARE: BareClient,
}


def connect(server: Server) -> Client:
    """A client of `server`, connected and with one request behind it."""
    client: Client = LIBRARIES[server.kind](server.address)
    client.get("absent")
    return client

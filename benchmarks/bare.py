"""The barest broker and client that Python can be: what the language and the machine allow.

The same framing as udsbus, over the same sockets, and nothing else: no checks, no time-outs, no
revisions kept, no change log, no limits. The broker polls a little before it sleeps, the client
only if it is told to. What udsbus lacks to these figures is what it does for its users.

    python -m benchmarks.bare SOCKET      serves until it is killed
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import msgpack

RECEIVE_BYTES = 65_536
POLL_SECONDS = 50e-6
LATER = object()
"""In place of a result: the request is answered when it can be."""


def serve(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as epoll:
        listener.bind(address)
        listener.listen(128)
        epoll.register(listener, select.EPOLLIN)
        connections: dict[int, tuple[socket.socket, msgpack.Unpacker]] = {}
        methods = _methods()
        pack = msgpack.Packer(autoreset=True).pack
        while True:
            output: list[tuple[socket.socket, bytes]] = []
            for fd, _ in _ready(epoll):
                if fd == listener.fileno():
                    sock, _ = listener.accept()
                    epoll.register(sock, select.EPOLLIN)
                    connections[sock.fileno()] = sock, msgpack.Unpacker()
                    continue
                sock, unpacker = connections[fd]
                try:
                    data = sock.recv(RECEIVE_BYTES)
                except ConnectionError:  # it went without reading all that it was sent
                    data = b""
                if not data:
                    del connections[fd]
                    sock.close()
                    continue
                try:
                    messages = [msgpack.unpackb(data)]
                except ValueError:  # several at once; these small ones come whole
                    unpacker.feed(data)
                    messages = list(unpacker)
                replies = [
                    pack((1, msgid, None, result))
                    for _, msgid, method, params in messages
                    if (result := methods[method](sock, msgid, *params)) is not LATER
                ]
                output.append((sock, b"".join(replies)))
            for sock, frames in output:
                _send(sock, frames)


def _ready(epoll: select.epoll) -> list[tuple[int, int]]:
    until = monotonic() + POLL_SECONDS
    while monotonic() < until:
        if ready := epoll.poll(0):
            return ready
    return epoll.poll()


def _methods() -> dict[str, Callable[..., Any]]:
    values: dict[str, bytes] = {}
    subscribers: dict[str, list[socket.socket]] = {}
    items: deque[bytes] = deque()
    waiting: deque[tuple[socket.socket, int]] = deque()

    def get(sock: socket.socket, msgid: int, key: str) -> bytes | None:
        return values.get(key)

    def set(sock: socket.socket, msgid: int, key: str, value: bytes) -> int:  # noqa: A001
        values[key] = value
        return len(values)

    def put(sock: socket.socket, msgid: int, item: bytes) -> int:
        if waiting:
            who, asked = waiting.popleft()
            _send(who, msgpack.packb((1, asked, None, item)))
        else:
            items.append(item)
        return len(items)

    def take(sock: socket.socket, msgid: int) -> object:
        if items:
            return items.popleft()
        waiting.append((sock, msgid))
        return LATER

    def subscribe(sock: socket.socket, msgid: int, topic: str) -> None:
        subscribers.setdefault(topic, []).append(sock)

    def publish(sock: socket.socket, msgid: int, topic: str, message: bytes) -> int:
        told = [each for each in subscribers.get(topic, ()) if each.fileno() >= 0]
        for each in told:
            _send(each, msgpack.packb((2, "message", (topic, message))))
        return len(told)

    return {
        "get": get,
        "set": set,
        "put": put,
        "take": take,
        "subscribe": subscribe,
        "publish": publish,
    }


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it has gone; `recv` will tell
        sock.sendall(data)


class BareClient:
    """Sends, and blocks until something comes back; or polls for it, for as long as it takes."""

    def __init__(self, address: str, polls: bool = False) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._pack = msgpack.Packer(autoreset=True).pack
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        self._poll = poll.poll if polls else None
        self._msgid = 0
        self.get: Callable[[str], Any] = partial(self._call, "get")
        self.set: Callable[[str, bytes], Any] = partial(self._call, "set")
        self.put: Callable[[bytes], Any] = partial(self._call, "put")
        self.take: Callable[[], Any] = partial(self._call, "take")
        self.publish: Callable[[str, bytes], Any] = partial(self._call, "publish")
        self.set_at_once: Callable[[dict[str, bytes]], Any] = self.set_in_pipeline

    def _call(self, method: str, *params: Any) -> Any:
        self._msgid += 1
        self._socket.send(self._pack((0, self._msgid, method, params)))
        while self._poll is not None and not self._poll(0):
            pass
        return msgpack.unpackb(self._socket.recv(RECEIVE_BYTES))[3]

    def set_in_pipeline(self, items: dict[str, bytes]) -> None:
        pack = self._pack
        self._socket.sendall(b"".join([pack((0, 0, "set", item)) for item in items.items()]))
        unpacker, answers = msgpack.Unpacker(), 0
        while answers < len(items):
            unpacker.feed(self._socket.recv(RECEIVE_BYTES))
            answers += sum(1 for _ in unpacker)

    def subscribe(self, topic: str) -> Iterator[bytes]:
        events = BareClient(self._address)
        events._call("subscribe", topic)
        return events._messages()

    def _messages(self) -> Iterator[bytes]:
        unpacker = msgpack.Unpacker()
        while True:
            unpacker.feed(self._socket.recv(RECEIVE_BYTES))
            for _, _, (_, message) in unpacker:
                yield message


if __name__ == "__main__":
    serve(sys.argv[1])

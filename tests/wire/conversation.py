"""An example of the documentation, carried on with a real broker byte by byte."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import msgpack

from .notation import Step, evaluate, fits, matches, to_bytes


class Conversation:
    """Connections by the names that the example gives them, made when they are first met."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sockets: dict[str, socket.socket] = {}
        self._received: dict[str, bytes] = {}

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()

    def hold(self, example: list[Step]) -> None:
        """Say and hear what is written. AssertionError for anything else."""
        unsent = b""
        for step, following in zip(example, [*example[1:], None], strict=True):
            if not step.to_broker:
                self._expect(step)
            elif step.bytes == "end":
                self._socket(step.connection).shutdown(socket.SHUT_WR)
            else:
                unsent += to_bytes(step.bytes)
                if following is None or not _goes_with(step, following):
                    self._socket(step.connection).sendall(unsent)
                    unsent = b""

    def expect_no_more(self) -> None:
        """What comes next on each connection is the answer to a question asked now."""
        for name, sock in self._sockets.items():
            with contextlib.suppress(BrokenPipeError):  # one that has finished asking
                sock.sendall(msgpack.packb([0, 999, "ping", []]))
                message, _ = self._next(name)
                assert message[:3] == [1, 999, None], f"{name} received besides: {message}"

    def _expect(self, step: Step) -> None:
        if step.bytes == "end":
            with contextlib.suppress(ConnectionResetError):  # closed before it had read everything
                assert not self._received[step.connection]
                assert not self._sockets[step.connection].recv(1)
            self._sockets.pop(step.connection).close()
            return
        message, data = self._next(step.connection)
        assert fits(evaluate(step.form), message), f"expected {step.form}, received {message}"
        assert matches(step.bytes, data), f"expected {step.bytes}, received {data.hex(' ')}"

    def _socket(self, name: str) -> socket.socket:
        if name not in self._sockets:
            sock = self._sockets[name] = socket.socket(socket.AF_UNIX)
            sock.settimeout(20)
            sock.connect(self._address)
            self._received[name] = b""
        return self._sockets[name]

    def _next(self, name: str) -> tuple[Any, bytes]:
        """The next message of a connection, and its bytes."""
        while True:
            received = self._received[name]
            unpacker = msgpack.Unpacker(strict_map_key=False)
            unpacker.feed(received)
            try:
                message = unpacker.unpack()
            except msgpack.OutOfData:
                more = self._socket(name).recv(1 << 16)
                assert more, "the broker closed the connection"
                self._received[name] += more
            else:
                size = unpacker.tell()
                self._received[name] = received[size:]
                return message, received[:size]


def _goes_with(step: Step, following: Step) -> bool:
    """Bytes to the broker that follow one another are sent at once."""
    return following[:2] == step[:2] and following.bytes != "end"

"""A gateway: a WebSocket server that shares its users with the other gateways of the bus.

    python -m examples.gateway.server NAME

Its users connect to `/NAME-OF-THE-USER` at the address that is in the key `gateways/NAME`, and send
the numbers of seats that they want. (Any gateway of your own would ask who they are, too.) The bus
is the one that `UDSBUS_SOCKET` names, else this user's default bus.

It has one answer to all trouble with the bus: it dies. That end is always taken care of, and its
users connect to another gateway.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

import udsbus

from .presence import PLACES, Presence


def main(name: str) -> None:
    with udsbus.connect(name=f"gateway {name}") as bus:
        bus.on_kick(lambda: os._exit(1))
        presence = Presence(bus, name)

        def handle(connection: ServerConnection) -> None:
            with dying_of_trouble():
                serve_user(connection, presence, name)

        with serve(handle, "127.0.0.1", 0, process_request=check_path) as server:
            threading.Thread(target=server.serve_forever).start()
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # closes the connections first
            with dying_of_trouble():
                port = server.socket.getsockname()[1]
                bus.set(f"gateways/{name}", f"ws://127.0.0.1:{port}", ephemeral=True)
                presence.tend()


def check_path(connection: ServerConnection, request: Request) -> Response | None:
    if re.fullmatch(r"/\w{1,50}", request.path):
        return None
    return connection.respond(404, "connect to /NAME, as in /ann\n")


def serve_user(connection: ServerConnection, presence: Presence, name: str) -> None:
    """One connection, in a thread of its own, from its beginning to its end."""
    assert connection.request is not None
    user = connection.request.path.removeprefix("/")
    place = presence.enter(user)
    if place is None:
        connection.close(CloseCode.POLICY_VIOLATION, f"{user} has {PLACES} connections already")
        return
    try:
        with contextlib.suppress(ConnectionClosed):
            connection.send(f"welcome to {name}")
            for wish in connection:
                if not isinstance(wish, str) or not re.fullmatch(r"[0-9]{1,2}", wish):
                    connection.send("seats have numbers from 0 to 99")
                elif presence.hold(place, f"seats/{wish}"):
                    connection.send(f"seat {wish} is yours")
                else:
                    connection.send(f"seat {wish} is taken")
    finally:
        presence.leave(place)


@contextlib.contextmanager
def dying_of_trouble() -> Iterator[None]:
    try:
        yield
    except udsbus.Error:
        logging.exception("this gateway cannot know any more what it has on the bus")
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])

"""A gateway that knows who is connected. From a checkout of udsbus:

    pip install -e ".[examples]"
    python -m examples.gateway

It starts a bus and two gateways, to which users connect; kills one of the gateways; and tells what
a watch on the bus sees of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import udsbus


def main() -> None:
    with (
        udsbus.LocalBroker() as broker,
        broker.connect(name="main") as bus,
        bus.watch("**") as changes,
        running_gateway("A", broker.address) as a,
    ):
        tell(changes, until="gateways/A")
        with running_gateway("B", broker.address), contextlib.ExitStack() as connections:
            tell(changes, until="gateways/B")
            demonstrate(bus, changes, a, connections)


def demonstrate(
    bus: udsbus.Client,
    changes: udsbus.Watch,
    a: subprocess.Popen[bytes],
    connections: contextlib.ExitStack,
) -> None:
    def user(name: str, gateway: str) -> ClientConnection:
        url = bus.get(f"gateways/{gateway}")
        connection = connections.enter_context(connect(f"{url}/{name}", proxy=None))
        connection.recv()  # the welcome; raises ConnectionClosed if there is none
        return connection

    print("ann connects to gateway A, and asks for seat 12")
    ann = [user("ann", "A")]
    ann[0].send("12")
    tell(changes, until="seats/12")

    print("bob connects to gateway A, and asks for seat 7")
    user("bob", "A").send("7")
    tell(changes, until="seats/7")

    print("ann connects to gateway B, twice; and once more:")
    ann += [user("ann", "B"), user("ann", "B")]
    try:
        user("ann", "B")
    except ConnectionClosed as refused:
        print(f"    refused: {refused.rcvd}")

    print("gateway A is killed; bob had no other connection, ann has")
    a.kill()
    tell(changes, until="users/bob")
    print(f"    there is still: {bus.items('users/**') + bus.items('seats/**')}")

    print("ann closes her last two connections")
    for connection in ann[1:]:
        connection.close()
    tell(changes, until="users/ann")
    print(f"    there is still: {bus.items('users/**') + bus.items('seats/**')}")


def tell(changes: udsbus.Watch, until: str) -> None:
    """Print who and what comes and goes, up to the next time that the key `until` does."""
    while change := changes.get(timeout=20):
        kind, name = change.key.split("/", 1)
        gone = change.value is None
        if change.kind == "updated" or "/" in name:
            continue  # she holds more than before; or one of her places
        if kind == "gateways":
            print(f"    gateway {name} is gone" if gone else f"gateway {name} is {change.value}")
        elif kind == "users":
            print(f"    {name} is gone" if gone else f"    {name} has come")
        else:
            print(f"    seat {name} is free" if gone else f"    seat {name} is {change.value}'s")
        if change.key == until:
            return
    raise TimeoutError(f"the bus has told nothing of {until}")


@contextlib.contextmanager
def running_gateway(name: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway in a process of its own; it is ready when the key `gateways/NAME` is there."""
    command = [sys.executable, "-m", "examples.gateway.server", name]
    process = subprocess.Popen(command, env={**os.environ, "UDSBUS_SOCKET": address})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()

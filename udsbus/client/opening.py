"""How a program begins: `connect` and `connect_async`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..limits import HEARTBEAT_SECONDS, REQUEST_TIMEOUT

if TYPE_CHECKING:
    from .aio.client import AsyncClient
    from .sync import Client


def connect(
    address: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    timeout: float = REQUEST_TIMEOUT,
    autostart: bool = False,
    metadata: Any = None,
    heartbeat: float | None = HEARTBEAT_SECONDS,
    cache: bool = True,
) -> Client:
    """Connect to the bus at `address`, the path of its socket.

    Without `address`: `UDSBUS_SOCKET`, else this user's default bus. `name` and `metadata` tell the
    others who this is, see `Client.clients`. `timeout` is how many seconds a request may take.
    `autostart` starts a broker if none serves the address; however many processes do that at
    once, one broker is started, and it stays when they are gone. `heartbeat` is how often, in
    seconds, client and broker tell each other that they live while something is watched or
    subscribed to, see `Client.in_sync`; None: never.
    `cache`: remember what was read, and see from memory shared with the broker, in less than a
    microsecond, whether it is still so; the answers are the same, see `Client.get`.

    Raises BrokerUnavailable, AccessDenied.
    """
    from .sync import Client

    return Client(
        address,
        name=name,
        timeout=timeout,
        autostart=autostart,
        metadata=metadata,
        heartbeat=heartbeat,
        cache=cache,
    )


def connect_async(
    address: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    timeout: float = REQUEST_TIMEOUT,
    autostart: bool = False,
    metadata: Any = None,
    heartbeat: float | None = HEARTBEAT_SECONDS,
    cache: bool = True,
) -> AsyncClient:
    """The same for asyncio and trio, to be used with `async with`:

        async with udsbus.connect_async() as client:
            await client.set("colour", "green")

    It connects when the block begins, and has no task left when it has ended.
    """
    from .aio.client import AsyncClient

    return AsyncClient(
        address,
        name=name,
        timeout=timeout,
        autostart=autostart,
        metadata=metadata,
        heartbeat=heartbeat,
        cache=cache,
    )

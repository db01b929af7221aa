"""A request of the async client on its way, and how a task waits for something."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import anyio

from ...errors import Error
from ..requests import Call

NEVER = math.inf
"""A deadline."""

Waker = asyncio.Future[None] | anyio.Event
"""What one task waits for. A future where there is asyncio: an `anyio.Event` takes five times as
long, and each request has one."""


def running_asyncio() -> asyncio.AbstractEventLoop | None:
    """The event loop, if it is asyncio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def waker(loop: asyncio.AbstractEventLoop | None) -> Waker:
    return anyio.Event() if loop is None else loop.create_future()


def wake(waker: Waker) -> None:
    if isinstance(waker, anyio.Event):
        waker.set()
    elif not waker.done():
        waker.set_result(None)


async def woken(waker: Waker) -> None:
    """Wait until it is woken."""
    if isinstance(waker, anyio.Event):
        await waker.wait()
    else:
        await waker


class Asked:
    """One request, until it is answered. What most have is kept by the class: each is made anew."""

    ask: Callable[[float | None], Call[Any]] | None = None
    """Makes the request for the seconds that are left, of one that the broker may answer later."""
    until: float | None = None
    """When these are over."""
    patience: float | None = None
    """Seconds that it may take, if not those of the client."""
    stranded_until = NEVER
    """When whoever asked gives up unless there is a connection by then."""
    attempt = True
    """It would do harm if it were carried out twice."""
    waker: Waker | None = None
    """Of the task that waits for the answer; None: nobody does."""
    reply: Callable[[Any], None] | None = None
    """What is called with the result, in the place of a task that waits. Such a request is of one
    connection only."""
    refused: Callable[[Error], None] | None = None
    """And with what refuses it."""
    then: Callable[[Any], Call[Any] | None] | None = None
    """Makes of the result what is to be asked after it; nobody waits for that."""
    insists = False
    """It is to be carried out though nobody waits."""
    abandoned = False
    """Nobody wants to know of it any more, so it need not be sent again."""
    sent = False
    """It may have left, over this connection or one before it."""
    lost = 0
    """How many connections were lost, one soon after the other, while it was on its way."""
    settled = False
    """It is answered, or will not be."""
    result: Any = None
    error: Error | None = None

    def __init__(self, call: Call[Any], msgid: int, deadline: float, kept: bool) -> None:
        self.call = call
        self.msgid = msgid
        """Its number in the lane, over whichever connection."""
        self.deadline = deadline
        """When whoever asked will not wait any longer."""
        self.kept = kept
        """The broker keeps its answer, for it may change something."""

    def settle(self, result: Any, error: Error | None) -> None:
        self.settled = True
        self.result = result
        self.error = error
        if self.waker is not None:
            wake(self.waker)

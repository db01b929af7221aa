"""Queues: those of the module `queue`, between processes.

What is in a queue are keys of the bus below `$sys/queues/NAME/`: a queue outlives all who use it,
and the broker. docs/queues.md tells what is not as in `queue`.
"""

from __future__ import annotations

import itertools
import queue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from ...client import requests
from ...client.requests import Attempt, Call, is_refusal
from ...errors import Conflict, InvalidRequest
from ...wire.values import decode, encode
from ..ordering import order_of
from ..timeouts import seconds_at_most

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient

_claims = itertools.count(1)
"""Of this process: a number is not given twice, whichever client of it asks."""


class AsyncQueue:
    """First in, first out. Any number of processes put, and any number get: each item goes to one.

    Who waits longest for an item gets it first, and who waits longest for room. Nobody polls.
    """

    _last = False
    """Whether the last item comes out first."""

    def __init__(self, client: AsyncClient, name: str, maxsize: int = 0) -> None:
        """`maxsize`: `put` waits while there are so many items; 0 or less: there is always room."""
        if type(maxsize) is not int:
            raise InvalidRequest(f"maxsize must be a whole number, not {maxsize!r}")
        self.name = name
        self.maxsize = maxsize
        self._client = client

    async def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in. Waits for room, at most `timeout` seconds; or not at all (`block=False`).

        Raises `queue.Full` when there is none, UnsupportedValue (a TypeError) for an item that
        cannot be sent.
        """
        wait = _seconds(block, timeout)
        encoded, order, maxsize = encode(item), self._order(item), max(0, self.maxsize)
        client = self._client
        if not maxsize or wait == 0.0:
            put = await client._call(requests.put(self.name, encoded, order, maxsize, wait))
        else:

            def ask(left: float | None) -> Call[int | None]:
                return requests.put(self.name, encoded, order, maxsize, left)

            put = await client._call_waiting(ask, wait, Attempt())
        if put is None:
            raise queue.Full

    @overload
    async def get(
        self, block: bool = True, timeout: float | None = None, *, ack: Literal[False] = False
    ) -> Any: ...
    @overload
    async def get(
        self, block: bool = True, timeout: float | None = None, *, ack: Literal[True]
    ) -> AsyncTaken: ...
    async def get(
        self, block: bool = True, timeout: float | None = None, *, ack: bool = False
    ) -> Any | AsyncTaken:
        """Take an item out. Waits for one, at most `timeout` seconds; or not at all
        (`block=False`).

        `ack`: get it as a `Taken`, which goes back to where it was unless it is done: should this
        process die, or the client be closed, somebody else gets it. Without, it is gone from the
        queue when this returns. Whatever is raised, Ctrl-C too, it is in the queue.

        Raises `queue.Empty` when there is none.
        """
        wait = _seconds(block, timeout)
        if not self._client._stays:
            self._client._stay()
        if ack:
            return await self._take_to_acknowledge(wait)
        attempt = Attempt()
        taken: list[Any] | None = None
        try:
            taken = await self._client._call_waiting(
                lambda left: requests.take(self.name, left, self._last), wait, attempt
            )
            if taken is not None:
                return decode(taken[1])
        except BaseException as error:
            if taken is not None:
                self._client._put_right(self._put_back(taken))
            elif attempt.msgid and not is_refusal(error):
                # Ask what it would have been, and put that back.
                again = requests.take(self.name, 0.0, self._last)
                self._client._put_right(
                    again, attempt, lambda taken: None if taken is None else self._put_back(taken)
                )
            raise
        raise queue.Empty

    def _put_back(self, taken: list[Any]) -> Call[Any]:
        return requests.put(self.name, taken[1], place=taken[0])

    async def _take_to_acknowledge(self, wait: float | None) -> AsyncTaken:
        claim = next(_claims)
        asked = False

        def ask(left: float | None) -> Call[list[Any] | None]:
            nonlocal asked
            asked = True
            return requests.take(self.name, left, self._last, claim)

        try:
            taken = await self._client._call_waiting(ask, wait)
            if taken is not None:
                return AsyncTaken(self, claim, decode(taken[1]))
        except BaseException as error:
            if asked and (not is_refusal(error) or isinstance(error, InvalidRequest)):
                self._client._make_sure(requests.give_back(self.name, claim))
            raise
        raise queue.Empty

    async def put_nowait(self, item: Any) -> None:
        """Put an item in at once. Raises `queue.Full`."""
        await self.put(item, block=False)

    async def get_nowait(self) -> Any:
        """Take an item out at once. Raises `queue.Empty`."""
        return await self.get(block=False)

    async def task_done(self) -> None:
        """Say that one that was got, without `ack`, is done. Raises InvalidRequest (a ValueError)
        when none is left to say that of."""
        if not await self._client._call(requests.done(self.name)):
            raise InvalidRequest(
                f"task_done() called too many times: nothing that was got from {self.name!r} is "
                "left to be done (what is got with ack=True has a done() of its own)"
            )

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until all items that were put in are done, at most `timeout` seconds. False: they
        are not. An item that a process has got is not waited for when that is gone, unless it was
        got with `ack`: then it is in the queue again."""
        wait = seconds_at_most(timeout)
        joined = await self._client._call_waiting(lambda left: requests.join(self.name, left), wait)
        return joined is not None

    async def qsize(self) -> int:
        """How many items there are now."""
        return (await self._client._call(requests.queue(self.name)))["items"]

    async def empty(self) -> bool:
        """Whether there is none now."""
        return not await self.qsize()

    async def full(self) -> bool:
        """Whether there are `maxsize` now."""
        return 0 < self.maxsize <= await self.qsize()

    def _order(self, item: Any) -> bytes:
        return b""

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name, self.maxsize)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self._client.address}>"


class AsyncLifoQueue(AsyncQueue):
    """Last in, first out."""

    _last = True


class AsyncPriorityQueue(AsyncQueue):
    """The lowest out first: ints and floats, texts, bytes, dates, datetimes and timedeltas, and
    tuples and lists of them.

    A tuple is compared up to its first item of another kind: `(priority, job)`, where the job may
    be anything. What is equal comes out in the order in which it was put in; and what differs only
    after the first 128 bytes of its order, of which a number takes 17.
    """

    def _order(self, item: Any) -> bytes:
        return order_of(item)


class AsyncTaken:
    """An item that goes back unless it is done. As a context manager it gives the item; when the
    block ends it is done, or goes back if that was by an exception."""

    def __init__(self, of: AsyncQueue, claim: int, item: Any) -> None:
        self.item = item
        self._queue = of
        self._claim = claim
        self._session = of._client.session
        self._unsettled = [claim]
        """Empty once it is settled. A list, since of two threads one gets what is in it."""

    async def done(self) -> None:
        """It is done, and does not go back. Raises Conflict if it has gone back already, since this
        client was kicked or away for too long: somebody else may have got it."""
        await self._settle(requests.done(self._queue.name, self._claim))

    async def give_back(self) -> None:
        """Put it back to where it was, for others. Raises Conflict like `done`."""
        await self._settle(requests.give_back(self._queue.name, self._claim))

    async def _settle(self, call: Call[bool]) -> None:
        client = self._queue._client
        if client.session != self._session:
            raise InvalidRequest("it is the parent's, which has taken it, not this child's")
        try:
            claim = self._unsettled.pop()
        except IndexError:
            raise InvalidRequest(f"this item of {self._queue.name!r} was settled before") from None
        try:
            settled = await client._call(call)
        except BaseException:
            self._unsettled.append(claim)
            raise
        if not settled:
            raise Conflict(
                f"this item of {self._queue.name!r} is not held any more: it has gone back"
            )

    async def __aenter__(self) -> Any:
        return self.item

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._unsettled:
            if error is None:
                await self.done()
            else:
                await self.give_back()

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle what was taken from a queue: it is this client's")

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} from {self._queue.name!r}>"


def _seconds(block: bool, timeout: float | None) -> float | None:
    """What `put` and `get` are given, in seconds; None: for as long as it takes."""
    return seconds_at_most(timeout) if block else 0.0

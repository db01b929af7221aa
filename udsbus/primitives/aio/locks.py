"""Locks and semaphores: the methods and the meaning of those in `threading`, between processes.

Whoever comes first gets a lock first. A process that dies, and a client that is closed, has let go
of all its locks. docs/locks.md tells what else is not as in `threading`.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...client.requests import Held, is_refusal
from ...errors import InvalidRequest, LockLost, NotHeld
from ..timeouts import seconds_to_wait

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient
    from ...client.locks import LockHolder


class AsyncAcquirable:
    """What a `with` block acquires, and releases when it ends."""

    async def acquire(self) -> bool:
        raise NotImplementedError

    async def release(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> bool:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()


class AsyncLock(AsyncAcquirable):
    """One holder at a time, of all clients of the bus.

    It is this client that holds it: any thread of it may release it, by any object of the same
    name. A thread that acquires it twice waits for itself; see `RLock`.
    """

    _shared = False

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.name = name
        self._client = client
        self._holdings = client.holdings

    async def acquire(
        self,
        blocking: bool = True,
        timeout: float = -1,
        *,
        unless_deadlock: bool = False,
        linger: float = 0.0,
    ) -> bool:
        """Hold it. False if that cannot be at once (`blocking=False`), or within `timeout` seconds
        (-1: wait for as long as it takes).

        `unless_deadlock`: raise Deadlock rather than wait for a thread that waits for this one.
        `linger`: should this client be kicked, nobody else has the lock for so many seconds, in
        which what it guards can be stopped (see `Client.on_kick`).
        Whatever is raised, Ctrl-C too, it is not held then.
        """
        wait = seconds_to_wait(blocking, timeout)
        return await self._holdings.acquire(
            self.name, wait, self._shared, None, unless_deadlock, linger
        )

    async def release(self) -> None:
        """Let the next have it. Raises NotHeld (a RuntimeError) if this client does not hold it,
        LockLost if it did and has lost it."""
        if not await self._holdings.release(self.name, self._shared):
            raise NotHeld(f"release of {self.name!r}, which is not held by this client")

    @property
    def token(self) -> int:
        """The fencing token, for `set(…, fence=token)`: a number that grows with each time that the
        lock is acquired, whoever does. Raises NotHeld."""
        return self._holdings.token(self.name, self._shared)

    @property
    def key(self) -> str:
        """The key of the bus by which this client holds it. Raises NotHeld."""
        return self._holdings.key(self.name, self._shared)

    async def locked(self) -> bool:
        """Whether anybody holds it now; asks the broker."""
        return await self.owner() is not None

    async def owner(self) -> LockHolder | None:
        """Who holds it now; asks the broker."""
        holders = await self._client.lock_holders(self.name)
        return next((holder for holder in holders if holder.shared == self._shared), None)

    # What `Condition` asks of a lock, as that of `threading` does.

    def _is_owned(self) -> bool:
        return self._holdings.number(self.name, self._shared) > 0

    async def _release_save(self) -> int:
        await self.release()
        return 1

    async def _acquire_restore(self, times: int) -> None:
        await self.acquire()

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self._client.address}>"


class AsyncRLock(AsyncLock):
    """A lock that the thread which holds it may acquire again; it is released when that thread has
    released it as often. The same as `Lock` for all others."""

    async def acquire(
        self,
        blocking: bool = True,
        timeout: float = -1,
        *,
        unless_deadlock: bool = False,
        linger: float = 0.0,
    ) -> bool:
        """Like `Lock.acquire`. The thread that holds it has it at once, and asks nobody."""
        key = self._key()  # first: an interrupt may come where anything is called
        mine = self._mine()
        if mine is not None:
            seconds_to_wait(blocking, timeout)
            held, times = mine
            self._holdings.reentered[key] = held, times + 1
            return True
        if not await super().acquire(
            blocking, timeout, unless_deadlock=unless_deadlock, linger=linger
        ):
            return False
        try:
            acquired = self._holdings.newest(self.name)
            assert acquired is not None
            self._holdings.reentered[key] = acquired, 1
        except BaseException:
            self._holdings.abandon(self._holdings.newest(self.name))
            raise
        return True

    async def release(self) -> None:
        """Undo one `acquire` of this thread. Raises NotHeld if there was none."""
        key = self._key()
        held, times = self._owned()
        if times > 1:
            self._holdings.reentered[key] = held, times - 1
        else:
            await self._release_save()

    def _key(self) -> tuple[str, int]:
        return self.name, self._client._owner()

    def _mine(self) -> tuple[Held, int] | None:
        """By what this thread holds it, and how often it has acquired it."""
        mine = self._holdings.reentered.get(self._key())
        if mine is not None and not self._holdings.holds(mine[0]):
            return None  # a `Lock` of the same name was released
        return mine

    def _owned(self) -> tuple[Held, int]:
        mine = self._mine()
        if mine is None:
            raise NotHeld(f"release of {self.name!r}, which this thread has not acquired")
        return mine

    def _is_owned(self) -> bool:
        return self._mine() is not None

    def _recursion_count(self) -> int:
        mine = self._mine()
        return 0 if mine is None else mine[1]

    async def _release_save(self) -> int:
        key = self._key()
        held, times = self._owned()
        try:
            await super().release()
        except BaseException as error:
            if not is_refusal(error) or isinstance(error, LockLost):
                self._holdings.reentered.pop(key, None)
                self._holdings.abandon(held)
            raise
        del self._holdings.reentered[key]
        return times

    async def _acquire_restore(self, times: int) -> None:
        await self.acquire()
        held, _ = self._owned()
        self._holdings.reentered[self._key()] = held, times


class AsyncSharedLock(AsyncLock):
    """The readers' side of an `RWLock`."""

    _shared = True


class AsyncRWLock:
    """Many readers or one writer.

        async with client.rwlock("config").read: ...
        async with client.rwlock("config").write: ...

    Nobody overtakes: readers that come after a writer wait until it has been.
    """

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.name = name
        self.read = AsyncSharedLock(client, name)
        self.write = AsyncLock(client, name)

    def __reduce__(self) -> Any:
        return type(self), (self.write._client, self.name)

    def __repr__(self) -> str:
        return f"<udsbus.{type(self).__name__} {self.name!r} on {self.write._client.address}>"


class AsyncSemaphore(AsyncAcquirable):
    """Up to `value` holders at a time.

    A permit belongs to the client that has acquired it, and comes back when that is gone. To
    release more than it has acquired adds permits, for good.
    """

    def __init__(self, client: AsyncClient, name: str, value: int = 1) -> None:
        if type(value) is not int or value < 0:
            raise InvalidRequest(f"a semaphore has a whole number of permits from 0, not {value!r}")
        self.name = name
        self.value = value
        self._client = client
        self._holdings = client.holdings

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a permit. False if there is none at once (`blocking=False`), or within `timeout`
        seconds."""
        wait = seconds_to_wait(blocking, -1 if timeout is None else timeout)
        return await self._holdings.acquire(self.name, wait, True, self.value)

    async def release(self, n: int = 1) -> None:
        """Give `n` permits back."""
        missing = await self._give_back(n)
        if missing:
            await self._holdings.add_permits(self.name, self.value, missing)

    async def _give_back(self, n: int) -> int:
        """Returns how many of them this client has not got."""
        if type(n) is not int or n < 1:
            raise InvalidRequest(f"n must be one or more, not {n!r}")
        while n and await self._holdings.release(self.name, True):
            n -= 1
        return n

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name, self.value)

    def __repr__(self) -> str:
        kind = f"{type(self).__name__} {self.name!r} of {self.value}"
        return f"<udsbus.{kind} on {self._client.address}>"


class AsyncBoundedSemaphore(AsyncSemaphore):
    """A semaphore of which nobody can release more than he has acquired."""

    async def release(self, n: int = 1) -> None:
        """Give `n` permits back. Raises InvalidRequest (a ValueError) if this client has not got so
        many."""
        if type(n) is int and n > self._holdings.number(self.name, True):
            raise InvalidRequest(f"{self.name!r} would be released too often")
        if await self._give_back(n):  # another thread was quicker
            raise InvalidRequest(f"{self.name!r} was released too often")

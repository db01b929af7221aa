"""Rate limiters: a token bucket that processes share."""

from __future__ import annotations

import contextlib
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio import sleep

from ...errors import Conflict, Error, InvalidRequest
from ..timeouts import seconds_at_most

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient


class AsyncRateLimiter:
    """`rate` permits a second for all together, and up to `burst` at once after a rest.

    The key `rates/NAME` says when the bucket is full again, on the monotonic clock that all
    processes of the machine share, and expires then. One number is enough: the generic cell rate
    algorithm. Who has to wait takes his permits at once and waits until they are due, so who came
    first is first, and nobody polls.
    """

    def __init__(
        self, client: AsyncClient, name: str, rate: float, burst: float | None = None
    ) -> None:
        """`burst` is one second's worth unless it is given, and at least 1. All should say the
        same. Raises InvalidRequest."""
        burst = max(1.0, rate) if burst is None and isinstance(rate, int | float) else burst
        for what, number, least in (("rate", rate, 0), ("burst", burst, 1)):
            good = type(number) in (int, float) and number < float("inf")
            if not good or number < least or number == 0:
                above = "above 0" if least == 0 else "from 1"
                raise InvalidRequest(f"{what} must be a number {above}, not {number!r}")
        assert burst is not None
        self.name = name
        self.rate = rate
        self.burst = burst
        self.key = f"rates/{name}"
        self._client = client

    async def acquire(self, n: float = 1, timeout: float | None = None) -> bool:
        """Take `n` permits, and wait until they are due. False, at once and without any, if that
        would be longer than `timeout` seconds. Raises InvalidRequest for more than `burst`."""
        if type(n) not in (int, float) or not 0 < n <= self.burst:
            raise InvalidRequest(f"n must be a number above 0, and at most {self.burst}, not {n!r}")
        wait = await self._take(n, seconds_at_most(timeout))
        if wait is None:
            return False
        if wait > 0:
            try:
                await sleep(wait)
            except BaseException:
                with self._client._undisturbed(), contextlib.suppress(Error):
                    await self._take(-n, None)  # they are not used
                raise
        return True

    async def try_acquire(self, n: float = 1) -> bool:
        """Take `n` permits if they are there now."""
        return await self.acquire(n, timeout=0)

    async def available(self) -> float:
        """How many permits are there now; below 0 if some wait for theirs."""
        _, debt = await self._debt()
        return self.burst - debt * self.rate

    async def _debt(self) -> tuple[int, float]:
        """The revision, and in how many seconds the bucket is full."""
        entry = await self._client.entry(self.key)
        if entry is None:
            return 0, 0.0
        left = entry.value - monotonic()
        # The clock begins anew with the machine; what is left of the key's time does not.
        return entry.revision, max(0.0, left if entry.ttl is None else min(left, entry.ttl))

    async def _take(self, n: float, timeout: float | None) -> float | None:
        """In how many seconds what was taken is due; None: too many."""
        while True:
            revision, debt = await self._debt()
            debt = max(0.0, debt + n / self.rate)
            wait = debt - self.burst / self.rate
            if timeout is not None and wait > timeout:
                return None
            with contextlib.suppress(Conflict):
                if debt:
                    full = monotonic() + debt
                    await self._client.set(self.key, full, ttl=debt, if_revision=revision)
                elif revision:
                    await self._client.delete(self.key, if_revision=revision)
                return wait

    async def __aenter__(self) -> AsyncRateLimiter:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Permits are not given back."""

    def __reduce__(self) -> Any:
        return type(self), (self._client, self.name, self.rate, self.burst)

    def __repr__(self) -> str:
        what = f"{type(self).__name__} {self.name!r} of {self.rate:g}/s"
        return f"<udsbus.{what} on {self._client.address}>"

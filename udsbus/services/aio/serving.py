"""What an async client serves: a worker for each service, and its endpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import anyio

from ...client import requests
from ...client.followed import Change
from ...errors import Error, InternalError, InvalidRequest
from ...limits import CALLS_GRACE
from ...patterns import WORKER_KEYS
from ...terms import GONE
from ..current import current
from ..endpoint import Endpoint
from ..offered import Offered
from ..serving import AGAIN_SECONDS, STOP_SECONDS, WITHDRAW_SECONDS, about, check_options
from ..worker import COMING_SECONDS
from .worker import AsyncWorker

if TYPE_CHECKING:
    from ...client.aio.client import AsyncClient

log = logging.getLogger("udsbus.services")


class AsyncServed:
    """A service that this process serves, until `stop`, or the end of its client."""

    def __init__(
        self, client: AsyncClient, service: str, target: Any, retry: int, concurrency: int
    ) -> None:
        check_options(service, retry, concurrency)
        client._check_usable()
        self.service = service
        self._client = client
        offered = Offered(service, target)
        self._endpoint = Endpoint(client.address, concurrency)
        self._about = about(offered, self._endpoint, retry, concurrency)
        self._leaving = False
        self._offered = anyio.Event()
        self.ended = anyio.Event()
        self.failed = False
        """Because of a fault: nobody has told it to end."""
        self._worker = AsyncWorker(offered, self._endpoint, concurrency)
        self._endpoint.slots.give(concurrency, 0)  # whoever finds it finds it free
        client._start(self._run)
        client._start(self._stay_offered)

    async def offered(self) -> None:
        """Wait until others can call it."""
        await self._offered.wait()

    async def stop(self, grace: float = CALLS_GRACE) -> None:
        """Take no more calls, and end when those in hand are done, after `grace` seconds at most.
        May be called twice."""
        self._leaving = True
        await self._withdraw()
        self._worker.leave(grace)
        with contextlib.suppress(ValueError):
            self._client._served.remove(self)
        if current.get(None) is None:  # else it would wait for itself
            with anyio.move_on_after(max(grace, COMING_SECONDS) + STOP_SECONDS):
                await self.ended.wait()

    async def _withdraw(self) -> None:
        with contextlib.suppress(Error), anyio.move_on_after(WITHDRAW_SECONDS):
            await self._client._call(requests.withdraw(self.service, self._endpoint.name))

    def __repr__(self) -> str:
        state = "leaving" if self._leaving else "serving"
        return f"<udsbus.AsyncServed {self.service!r} on {self._client.address} ({state})>"

    # --- in tasks of its own ------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._worker.run()
        except Exception:
            log.exception("%s is not served any more", self.service)
            self.failed = self._leaving = True
            await self._withdraw()
        finally:
            self.ended.set()

    async def _offer(self) -> None:
        self._client._stay()  # it is to be known that this process lives
        await self._client._call(requests.offer(self.service, self._endpoint.name, self._about))

    async def _stay_offered(self) -> None:
        """Offer it, and again when that is gone: with a broker that has forgotten, or a kick."""
        await self._insist()
        self._offered.set()
        key = f"{WORKER_KEYS}{self.service}/{self._endpoint.name}"
        async with self._client.watch(key, initial=True) as watch:
            async for change in watch:
                if self._leaving:
                    return
                if isinstance(change, Change) and change.kind in GONE:
                    await self._insist()

    async def _insist(self) -> None:
        """Offer it, as soon as there is a broker that takes that."""
        while not self._leaving:
            try:
                await self._offer()
                return
            except Error as error:
                log.warning("%s is not offered yet: %s", self.service, error)
            await anyio.sleep(AGAIN_SECONDS)


async def serve_until_told(served: Sequence[AsyncServed], grace: float) -> None:
    """Wait for SIGTERM or SIGINT, and stop them all."""
    if not served:
        raise InvalidRequest("there is nothing to serve: declare it with `service` first")
    with anyio.open_signal_receiver(SIGTERM, SIGINT) as signals:
        async with anyio.create_task_group() as waiting:
            for each in served:
                waiting.start_soon(_wait_for_fault, each, waiting.cancel_scope)
            async for _ in signals:
                break
            waiting.cancel_scope.cancel()
        failed = [each.service for each in served if each.failed]
        await stop_all(served, grace)
    if failed:
        raise InternalError(
            f"{', '.join(failed)}: not served any more, because of a fault that was logged"
        )


async def _wait_for_fault(served: AsyncServed, scope: anyio.CancelScope) -> None:
    await served.ended.wait()
    if served.failed:
        scope.cancel()


async def stop_all(served: Sequence[AsyncServed], grace: float) -> None:
    """All at once: each may take that long."""
    async with anyio.create_task_group() as stopping:
        for each in list(served):
            stopping.start_soon(each.stop, grace)

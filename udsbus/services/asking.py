"""One call over one connection of its own to a worker, for the sync client.

A connection has one call at a time. Whoever does not want the answer any more closes it, which the
worker sees; and what a stream does not take waits in the socket, so the worker waits too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections import deque
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..client.connecting import open_at_once, open_socket
from ..client.connection import ADVICE
from ..errors import BrokerUnavailable, ProtocolError, RequestTimeout
from ..limits import CALL_SPIN_SECONDS
from ..spinning import Spinning
from ..wire.framing import Decoder
from ..wire.values import decode
from .failures import raised
from .finding import RemoteWorker
from .frames import AGAIN, LEAVING, answer_of, call_frame, is_stream
from .inherited import not_for_children

if TYPE_CHECKING:
    from typing import Self

    from ..client.sync import Client

SEND_CHUNK = 256 * 1024


class NotTaken(Exception):
    """The worker has not begun with the call, and will not: another can have it."""


class Leaving(NotTaken):
    """And it takes no others."""


class Again(NotTaken):
    """But it may over another connection: it wants that, or has closed this one before it had read
    the call to its end."""


class Lost(Exception):
    """The worker died, or left, with the call in hand."""


def not_connected(worker: RemoteWorker[Any], service: str, error: BrokerUnavailable) -> Exception:
    """What it means that a worker cannot be connected to."""
    if error.errno in (errno.ECONNREFUSED, errno.ENOENT) or worker.free.gone():
        return NotTaken(str(error))  # it is dead, or about to be
    why = "" if error.errno is None else f": {os.strerror(error.errno)}"
    return BrokerUnavailable(f"{service}: cannot connect to its worker (pid {worker.pid}){why}")


class Conversation:
    """Owns its socket."""

    def __init__(self, worker: RemoteWorker[Conversation], service: str, patience: float) -> None:
        """Raises NotTaken when there is no such worker any more; Error."""
        try:
            self._socket = open_at_once(worker.path + ".sock") or open_socket(
                worker.path + ".sock", patience
            )
        except BrokerUnavailable as error:
            raise not_connected(worker, service, error) from None
        not_for_children(self._socket)
        self.worker = worker
        self.service = service
        self._decoder = Decoder()
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        self._poll = poll.poll
        self._spinning = Spinning(CALL_SPIN_SECONDS)
        self._come: deque[Any] = deque()
        self._msgid = 0
        self._what = service

    def ask(self, client: Client, method: str, payload: bytes, until: float, timeout: float) -> Any:
        """The result, or a Stream; raises what the function has raised.

        Raises NotTaken, Lost, RequestTimeout.
        """
        try:
            self._msgid += 1
            self._what = f"{self.service}/{method}" if method else self.service
            frame = call_frame(self._msgid, method, payload, until - monotonic())
            self._send(frame, until, timeout)
            polls = client._cache.words[ADVICE]
            ready = self._spinning.spin(self._poll) if polls else []
            error, result = answer_of(self._next(until, timeout, ready), self._msgid, self.service)
        except BaseException:
            self.close()
            raise
        if error is not None:
            if error[0] in (LEAVING, AGAIN):
                self.close()
                raise Leaving if error[0] == LEAVING else Again
            self.back()
            raise raised(error, result)
        if is_stream(result):
            return Stream(self, timeout)
        self.back()
        return decode(result)

    def back(self) -> None:
        """The call is over."""
        if self._come:  # that nobody has asked for
            self.close()
        else:
            self.worker.back(self)

    def take_item(self, timeout: float) -> list[Any]:
        """The next notification of a stream."""
        message: list[Any] = self._next(monotonic() + timeout, timeout, [])
        return message

    def _next(self, until: float, timeout: float, ready: list[Any]) -> Any:
        while not self._come:
            left = until - monotonic()
            if not ready and (left <= 0 or not self._poll(left * 1000)):
                raise RequestTimeout(
                    f"{self._what}: no answer from the worker (pid {self.worker.pid}) within "
                    f"{timeout:g} s; it is told to give up, but may have done it"
                )
            ready = []
            try:
                data = self._socket.recv(self._decoder.share)
            except BlockingIOError:
                continue
            except (
                ConnectionResetError
            ):  # closed by the other side, with bytes that it has not read
                raise Again from None
            except OSError:
                raise Lost from None
            if not data:
                raise Lost
            self._come += self._decoder.feed(data)
            if self._decoder.cause is not None:
                raise ProtocolError(f"{self.service}: the worker sent {self._decoder.cause}")
        return self._come.popleft()

    def _send(self, frame: bytes, until: float, timeout: float) -> None:
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise Again from None
        rest = memoryview(frame)[sent:]
        poll = None
        while rest:
            if poll is None:
                poll = select.poll()
                poll.register(self._socket.fileno(), select.POLLOUT)
            left = until - monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise RequestTimeout(f"{self.service}: the worker took no call in {timeout:g} s")
            try:
                rest = rest[self._socket.send(rest[:SEND_CHUNK]) :]
            except BlockingIOError:
                pass
            except OSError:
                raise Again from None  # it has not had all of it, so it cannot have begun

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._socket.close()


def begin(
    client: Client, worker: RemoteWorker[Conversation], service: str, patience: float
) -> Conversation:
    """Connect. Raises NotTaken, Error."""
    return Conversation(worker, service, patience)


class Stream:
    """What a generator of a worker yields, one after the other. Close it if you leave it early
    (or use `with`): then the worker stops too."""

    def __init__(self, conversation: Conversation, timeout: float) -> None:
        """`timeout`: seconds to wait for each item."""
        self._conversation: Conversation | None = conversation
        self._timeout = timeout

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Raises what the generator has raised; WorkerLost, RequestTimeout."""
        conversation = self._conversation
        if conversation is None:
            raise StopIteration
        try:
            _, kind, params = conversation.take_item(self._timeout)
        except (Lost, Again):
            self.close()
            from .calling import lost_midway

            raise lost_midway(conversation.service, conversation.worker) from None
        except BaseException:
            self.close()
            raise
        if kind == "item":
            return decode(params[0])
        self._conversation = None
        conversation.back()
        error, details = params
        if error is None:
            raise StopIteration
        raise raised(error, details)

    def close(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

"""What a function can find out of the call that it is carrying out."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic

from ..errors import InvalidRequest


class CurrentCall:
    """The call that is being carried out."""

    def __init__(self, function: str, until: float | None, given_up: Callable[[], bool]) -> None:
        self.function = function
        """What was called: `SERVICE/METHOD`, or `SERVICE`."""
        self._until = until
        self._given_up = given_up

    def wait_for_more(self, seconds: float | None) -> None:
        """Of a stream: whoever calls waits so long for the next item."""
        self._until = None if seconds is None else monotonic() + seconds

    @property
    def seconds_left(self) -> float | None:
        """Until whoever calls gives up (of a stream: on the next item); 0.0: has given up. None:
        waits for ever."""
        return None if self._until is None else max(0.0, self._until - monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more: the time is over, or whoever called has
        gone. A coroutine is cancelled then; another function that takes long should look."""
        return self.seconds_left == 0.0 or self._given_up()


current: ContextVar[CurrentCall] = ContextVar("udsbus_call")


def current_call() -> CurrentCall:
    """The call that this function is carrying out. Raises InvalidRequest outside of one."""
    try:
        return current.get()
    except LookupError:
        raise InvalidRequest("no call of a service is being carried out here") from None

"""What a sync client's event thread keeps going: watches and subscriptions, seen from inside."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

from ..errors import Error
from .requests import Call

log = logging.getLogger("udsbus.client")

_serials = itertools.count(1)

Answer = Callable[[Any], None]


class Gate:
    """Opens once. Unlike `threading.Event`, whose locks an interrupt can leave in disorder."""

    def __init__(self) -> None:
        self.is_open = False
        self._shut = threading.Lock()
        self._shut.acquire()

    def open(self) -> None:
        if not self.is_open:
            self.is_open = True
            with contextlib.suppress(RuntimeError):  # another thread opens it at the same time
                self._shut.release()

    def wait(self, seconds: float) -> bool:
        """For one thread. False if it does not open in time."""
        return self.is_open or self._shut.acquire(timeout=seconds)


class Follower:
    """A watch or a subscription, as whoever reads the event connection sees it."""

    def __init__(self, owner: object) -> None:
        self.started = Gate()
        """Open when the broker has confirmed it, or refused it."""
        self.refusal: Error | None = None
        self.serial = next(_serials)
        self._owner = owner  # kept alive for as long as this is followed

    def begin(self, ask: Callable[[Call[Any], Answer], None], same_bus: bool) -> None:
        """On a connection that has just been made: ask for what is followed."""
        raise NotImplementedError

    def ceaser(self) -> Callable[[], Call[Any] | None]:
        """What gives the request that tells the broker that this is over, or None when it does not
        know of it. Does not keep this alive."""
        raise NotImplementedError

    def notified(self, kind: str, params: list[Any]) -> None:
        """A notification of the broker, to be taken or ignored."""
        raise NotImplementedError

    def beat(self, revision: int) -> None:
        """The broker has told of everything up to `revision`."""

    def interrupted(self, heard: float) -> None:
        """The connection is lost, over which something came at `heard` for the last time; `begin`
        comes when there is another."""

    @property
    def live(self) -> bool:
        """Everything that comes over the connection as it is now goes on to the user."""
        raise NotImplementedError

    def refuse(self, error: Error) -> None:
        self.refusal = error
        if self.started.is_open:
            log.error("a watch or subscription could not be taken up again: %s", error)
            self.wake()
        self.started.open()

    def wake(self) -> None:
        """The client is closing: nobody shall wait any longer."""
        raise NotImplementedError

    def after_fork(self) -> None:
        """In a child: replace what a thread of the parent may have held."""
        if not self.started.is_open:
            self.started = Gate()

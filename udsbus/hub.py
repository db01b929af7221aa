"""One descriptor that stands for all connections: what is ready, without asking each.

An epoll object can itself be polled, so the event loop watches one descriptor however many
connections there are, and the turn asks the hub directly. Where epoll is missing (macOS, BSD) the
best selector of the standard library serves; it must have a descriptor of its own, as kqueue has.
"""

from __future__ import annotations

import select
import selectors
from typing import Final, Protocol

READ: Final = 1
WRITE: Final = 4
HANGUP: Final = 8 | 16
"""Bits of the masks, with the values of EPOLLIN, EPOLLOUT and EPOLLERR | EPOLLHUP."""


class Hub(Protocol):
    tells_hangup: bool
    """Whether HANGUP is reported for a descriptor without interest in READ or WRITE."""

    def add(self, fd: int, interest: int) -> None: ...
    def change(self, fd: int, interest: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """(descriptor, mask) of those that are ready, after at most `timeout` seconds."""
        ...

    def fileno(self) -> int: ...
    def close(self) -> None: ...


class EpollHub:
    tells_hangup = True

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.add = self._epoll.register
        self.change = self._epoll.modify
        self.remove = self._epoll.unregister
        self.poll = self._epoll.poll
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close


class SelectorHub:
    """The same on `selectors`. A descriptor of no interest is taken out: selectors want some."""

    tells_hangup = False

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self._selector = selector if selector is not None else selectors.DefaultSelector()
        self._idle: set[int] = set()
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            raise OSError("this platform has neither epoll nor kqueue; udsbus needs one of them")
        self.fileno = fileno

    def add(self, fd: int, interest: int) -> None:
        self._selector.register(fd, _to_selector(interest))

    def change(self, fd: int, interest: int) -> None:
        if not interest:
            self._selector.unregister(fd)
            self._idle.add(fd)
        elif fd in self._idle:
            self._idle.discard(fd)
            self._selector.register(fd, _to_selector(interest))
        else:
            self._selector.modify(fd, _to_selector(interest))

    def remove(self, fd: int) -> None:
        if fd in self._idle:
            self._idle.discard(fd)
        else:
            self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [(key.fd, _from_selector(mask)) for key, mask in self._selector.select(timeout)]

    def close(self) -> None:
        self._selector.close()


def _to_selector(interest: int) -> int:
    return (selectors.EVENT_READ if interest & READ else 0) | (
        selectors.EVENT_WRITE if interest & WRITE else 0
    )


def _from_selector(mask: int) -> int:
    return (READ if mask & selectors.EVENT_READ else 0) | (
        WRITE if mask & selectors.EVENT_WRITE else 0
    )


def best_hub() -> Hub:
    return EpollHub() if hasattr(select, "epoll") else SelectorHub()

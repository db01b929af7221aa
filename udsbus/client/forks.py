"""A child after a fork: it must leave its parent's connections alone.

Python swallows what the functions raise that it calls at a fork, and Ctrl-C may come in any of
them. So they only make things smooth; that a child never writes to its parent's connection does
not depend on them. `FORKS` grows by a function in C, which no interrupt can keep from being
called, and whoever uses a connection compares.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from functools import partial
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

FORKS: list[None] = []
"""As many as there were forks on the way to this process. Another length: an inherited thing."""

os.register_at_fork(after_in_child=partial(FORKS.append, None))


class Members(Generic[T]):
    """A set of weak references that may be gone through while other threads add to it."""

    def __init__(self) -> None:
        self._serials = itertools.count()
        self._references: dict[int, weakref.ref[T]] = {}

    def add(self, member: T) -> None:
        serial = next(self._serials)
        references = self._references
        references[serial] = weakref.ref(member, lambda _: references.pop(serial, None))

    def all(self) -> list[T]:
        found = [reference() for reference in list(self._references.values())]
        return [member for member in found if member is not None]


class Forking(Protocol):
    """What is told of forks."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None:
        """Undo `before_fork`, if that was called."""

    def after_fork_in_child(self) -> None: ...


told: Members[Forking] = Members()
_one_at_a_time = threading.RLock()


def _before() -> None:
    _one_at_a_time.acquire()
    for each in told.all():
        each.before_fork()


def _after_in_parent() -> None:
    try:
        for each in told.all():
            each.after_fork_in_parent()
    except BaseException:  # Ctrl-C: a lock that stays locked would stop all events
        for each in told.all():
            each.after_fork_in_parent()
        raise
    finally:
        release(_one_at_a_time)


def _after_in_child() -> None:
    release(_one_at_a_time)
    for each in told.all():
        each.after_fork_in_child()


def release(lock: threading.RLock) -> None:
    """Unless this thread does not hold it: an interrupt kept it from getting there."""
    with contextlib.suppress(RuntimeError):
        lock.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)

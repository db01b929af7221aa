"""What a child must not keep of its parent after a fork: ends of connections and pipes.

While the child has them, the others do not see that the parent is dead: a call would wait for ever
for its answer, and a pipe would tell of a worker that is free.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Open(Protocol):
    def close(self) -> object: ...


_open: weakref.WeakSet[Open] = weakref.WeakSet()


def not_for_children(opened: Open) -> None:
    """A child closes it as soon as it begins; closing must do nothing that the parent notices."""
    _open.add(opened)


def _close_all() -> None:
    for opened in list(_open):
        with contextlib.suppress(OSError):
            opened.close()


os.register_at_fork(after_in_child=_close_all)

"""What a connection wants to be told of the changes that match its patterns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..messages import Change
from ..terms import DELETED


class Want(NamedTuple):
    """Of one watch; or of all watches of a connection, of which each picks its own: `united`."""

    kinds: frozenset[str] | None = None
    """Changes of these kinds; None: of all."""
    ignore_own: bool = False
    """Not those that its session has made, but for what it has deleted: who keeps account of what
    there is must take that off the list."""
    detail: bool = False
    """With the value before and the session that made them."""

    def wants(self, change: Change, session: str | None) -> bool:
        """Whether it is told of a change; `session` is that of the connection."""
        if self.kinds is not None and change.kind not in self.kinds:
            return False
        if not self.ignore_own or session is None or change.session != session:
            return True
        return change.kind == DELETED


USUAL = Want()


def united(wants: Iterable[Want]) -> Want:
    """What all of them want, or more."""
    kinds: set[str] | None = set()
    ignore_own, detail = True, False
    for want in wants:
        kinds = None if kinds is None or want.kinds is None else kinds | want.kinds
        ignore_own = ignore_own and want.ignore_own
        detail = detail or want.detail
    return Want(None if kinds is None else frozenset(kinds), ignore_own, detail)

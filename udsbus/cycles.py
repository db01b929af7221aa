"""Who waits for whom in a circle: a deadlock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def cycle_through(start: Node, waits_for: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """The way from `start` back to `start`, without that at its end; empty if there is none."""
    way = [start]
    seen = {start}
    ahead = [iter(waits_for(start))]
    while ahead:
        for node in ahead[-1]:
            if node == start:
                return way
            if node not in seen:
                seen.add(node)
                way.append(node)
                ahead.append(iter(waits_for(node)))
                break
        else:
            ahead.pop()
            way.pop()
    return []

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


def cycles(nodes: Iterable[Node], waits_for: Callable[[Node], Iterable[Node]]) -> list[list[Node]]:
    """Cycles among `nodes` and those they wait for, without a node in common: one at least of each
    group in which all wait for all."""
    found: list[list[Node]] = []
    told: set[Node] = set()
    done: set[Node] = set()
    for start in nodes:
        if start in done:
            continue
        way, places = [start], {start: 0}
        ahead = [iter(waits_for(start))]
        while ahead:
            node = next((node for node in ahead[-1] if node not in done), None)
            if node is None:
                ahead.pop()
                done.add(way.pop())
                del places[next(reversed(places))]
            elif node in places:
                if node not in told and not told.intersection(cycle := way[places[node] :]):
                    found.append(cycle)
                    told.update(cycle)
            else:
                places[node] = len(way)
                way.append(node)
                ahead.append(iter(waits_for(node)))
    return found

"""Who waits for whom in a circle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udsbus.cycles import cycle_through, cycles

graphs = st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), max_size=8)


def reachable(graph: dict[int, list[int]], start: int) -> set[int]:
    found: set[int] = set()
    ahead = list(graph.get(start, []))
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += graph.get(node, [])
    return found


def is_cycle(graph: dict[int, list[int]], way: list[int]) -> bool:
    pairs = zip(way, [*way[1:], way[0]], strict=True)
    return len(set(way)) == len(way) and all(after in graph.get(node, []) for node, after in pairs)


@given(graphs)
def test_cycles(graph: dict[int, list[int]]) -> None:
    def waits_for(node: int) -> list[int]:
        return graph.get(node, [])

    found = cycles(graph, waits_for)
    assert all(is_cycle(graph, way) for way in found)
    groups = [frozenset(way) for way in found]
    assert len(set(groups)) == len(groups)
    in_a_cycle = {node for node in range(8) if node in reachable(graph, node)}
    for node in in_a_cycle:
        together = {one for one in reachable(graph, node) if node in reachable(graph, one)}
        assert any(set(way) <= together for way in found), "one of each group"
    assert bool(found) == bool(in_a_cycle)
    for node in range(8):
        way = cycle_through(node, waits_for)
        assert bool(way) == (node in in_a_cycle)
        assert not way or (way[0] == node and is_cycle(graph, way))

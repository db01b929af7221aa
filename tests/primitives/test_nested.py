"""Dicts, lists and sets within a dict that processes share."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import udsbus
from tests.client.support import PATIENCE, in_children
from tests.harness import BrokerProcess
from udsbus import Client, LocalBroker, Mapping, SharedDict, SharedList, SharedSet, UnsupportedValue

from .conftest import Asked


@pytest.fixture
def mapping(client: Client) -> Mapping:
    return client.mapping("config")


@pytest.fixture
def other(bus: BrokerProcess) -> Iterator[Mapping]:
    """The same, of another client."""
    with udsbus.connect(bus.address, timeout=PATIENCE) as other:
        yield other.mapping("config")


# --- a view -----------------------------------------------------------------------------------


def test_what_is_in_it_is_shared(mapping: Mapping, other: Mapping, client: Client) -> None:
    mapping["d"] = {"web": {"port": 80}, "l": [[1], {"a": 1}], 5: {1}, (1, 2): ([1], "t")}
    mapping["d"]["web"]["port"] = 81
    mapping["d"]["l"][0].append(2)
    mapping["d"]["l"][-1]["a"] = 2
    mapping["d"][5].add(3)
    mapping["d"]["l"][0] += [4]
    mapping.setdefault("l", []).append(4)
    mapping.setdefault("l", []).append(5)
    expected = {"web": {"port": 81}, "l": [[1, 2, 4], {"a": 2}], 5: {1, 3}, (1, 2): ([1], "t")}
    assert other["d"] == expected
    assert client.items("config/**") == [("config/d", expected), ("config/l", [4, 5])]


def test_where_views_come_from(mapping: Mapping) -> None:
    mapping.update({"d": {"d": {}, "l": [], "s": set()}, "l": [{}, []], "n": 1, "t": ([1],)})
    found = mapping["d"]
    for view, kind in (
        (found, SharedDict), (mapping.get("l"), SharedList), (mapping.setdefault("d"), SharedDict),
        (mapping.setdefault("new", set()), SharedSet), (dict(mapping.items())["d"], SharedDict),
        (next(iter(mapping.values())), SharedDict), (found["s"], SharedSet),
        (found.get("l"), SharedList), (found.setdefault("d", 1), SharedDict),
        (found.setdefault("new", {}), SharedDict), (dict(found.items())["l"], SharedList),
        (next(iter(found.values())), SharedDict), (next(iter(mapping["l"])), SharedDict),
        (next(reversed(mapping["l"])), SharedList), (mapping["l"][1:][0], SharedList),
        (mapping["t"][0], list), (mapping.copy()["d"], dict), (mapping.pop("l"), list),
        (found.pop("l"), list), (found.popitem()[1], dict), (mapping.get("x", {}), dict),
        (found.get("x", []), list), (mapping.pop("x", []), list), (found.pop("x", []), list),
        (found.plain()["d"], dict), (found.copy(), dict), (copy.copy(found), dict),
        (copy.deepcopy(found), dict), (mapping.change("c", list, ()), list),
    ):  # fmt: skip
        assert type(view) is kind


def test_a_view_shows_what_is_there_now(mapping: Mapping, other: Mapping) -> None:
    mapping["l"] = [1]
    view = mapping["l"]
    other["l"].append(2)
    assert view == [1, 2]
    assert len(view) == 2
    other["l"] = [3]
    assert repr(view) == "SharedList([3])"
    with pytest.raises(TypeError):
        json.dumps(view)
    assert json.dumps(view.plain()) == "[3]"


def test_to_look_at_a_view_is_one_request(mapping: Mapping, asked: Asked) -> None:
    mapping.update(d={"a": [1], "b": [2]}, l=[[1], [2]], s={1, 2, 3})
    d, l, s = mapping["d"], mapping["l"], mapping["s"]  # noqa: E741
    for look, result in (
        (lambda: [*iter(d)], ["a", "b"]), (lambda: [*iter(d.items())], [("a", [1]), ("b", [2])]),
        (lambda: 3 in d.values(), False), (lambda: d | {}, {"a": [1], "b": [2]}),
        (lambda: d == {}, False), (lambda: l.index([2]), 1), (lambda: l.count([2]), 1),
        (lambda: [2] in l, True), (lambda: l == [], False), (lambda: [*reversed(l)][0:0], []),
        (lambda: l.__add__([3]), [[1], [2], 3]), (lambda: s & {1, 2}, {1, 2}),
        (lambda: s >= {1}, True), (lambda: {1, 5} - s, {5}), (lambda: s.union([4]), {1, 2, 3, 4}),
        (lambda: s == {1}, False), (lambda: s.isdisjoint([1, 2]), False),
    ):  # fmt: skip
        asked.forget()
        found = look()
        assert asked.methods == ["read"]
        assert found == result


def test_what_is_not_imported_is_a_view_too(mapping: Mapping, bus: BrokerProcess) -> None:
    mapping["l"] = []
    command = (
        "import sys, udsbus; config = udsbus.connect(sys.argv[1]).mapping('config'); "
        "config['l'].append(1)"
    )
    subprocess.run([sys.executable, "-c", command, bus.address], check=True)
    assert mapping["l"] == [1]


def test_a_view_in_a_pickle(mapping: Mapping) -> None:
    mapping["d"] = {"l": [{1}]}
    view = pickle.loads(pickle.dumps(mapping["d"]["l"][0]))
    view.add(2)
    assert mapping["d"] == {"l": [{1, 2}]}


def test_equality_is_by_content(mapping: Mapping, client: Client) -> None:
    mapping.update(d={"a": [1]}, l=[1, {}], s={1, 2}, same={"a": [1]})
    assert mapping["d"] == {"a": [1]} == mapping["d"]
    assert {"a": [1]} == mapping["d"] == mapping["same"]
    assert [1, {}] == mapping["l"] == [1, mapping["l"][1]]
    assert {1, 2} == mapping["s"] == frozenset({2, 1})
    assert mapping["s"] == {1: 0, 2: 0}.keys()
    assert mapping["d"] != {"a": [2]}
    assert mapping["l"] != (1, {})
    assert mapping["l"] != mapping["s"] != mapping["d"]
    assert mapping["l"] in [[1, {}]]
    assert mapping["d"] in mapping.values()
    assert ("l", [1, {}]) in mapping.items()
    client.mapping("more")["x"] = {"a": [1]}
    assert client.mapping("more") == {"x": mapping["d"]}
    for view in (mapping["d"], mapping["l"], mapping["s"]):
        with pytest.raises(TypeError, match="unhashable"):
            hash(view)


def test_a_view_that_is_stored_is_its_content(mapping: Mapping) -> None:
    mapping["a"] = [1, {"x": 1}]
    a = mapping["a"]
    mapping["b"] = a
    mapping["c"] = {"in": [(a, 1)]}
    mapping.update(d=a, e=[a])
    mapping.setdefault("f", [a])
    mapping.change("g", lambda _: {"new": a})
    mapping["h"] = {}
    mapping["h"]["a"] = a
    mapping["h"].update(b=[a])
    mapping["h"].setdefault("c", a)
    mapping["l"] = []
    mapping["l"].append(a)
    mapping["l"].extend([a])
    mapping["l"] += a
    mapping["l"].insert(0, [a])
    mapping["l"][1] = (a,)
    mapping["l"][3:3] = [a]
    a[1]["x"] = 2
    assert a == [1, {"x": 2}]
    one = [1, {"x": 1}]
    assert mapping.copy() == {
        "a": [1, {"x": 2}], "b": one, "c": {"in": [(one, 1)]}, "d": one, "e": [one], "f": [one],
        "g": {"new": one}, "h": {"a": one, "b": [one], "c": one},
        "l": [[one], (one,), one, one, *one],
    }  # fmt: skip
    a[1]["self"] = a
    assert a == [1, {"x": 2, "self": [1, {"x": 2}]}]
    assert a[1] in a
    assert a.index(a[1]) == a.count(a[1]) == 1
    a.remove(a[1])
    assert a == [1]


def test_what_cannot_be_sent_changes_nothing(mapping: Mapping) -> None:
    mapping.update(d={}, l=[], s=set())
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), circle):
        for change in (
            lambda: mapping.__setitem__("new", value),  # noqa: B023
            lambda: mapping["d"].__setitem__("a", value),  # noqa: B023
            lambda: mapping["l"].append(value),  # noqa: B023
        ):
            with pytest.raises(UnsupportedValue):
                change()
    with pytest.raises(UnsupportedValue, match=r"send its .plain\(\)"):
        mapping._client.set("a", mapping["d"])
    assert mapping == {"d": {}, "l": [], "s": set()}


# --- what is no longer there ------------------------------------------------------------------

Use = Callable[[Any], Any]
USES: dict[type, list[Use]] = {
    SharedDict: [
        len, list, repr, lambda v: v["a"], lambda v: v.get("a"), lambda v: "a" in v,
        lambda v: v.pop("a", 1), lambda v: v.update(a=1), lambda v: v.clear(), lambda v: v == {},
        lambda v: v.setdefault("a"), lambda v: v.popitem(), lambda v: v.__setitem__("a", 1),
        lambda v: v.__delitem__("a"), lambda v: list(v.items()), lambda v: v | {},
    ],
    SharedList: [
        len, list, lambda v: v[0], lambda v: v.append(1), lambda v: v.extend([]), lambda v: v == [],
        lambda v: v.clear(), lambda v: v.sort(), lambda v: 1 in v, lambda v: v.__imul__(2),
        lambda v: v.__setitem__(0, 1), lambda v: v.__delitem__(0), lambda v: v.__add__([]),
    ],
    SharedSet: [
        len, list, lambda v: v.add(1), lambda v: v.discard(1), lambda v: 1 in v, lambda v: v == {1},
        lambda v: v.clear(), lambda v: v.pop(), lambda v: v.update(), lambda v: v | {1},
    ],
}  # fmt: skip
GONE: list[tuple[Any, type[Exception], str]] = [
    (None, KeyError, "config/a is no longer there"),
    ([[], {}], TypeError, "config/a is no dict any more, but list"),
    ({"b": [0]}, IndexError, "config/a['b'][1] is no longer there"),
    ({"b": {1: {}}}, TypeError, "config/a['b'] is no list any more, but dict"),
    ({"b": ((), {})}, TypeError, "config/a['b'] is no list any more, but tuple"),
    ({"b": [0, 1]}, TypeError, "config/a['b'][1] is no {kind} any more, but int"),
    ({"c": 1}, KeyError, "config/a['b'] is no longer there"),
]


@pytest.mark.parametrize("number", range(len(GONE)))
@pytest.mark.parametrize("content", [{"a": 1}, [1], {1}], ids=["dict", "list", "set"])
def test_what_is_no_longer_there(
    mapping: Mapping, client: Client, content: Any, number: int
) -> None:
    mapping["a"] = {"b": [0, content]}
    view = mapping["a"]["b"][1]
    now, kind, message = GONE[number]
    del mapping["a"]
    if now is not None:
        mapping["a"] = now
    before = client.revision()
    message = message.format(kind=type(content).__name__)
    for use in USES[type(view)]:
        if use is not repr:
            with pytest.raises(kind) as caught:
                use(view)
            assert caught.value.args == (message,)
    assert repr(view) == f"<{type(view).__name__}: {message}>"
    assert client.revision() == before
    assert mapping.get("a") == now


def test_a_place_that_has_become_another_kind(mapping: Mapping) -> None:
    mapping["a"] = {}
    view = mapping["a"]
    mapping["a"] = []
    with pytest.raises(TypeError, match="config/a is no dict any more, but list"):
        view["x"] = 1
    assert mapping["a"] == []


# --- changes ----------------------------------------------------------------------------------


def test_a_change_is_one_write_and_none_if_nothing_changes(
    mapping: Mapping, client: Client
) -> None:
    mapping.update(d={"a": 1}, l=[1, 2], s={1, 2}, empty={}, none=[])
    d, l, s = mapping["d"], mapping["l"], mapping["s"]  # noqa: E741

    def writes(change: Callable[[], object]) -> int:
        before = client.revision()
        try:
            change()
        except (LookupError, ValueError, TypeError, AttributeError):
            assert client.revision() == before
        return client.revision() - before

    for change in (
        lambda: d.update(b=2, c=3), lambda: d.__ior__({"x": 1}), lambda: d.setdefault("new", 1),
        lambda: d.pop("b"), lambda: d.__delitem__("c"), lambda: l.extend([3, 4]),
        lambda: l.__iadd__([5, 6]), lambda: l.__imul__(2), lambda: l.sort(reverse=True),
        lambda: l.reverse(), lambda: l.insert(0, 9), lambda: l.pop(0), lambda: l.remove(6),
        lambda: l.__setitem__(slice(0, 2), "abc"), lambda: l.__delitem__(slice(0, 3)),
        lambda: s.update([3, 4], {5}), lambda: s.__ior__({6, 7}), lambda: s.__iand__({1, 3, 4, 5}),
        lambda: s.__isub__({5}), lambda: s.__ixor__({1, 7}), lambda: s.add(8), lambda: s.remove(8),
        lambda: s.discard(7), lambda: s.intersection_update({3}), lambda: s.pop(),
        lambda: s.symmetric_difference_update([9, 10]), lambda: s.difference_update([9]),
    ):  # fmt: skip
        assert writes(change) == 1
    assert d == {"a": 1, "x": 1, "new": 1}
    assert l == [2, 2, 3, 3, 4, 4, 5, 5, 6]
    for change in (
        lambda: d.setdefault("a", 2), lambda: d.pop("b", 2), lambda: d.pop("b"), lambda: d.update(),
        lambda: d.__delitem__("b"), lambda: mapping["empty"].clear(),
        lambda: mapping["empty"].popitem(), lambda: d.__setitem__([], 1),
        lambda: l.remove("absent"), lambda: l.extend([]), lambda: l.pop(100),
        lambda: l.__setitem__(100, 1), lambda: l.__setitem__("a", 1),
        lambda: mapping["none"].clear(), lambda: s.__iand__(s), lambda: s.__isub__({100}),
        lambda: l.__setitem__(slice(0, 4, 2), [1]), lambda: s.add(next(iter(s))),
        lambda: s.discard(100), lambda: s.remove(100), lambda: s.update(s),
        lambda: s.__ior__(set()), lambda: s.add([]), lambda: s.__ior__([1]),
        lambda: l.sort(key=lambda item: item.absent if item > 5 else item),
    ):  # fmt: skip
        assert writes(change) == 0
    assert l == [2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert s == {10}


def test_adding_to_what_is_in_it_is_one_write(mapping: Mapping, client: Client) -> None:
    """`m[k] += x` ends with m[k] = m[k], which must not write what others have changed since."""
    mapping.update(l=[[1]], d={"a": {}}, s={1})
    before = client.revision()
    mapping["l"] += [2]
    mapping["l"][0] += [2]
    mapping["l"][-2] += [3]
    mapping["l"] *= 1
    mapping["d"] |= {"b": 1}
    mapping["d"]["a"] |= {"x": 1}
    mapping["s"] |= {2}
    mapping["s"] -= {1}
    assert client.revision() == before + 8
    assert mapping == {"l": [[1, 2, 3], 2], "d": {"a": {"x": 1}, "b": 1}, "s": {2}}
    gone = mapping.pop("s") and mapping["l"]
    del mapping["l"]
    with pytest.raises(KeyError):
        mapping["l"] = gone
    assert "l" not in mapping


def test_a_view_of_another_bus_is_written(mapping: Mapping) -> None:
    mapping["l"] = [1]
    with LocalBroker() as broker, broker.connect(timeout=PATIENCE) as elsewhere:
        same = elsewhere.mapping("config")
        same["l"] = [2]
        same["l"] = mapping["l"]
        assert same == {"l": [1]}


def test_a_view_of_another_place_is_written(mapping: Mapping, client: Client) -> None:
    mapping.update(l=[[1], [2]], d={"a": {}, None: 1})
    client.mapping("more")["l"] = mapping["l"]
    mapping["l"][1] = mapping["l"][0]
    mapping["d"][None] = mapping["d"]["a"]
    assert mapping == {"l": [[1], [1]], "d": {"a": {}, None: {}}}
    assert client.mapping("more") == {"l": [[1], [2]]}


def test_what_others_change_meanwhile_is_not_lost(mapping: Mapping, other: Mapping) -> None:
    """Somebody else is quicker, twice."""
    mapping["l"] = [1]
    quicker = [2, 3]

    def key(item: int) -> int:
        if quicker:
            other["l"].append(quicker.pop())
        return -item

    mapping["l"].sort(key=key)
    assert mapping["l"] == [3, 2, 1]


def test_what_is_iterated_over_is_taken_once(mapping: Mapping, other: Mapping) -> None:
    """A change may be tried several times, an iterator gives its items once."""
    mapping.update(l=[0], s={0}, d={0: 0})

    update = mapping._client.update

    def interrupted(key: str, function: Any, default: Any) -> Any:
        def interrupting(value: Any) -> Any:
            result = function(value)
            if not done:
                done.append(True)
                changes[key]()
            return result

        return update(key, interrupting, default)

    changes: dict[str, Callable[[], object]] = {
        "config/l": lambda: other["l"].insert(0, 9),
        "config/s": lambda: other["s"].add(9),
        "config/d": lambda: other["d"].update({9: 9}),
    }
    done: list[bool] = []
    mapping._client.update = interrupted  # type: ignore[assignment, method-assign]
    try:
        mapping["l"].extend(iter([1, 2]))
        done.clear()
        mapping["s"].update(iter([1, 2]))
        done.clear()
        mapping["d"].update(iter([(1, 1)]))
        done.clear()
        mapping["l"][2:2] = iter([5, 6])
    finally:
        del mapping._client.update
    assert mapping == {"l": [9, 9, 5, 6, 0, 1, 2], "s": {0, 9, 1, 2}, "d": {0: 0, 9: 9, 1: 1}}


# --- several processes ------------------------------------------------------------------------


def test_nothing_is_lost_between_processes(bus: BrokerProcess, mapping: Mapping) -> None:
    mapping["a"] = {"list": [], "dict": {}, "set": set(), "deep": [{"n": []}]}

    def work(name: int) -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            mine = client.mapping("config")
            for number in range(20):
                mine["a"]["list"].append((name, number))
                mine["a"]["dict"][name, number] = number
                mine["a"]["set"].add((name, number))
                mine["a"]["deep"][0]["n"] += [(name, number)]

    in_children(*(lambda name=name: work(name) for name in range(3)))
    expected = {(name, number) for name in range(3) for number in range(20)}
    a = mapping["a"].plain()
    assert a["set"] == expected
    assert a["dict"] == {each: each[1] for each in expected}
    for found in (a["list"], a["deep"][0]["n"]):
        assert sorted(found) == sorted(expected)
        for name in range(3):
            assert [number for one, number in found if one == name] == list(range(20))


def test_each_is_popped_by_one_process(bus: BrokerProcess, mapping: Mapping) -> None:
    mapping.update(l=list(range(60)), s=set(range(60)), d=dict.fromkeys(range(60)))

    def take() -> list[list[int]]:
        found: list[list[int]] = [[], [], []]
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            mine = client.mapping("config")
            pops = (mine["l"].pop, mine["s"].pop, lambda: mine["d"].popitem()[0])
            for each, pop in zip(found, pops, strict=True):
                try:
                    while True:
                        each.append(pop())
                except LookupError:
                    pass
        return found

    of_all = in_children(take, take, take)
    for number in range(3):
        assert sorted(item for found in of_all for item in found[number]) == list(range(60))
    assert mapping == {"l": [], "s": set(), "d": {}}


def test_processes_add_to_what_is_there_at_once(bus: BrokerProcess, mapping: Mapping) -> None:
    """With `+=` on the item itself."""
    mapping.update(l=[], s=set(), d={})

    def work(name: int) -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            mine = client.mapping("config")
            for number in range(20):
                mine["l"] += [(name, number)]
                mine["s"] |= {(name, number)}
                mine["d"] |= {(name, number): None}

    in_children(*(lambda name=name: work(name) for name in range(3)))
    expected = {(name, number) for name in range(3) for number in range(20)}
    assert mapping["s"] == expected == set(mapping["l"]) == set(mapping["d"])
    assert len(mapping["l"]) == 60

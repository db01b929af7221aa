"""A dict that processes share: what is in it one key each."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import udsbus
from tests.client.support import PATIENCE, in_children
from tests.engine.support import examples
from tests.harness import BrokerProcess
from udsbus import (
    AccessDenied,
    Change,
    Client,
    InvalidRequest,
    LimitExceeded,
    Mapping,
    UnsupportedValue,
)
from udsbus.limits import PAGE_KEYS

from .conftest import Asked


@pytest.fixture
def mapping(client: Client) -> Mapping:
    return client.mapping("config")


@pytest.fixture
def other(bus: BrokerProcess) -> Iterator[Mapping]:
    """The same, of another client."""
    with udsbus.connect(bus.address, timeout=PATIENCE) as other:
        yield other.mapping("config")


# --- keys of the bus --------------------------------------------------------------------------


def test_its_keys_are_those_below_its_name(client: Client, mapping: Mapping) -> None:
    mapping["colour"] = "green"
    mapping["servers/web"] = 1
    mapping[5] = mapping["a*"] = None
    for key in ("config", "config-2", "configs/a", "other"):
        client.set(key, "not in it")
    assert client.items("config/*/**") == [
        ("config/%=5", None), ("config/a%2A", None), ("config/colour", "green"),
        ("config/servers/web", 1),
    ]  # fmt: skip
    assert list(mapping) == [5, "a*", "colour", "servers/web"]
    assert len(mapping) == 4
    assert mapping.copy() == {5: None, "a*": None, "colour": "green", "servers/web": 1}
    mapping.clear()
    assert client.keys() == ["config", "config-2", "configs/a", "other"]
    assert not mapping


def test_what_others_write_is_in_it(client: Client, mapping: Mapping) -> None:
    written = {"config/50%": 1, "config/%=05": 2, "config/%": 3, "config/%~c1": 4, "config/%=7": 5}
    client.set_many(written)
    assert mapping.copy() == {"50%": 1, "%=05": 2, "": 3, "%~c1": 4, 7: 5}
    assert {key: mapping[key] for key in mapping} == mapping.copy()
    assert {mapping.bus_key(key): value for key, value in mapping.items()} == written
    assert {mapping.key_of(key): value for key, value in written.items()} == mapping.copy()
    with pytest.raises(KeyError):
        mapping.key_of("configs/a")


@pytest.mark.parametrize("name", ["", "a//b", "a/*", "**", None, "a/" * 30 + "a", "k" * 1020])
def test_a_name_is_checked_at_once(client: Client, name: Any) -> None:
    with pytest.raises((InvalidRequest, LimitExceeded)):
        client.mapping(name)


def test_the_brokers_own_keys_are_not_for_writing(client: Client) -> None:
    with pytest.raises(AccessDenied):
        client.mapping("$sys/clients")


def test_what_is_no_key_is_a_type_error(mapping: Mapping) -> None:
    for key in ([], object(), float("nan"), "\ud800"):
        for use in (
            mapping.__getitem__, mapping.__contains__, mapping.get, mapping.pop, mapping.setdefault,
            mapping.__delitem__, mapping.increment, lambda key: mapping.__setitem__(key, 1),
            lambda key: mapping.change(key, str), lambda key: mapping.update([(key, 1)]),
        ):  # fmt: skip
            with pytest.raises(TypeError):
                use(key)
    assert not mapping


def test_its_changes_can_be_watched(client: Client, mapping: Mapping) -> None:
    client.set("config", "not in it")
    mapping["a*"] = 1
    with mapping.watch(initial=True) as watch:
        client.set("config", "nor this")
        mapping["b"] = 2
        changes = [watch.get(PATIENCE) for _ in range(3)]
    found = [
        (change.kind, mapping.key_of(change.key), change.value)
        for change in changes
        if isinstance(change, Change)
    ]
    assert found == [("present", "a*", 1), ("created", "b", 2)]


# --- one key ----------------------------------------------------------------------------------


def test_none_is_a_value(client: Client, mapping: Mapping) -> None:
    mapping["a"] = None
    assert "a" in mapping
    assert mapping["a"] is None
    assert mapping.get("a", 1) is None
    assert mapping.setdefault("a", 1) is None
    assert mapping.pop("a", 1) is None
    assert "a" not in mapping


def test_what_is_absent(mapping: Mapping) -> None:
    def delete(key: Any) -> None:
        del mapping[key]

    for use in (mapping.__getitem__, mapping.pop, delete):
        with pytest.raises(KeyError) as caught:
            use((1, "a"))
        assert caught.value.args == ((1, "a"),)
    with pytest.raises(KeyError, match="dictionary is empty"):
        mapping.popitem()
    assert mapping.get("a") is None
    assert mapping.pop("a", 3) == 3


def test_setdefault_leaves_what_another_has_set(
    mapping: Mapping, other: Mapping, asked: Asked
) -> None:
    asked.before["set"] = lambda: other.update(a=2)
    assert mapping.setdefault("a", 1) == 2
    assert asked.methods == ["read", "set"], "what the other has set is in memory"
    assert mapping.setdefault("b", 1) == 1
    assert (other["a"], other["b"]) == (2, 1)


def test_pop_is_one_request(mapping: Mapping, asked: Asked) -> None:
    mapping["a"] = [1]
    asked.methods.clear()
    assert type(mapping.pop("a")) is list
    assert asked.methods == ["transaction"]


def test_popitem_takes_another_when_somebody_was_quicker(
    mapping: Mapping, other: Mapping, asked: Asked
) -> None:
    mapping.update({"a": 1, "b": [2]})
    asked.before["delete"] = lambda: other.pop("a")
    key, value = mapping.popitem()
    assert (key, value, type(value)) == ("b", [2], list)
    assert not other


def test_popitem_takes_what_is_there_now(mapping: Mapping, other: Mapping, asked: Asked) -> None:
    mapping["a"] = 1
    asked.before["delete"] = lambda: other.update(a=2)
    assert mapping.popitem() == ("a", 2)


def test_change_loses_nothing(mapping: Mapping, other: Mapping, asked: Asked) -> None:
    def add(found: list[int]) -> list[int]:
        found.append(1)
        return found

    asked.before["set"] = lambda: other.update(a=[2])
    assert mapping.change("a", add, []) == [2, 1]
    default: list[int] = []
    asked.before["set"] = lambda: other.update(b=1) or other.pop("b")  # type: ignore[func-returns-value]
    assert mapping.change("b", add, default) == [1]
    assert default == []
    assert other["b"] == [1]
    members: set[int] = set()
    assert mapping.change("s", lambda found: found.add(1) or found, members) == {1}
    assert members == set()


def test_increment(mapping: Mapping) -> None:
    assert mapping.increment("n") == 1
    assert mapping.increment("n", 1.5) == 2.5
    assert mapping["n"] == 2.5


# --- many at once -----------------------------------------------------------------------------


def test_update_is_one_write(client: Client, mapping: Mapping) -> None:
    before = client.revision()
    mapping.update([("a", 1), (2, 2)], b=3)
    assert client.revision() == before + 1
    mapping |= {"c": 4}
    mapping.update()
    assert client.revision() == before + 2
    assert mapping == {"a": 1, 2: 2, "b": 3, "c": 4}


def test_an_update_with_something_that_cannot_be_sent_does_nothing(mapping: Mapping) -> None:
    with pytest.raises(UnsupportedValue, match="type object"):
        mapping.update(a=1, b=object())
    assert not mapping


def test_clear_is_one_write(client: Client, mapping: Mapping) -> None:
    mapping.update(dict.fromkeys(range(10)))
    before = client.revision()
    mapping.clear()
    assert client.revision() == before + 1
    assert len(mapping) == 0


def test_another_one_is_read_in_pages(client: Client, mapping: Mapping, asked: Asked) -> None:
    more = client.mapping("more")
    more.update({"a": 1, "b": [2]})
    asked.methods.clear()
    mapping.update(more)
    assert asked.methods == ["items", "set_many"]
    assert mapping == more
    assert asked.methods[2:] == ["items"] * 2


def test_operators_make_dicts(client: Client, mapping: Mapping) -> None:
    mapping["a"] = 1
    more = client.mapping("more")
    more["a"] = 2
    for union, expected in ((mapping | {"b": 3}, {"a": 1, "b": 3}), ({"a": 0} | mapping, {"a": 1})):
        assert type(union) is dict
        assert union == expected
    assert mapping | more == more
    assert more != mapping
    assert mapping == client.mapping("config") == {"a": 1}
    for wrong in ([("b", 1)], 3):
        with pytest.raises(TypeError):
            mapping | wrong
        assert mapping != wrong


@pytest.mark.parametrize("empty", [True, False])
def test_one_request_for_each_page(mapping: Mapping, asked: Asked, empty: bool) -> None:
    number = 0 if empty else PAGE_KEYS + 10
    expected = dict.fromkeys(map(str, range(number)), 1)
    mapping.update(expected)
    pages = 1 if empty else 2
    for use, method, result in (
        # Not `list(mapping)`, which asks for the length too, to make room.
        (lambda mapping: [*iter(mapping)], "keys", sorted(expected)),
        (lambda mapping: [*iter(mapping.keys())], "keys", sorted(expected)),
        (lambda mapping: [*iter(mapping.items())], "items", sorted(expected.items())),
        (lambda mapping: [*iter(mapping.values())], "items", [1] * number),
        (lambda mapping: 2 in mapping.values(), "items", False),
        (Mapping.copy, "items", expected),
        (lambda mapping: mapping == {1: 2}, "items", False),
    ):
        asked.methods.clear()
        assert use(mapping) == result
        assert asked.methods == [method] * pages
    asked.methods.clear()
    assert bool(mapping) is not empty
    assert asked.methods == ["items"]


def test_iteration_goes_on_when_keys_go(mapping: Mapping, other: Mapping) -> None:
    total = PAGE_KEYS + 10
    for view in (mapping, mapping.keys(), mapping.items(), mapping.values()):
        mapping.update({f"{number:05}": number for number in range(total)})
        iterator = iter(view)
        next(iterator)
        assert hasattr(iterator, "__next__")
        other.clear()
        assert len(list(iterator)) == PAGE_KEYS - 1


def test_popitem_looks_past_pages_without_any(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may hold nothing and yet not be the last."""
    mapping = client.mapping("config")
    mapping["a"] = 1
    call = client._call
    empty: list[tuple[list[Any], str]] = [([], "config/%")]

    def answer(request: Any) -> Any:
        return empty.pop() if empty and request.method == "items" else call(request)

    monkeypatch.setattr(client, "_call", answer)
    assert mapping.popitem() == ("a", 1)
    assert empty == []


# --- between processes ------------------------------------------------------------------------


def test_counters_of_several_processes(bus: BrokerProcess, mapping: Mapping) -> None:
    def work() -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            mine = client.mapping("config")
            for _ in range(50):
                mine.increment("increment")
                mine.change("change", lambda number: number + 1, 0)

    in_children(work, work, work)
    assert mapping == {"increment": 150, "change": 150}


def test_each_item_is_popped_once(bus: BrokerProcess, mapping: Mapping) -> None:
    def take() -> list[int]:
        found = []
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            while mine := client.mapping("config"):
                try:
                    found.append(mine.popitem()[1])
                except KeyError:
                    break
        return found

    mapping.update({str(number): number for number in range(100)})
    found = in_children(take, take, take)
    assert sorted(number for each in found for number in each) == list(range(100))


def test_each_key_is_set_by_one(bus: BrokerProcess, mapping: Mapping) -> None:
    def claim(name: str) -> list[str]:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            mine = client.mapping("config")
            return [mine.setdefault(str(number), name) for number in range(50)]

    one, two = in_children(lambda: claim("one"), lambda: claim("two"))
    assert one == two == [mapping[str(number)] for number in range(50)]


def fill(mapping: Mapping, nested: Any) -> None:
    mapping["b"] = mapping["a"] + 1
    nested.append(3)


def test_it_goes_to_other_processes(mapping: Mapping) -> None:
    mapping.update({"a": 1, "l": [1, 2]})
    process = multiprocessing.get_context("spawn").Process(
        target=fill, args=(mapping, mapping["l"])
    )
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert mapping == {"a": 1, "b": 2, "l": [1, 2, 3]}


def test_a_pickle_is_the_same_one(client: Client, mapping: Mapping, asked: Asked) -> None:
    copy = pickle.loads(pickle.dumps(mapping))
    assert copy == mapping
    assert repr(copy) == repr(mapping) == f"<udsbus.Mapping 'config' on {client.address}>"
    assert asked.methods == []
    with pytest.raises(TypeError):
        hash(mapping)


# --- beside a dict ----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
keys = st.one_of(
    st.sampled_from(["a", "b", "a/b", "", "%", "*", 0, 1, True, 0.0, -0.0, None, b"", (1, "a")]),
    st.recursive(
        texts | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.binary(max_size=5),
        lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
        max_leaves=4,
    ),
)
values = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


class Beside(RuleBasedStateMachine):
    """A mapping and a dict to which the same is done."""

    broker: udsbus.LocalBroker
    client: Client

    @initialize()
    def begin(self) -> None:
        self.dict: dict[Any, Any] = {}
        self.mapping = self.client.mapping("model")
        self.mapping.clear()

    @rule(key=keys, value=values)
    def set(self, key: Any, value: Any) -> None:
        self.dict[key] = self.mapping[key] = value

    @rule(key=keys)
    def get(self, key: Any) -> None:
        assert (key in self.mapping) == (key in self.dict)
        assert self.mapping.get(key, "absent") == self.dict.get(key, "absent")

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        if key in self.dict:
            del self.dict[key], self.mapping[key]
        else:
            with pytest.raises(KeyError):
                del self.mapping[key]

    @rule(key=keys, value=values)
    def pop(self, key: Any, value: Any) -> None:
        assert self.mapping.pop(key, value) == self.dict.pop(key, value)

    @rule(key=keys, value=values)
    def setdefault(self, key: Any, value: Any) -> None:
        assert self.mapping.setdefault(key, value) == self.dict.setdefault(key, value)

    @rule(more=st.dictionaries(keys, values, max_size=3))
    def update(self, more: dict[Any, Any]) -> None:
        self.mapping.update(more)
        self.dict.update(more)

    @rule()
    def popitem(self) -> None:
        if self.dict:
            key, value = self.mapping.popitem()
            assert value == self.dict.pop(key)

    @rule()
    def clear(self) -> None:
        self.mapping.clear()
        self.dict.clear()

    @invariant()
    def same(self) -> None:
        assert self.mapping == self.dict
        assert dict(self.mapping.items()) == self.dict
        assert {key: self.mapping[key] for key in self.mapping} == self.dict
        assert len(self.mapping) == len(self.dict)
        assert bool(self.mapping) == bool(self.dict)


@pytest.fixture(scope="module", autouse=True)
def _beside() -> Iterator[None]:
    with udsbus.LocalBroker() as broker, broker.connect(timeout=PATIENCE) as client:
        Beside.client = client
        yield


TestBeside = Beside.TestCase
TestBeside.settings = examples(100, stateful_step_count=20)

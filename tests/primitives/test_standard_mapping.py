"""The tests that CPython has for what is like dict, list and set, with ours in their place.

docs/mapping.md lists what is not as in `dict`.
"""

from __future__ import annotations

from typing import Any

from udsbus import Mapping, SharedDict, SharedList, SharedSet

from .standard import OnABus, of_cpython

list_tests: Any = of_cpython("list_tests")
mapping_tests: Any = of_cpython("mapping_tests")
test_set: Any = of_cpython("test_set")


class Shared(Mapping):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(OnABus.client, OnABus.name())
        self.update(*arguments, **more)


class InOne(SharedDict):
    """A dict that is the value of a key."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(OnABus.client, OnABus.name())
        self._client.set(self._key, {})
        self.update(*arguments, **more)


class AList(SharedList):
    def __init__(self, values: Any = ()) -> None:
        super().__init__(OnABus.client, OnABus.name())
        self._client.set(self._key, [])
        self.extend(values)

    def __reduce__(self) -> Any:
        return SharedList, (self._client, self._key)


class ASet(SharedSet):
    def __init__(self, values: Any = ()) -> None:
        super().__init__(OnABus.client, OnABus.name())
        self._client.set(self._key, set())
        self.update(values)

    def __reduce__(self) -> Any:
        return SharedSet, (self._client, self._key)


class LikeDict(OnABus, mapping_tests.TestHashMappingProtocol):  # type: ignore[misc]
    # Objects of the test's own classes cannot be sent. Without them these test the same as the
    # class above it does, which they call first.
    test_getitem = mapping_tests.TestMappingProtocol.test_getitem
    test_pop = mapping_tests.TestMappingProtocol.test_pop
    test_setdefault = mapping_tests.TestMappingProtocol.test_setdefault
    # The same; here in test_mapping.py.
    test_eq = None
    # There is no `fromkeys`: which client, and which name, would that have?
    test_fromkeys = None
    # `copy` gives a dict.
    test_copy = None
    # `repr` says what it is, and nothing is within itself.
    test_repr = test_repr_deep = None


class TestMapping(LikeDict):
    type2test = Shared


class TestSharedDict(LikeDict):
    type2test = InOne


del LikeDict


class TestSharedList(OnABus, list_tests.CommonTest):  # type: ignore[misc]
    type2test = AList
    # Objects of the test's own classes cannot be sent.
    test_contains_fake = test_contains_order = test_count = test_index = test_remove = None
    test_free_after_iterating = None
    # An iterator goes through what was there when it began.
    test_exhausted_iterator = None
    # `repr` says what it is, and nothing is within itself.
    test_repr = test_repr_deep = None
    # With a key function that changes the list that it sorts: that goes on until the time-out.
    test_sort = None


class TestSharedSet(OnABus, test_set.TestSet):  # type: ignore[misc]
    thetype = ASet
    basetype = set
    # Objects of the test's own classes cannot be sent.
    test_badcmp = test_cyclical_repr = test_deepcopy = test_free_after_iterating = None
    # What sets attributes of its own, which a view does not have.
    test_pickling = None
    # That the KeyError for a set has the set itself: it has the plain set that was looked for.
    test_remove_keyerror_set = None

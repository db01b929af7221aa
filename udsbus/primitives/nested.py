"""Dicts, lists and sets that are values of a shared dict, or within one: see `View`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence, MutableSet
from collections.abc import Set as AnySet
from functools import wraps
from operator import index as whole_number
from typing import Any

from .shared import ABSENT, DictLike, Unchanged, View, plain, plain_list


class SharedDict(View[dict[Any, Any]], DictLike):
    """A dict in a shared dict."""

    __slots__ = ()
    _kind = dict

    def __getitem__(self, key: Any) -> Any:
        return self._child(key, self.plain()[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(value, View) and value.stays(self._client, self._key, self._step(key))):
            self._put({key: value})

    def __delitem__(self, key: Any) -> None:
        self._change(lambda here: here.__delitem__(key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.plain())

    def __reversed__(self) -> Iterator[Any]:
        return iter([*iter(self)][::-1])

    def __len__(self) -> int:
        return len(self.plain())

    def __contains__(self, key: object) -> bool:
        return key in self.plain()

    def get(self, key: Any, default: Any = None) -> Any:
        here = self.plain()
        return self._child(key, here[key]) if key in here else default

    def setdefault(self, key: Any, default: Any = None) -> Any:
        default = plain(default)

        def change(here: dict[Any, Any]) -> Any:
            if key in here:
                raise Unchanged(here[key])
            here[key] = default
            return default

        return self._child(key, self._change(change))

    def pop(self, key: Any, default: Any = ABSENT) -> Any:
        """Remove it and return its value, plain."""

        def change(here: dict[Any, Any]) -> Any:
            if key not in here and default is not ABSENT:
                raise Unchanged(default)
            return here.pop(key)

        return self._change(change)

    def popitem(self) -> tuple[Any, Any]:
        """Remove what was put in last and return it, plain."""
        return self._change(lambda here: here.popitem())

    def clear(self) -> None:
        self._change(_clear)

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        return ((key, self._child(key, value)) for key, value in self.plain().items())

    def _put(self, values: dict[Any, Any]) -> None:
        values = plain(values)
        self._change(lambda here: here.update(values))


class SharedList(View[list[Any]], MutableSequence[Any]):
    """A list in a shared dict. An index is a place, not a thing: after `insert(0, …)` the view of
    number 2 shows what was number 1."""

    __slots__ = ()
    _kind = list

    def __getitem__(self, index: Any) -> Any:
        here = self.plain()
        value = here[index]
        if isinstance(index, slice):
            numbers = range(*index.indices(len(here)))
            return [self._child(*each) for each in zip(numbers, value, strict=True)]
        return self._child(whole_number(index) % len(here), value)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            value = plain_list(value)
        else:
            if isinstance(value, View):
                path = self._step(self._number(index))
                if value.stays(self._client, self._key, path):
                    return
            value = plain(value)
        self._change(lambda here: here.__setitem__(index, value))

    def _number(self, index: Any) -> int:
        """From the beginning."""
        number = whole_number(index)
        return number if number >= 0 else number + len(self)

    def __delitem__(self, index: Any) -> None:
        self._change(lambda here: here.__delitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return (self._child(number, value) for number, value in enumerate(self.plain()))

    def __reversed__(self) -> Iterator[Any]:
        return iter([*iter(self)][::-1])

    def __len__(self) -> int:
        return len(self.plain())

    def __contains__(self, value: object) -> bool:
        return plain(value) in self.plain()

    def index(self, value: Any, *between: Any) -> int:
        return self.plain().index(plain(value), *between)

    def count(self, value: Any) -> int:
        return self.plain().count(plain(value))

    def insert(self, index: int, value: Any) -> None:
        value = plain(value)
        self._change(lambda here: here.insert(index, value))

    def append(self, value: Any) -> None:
        value = plain(value)
        self._change(lambda here: here.append(value))

    def extend(self, values: Iterable[Any]) -> None:
        more = plain_list(values)

        def change(here: list[Any]) -> None:
            if not more:
                raise Unchanged
            here.extend(more)

        self._change(change)

    def pop(self, index: int = -1) -> Any:
        """Remove it and return it, plain."""
        return self._change(lambda here: here.pop(index))

    def remove(self, value: Any) -> None:
        value = plain(value)
        self._change(lambda here: here.remove(value))

    def reverse(self) -> None:
        self._change(lambda here: here.reverse())

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """`key` gets plain values, and should do nothing but compute."""
        self._change(lambda here: here.sort(key=key, reverse=reverse))

    def clear(self) -> None:
        self._change(_clear)

    def __iadd__(self, values: Iterable[Any]) -> SharedList:  # type: ignore[misc]
        self.extend(values)
        return self

    def __imul__(self, times: int) -> SharedList:
        self._change(lambda here: here.__imul__(times))
        return self

    def __add__(self, other: Any) -> list[Any]:
        return self.plain() + plain(other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> list[Any]:
        return plain(other) + self.plain()  # type: ignore[no-any-return]

    def __mul__(self, times: int) -> list[Any]:
        return self.plain() * times

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return self.plain() == plain(other)  # type: ignore[no-any-return]

    def __lt__(self, other: Any) -> bool:
        return self.plain() < plain(other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> bool:
        return self.plain() <= plain(other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> bool:
        return self.plain() > plain(other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> bool:
        return self.plain() >= plain(other)  # type: ignore[no-any-return]

    __hash__ = None  # type: ignore[assignment]


def _operator(name: str) -> Any:
    """An operator of set: of two sets, whatever kinds of set they are."""

    @wraps(getattr(set, name))
    def operator(self: SharedSet, other: object) -> Any:
        if not isinstance(other, AnySet):
            return NotImplemented
        return getattr(self.plain(), name)(set(other))

    return operator


def _operator_in_place(name: str) -> Any:
    @wraps(getattr(set, name))
    def operator(self: SharedSet, other: object) -> Any:
        if not isinstance(other, AnySet):
            return NotImplemented
        others = set(other)
        self._change_if(lambda here: getattr(here, name)(others))
        return self

    return operator


def _reading(name: str) -> Any:
    """A method of set that changes nothing."""

    @wraps(getattr(set, name))
    def method(self: SharedSet, *others: Iterable[Any]) -> Any:
        return getattr(self.plain(), name)(*others)

    return method


def _changing(name: str) -> Any:
    """A method of set that changes it, once, whatever it is given."""

    @wraps(getattr(set, name))
    def method(self: SharedSet, *others: Iterable[Any]) -> None:
        given = [set(other) for other in others]
        self._change_if(lambda here: getattr(here, name)(*given))

    return method


class SharedSet(View[set[Any]], MutableSet[Any]):
    """A set in a shared dict."""

    __slots__ = ()
    _kind = set

    def __iter__(self) -> Iterator[Any]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())

    def __contains__(self, value: object) -> bool:
        return plain(value) in self.plain()

    def add(self, value: Any) -> None:
        self._change_if(lambda here: here.add(value))

    def discard(self, value: Any) -> None:
        value = plain(value)
        self._change_if(lambda here: here.discard(value))

    def remove(self, value: Any) -> None:
        value = plain(value)
        self._change(lambda here: here.remove(value))

    def pop(self) -> Any:
        return self._change(lambda here: here.pop())

    def clear(self) -> None:
        self._change(_clear)

    def _change_if(self, change: Callable[[set[Any]], object]) -> None:
        """Change it, if that makes a difference."""

        def changed(here: set[Any]) -> None:
            before = here.copy()
            change(here)
            if here == before:
                raise Unchanged

        self._change(changed)

    # What `MutableSet` has of these asks again for each member.
    __and__ = __rand__ = _operator("__and__")
    __or__ = __ror__ = _operator("__or__")
    __xor__ = __rxor__ = _operator("__xor__")
    __sub__, __rsub__ = _operator("__sub__"), _operator("__rsub__")
    __le__, __lt__ = _operator("__le__"), _operator("__lt__")
    __ge__, __gt__ = _operator("__ge__"), _operator("__gt__")
    __eq__ = _operator("__eq__")
    __hash__ = None  # type: ignore[assignment]
    __iand__, __ior__ = _operator_in_place("__iand__"), _operator_in_place("__ior__")
    __isub__, __ixor__ = _operator_in_place("__isub__"), _operator_in_place("__ixor__")
    union, intersection = _reading("union"), _reading("intersection")
    difference, symmetric_difference = _reading("difference"), _reading("symmetric_difference")
    isdisjoint = _reading("isdisjoint")
    issubset, issuperset = _reading("issubset"), _reading("issuperset")
    update, intersection_update = _changing("update"), _changing("intersection_update")
    difference_update = _changing("difference_update")
    symmetric_difference_update = _changing("symmetric_difference_update")


def _clear(here: Any) -> None:
    if not here:
        raise Unchanged
    here.clear()

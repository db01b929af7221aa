"""What differs between two values, and where inside them. Pure.

The order of a dict is no difference, the type of a number is: 1 and 1.0 are two values, and so are
1 and true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..wire.notation import to_json

ABSENT: Final[Any] = type("Absent", (), {"__repr__": lambda self: "ABSENT"})()
"""In the place of a value: there is none."""

Place = tuple[Any, ...]
"""The keys of dicts and the indices of lists that lead to a part of a value."""
BARE = re.compile(r"[A-Za-z0-9_-]+")


class Index(int):
    """A step of a place into a list, which tells it from a dict's key that is a number."""


class Difference(NamedTuple):
    place: Place
    before: Any
    """ABSENT: it is new."""
    after: Any
    """ABSENT: it is gone."""


class KeyChange(NamedTuple):
    """What a key holds, and what it is to hold, or held and holds."""

    key: str
    before: Any
    """ABSENT: the key was not there. Undecodable: its bytes were no value."""
    after: Any
    """ABSENT: it is not to be there."""
    revision: int = 0
    """Where the key is while it holds `before`."""

    def differences(self) -> list[Difference]:
        """A key that is new, or gone, differs in each entry of its dict."""
        before, after = self.before, self.after
        if before is ABSENT and type(after) is dict and after:
            before = {}
        elif after is ABSENT and type(before) is dict and before:
            after = {}
        return list(differences(before, after))


def differences(before: Any, after: Any, place: Place = ()) -> Iterator[Difference]:
    """Each part that differs: those of `before` in their order, then what is new."""
    if type(before) is type(after) is dict:
        for name, item in before.items():
            yield from differences(item, after.get(name, ABSENT), (*place, name))
        for name, item in after.items():
            if name not in before:
                yield Difference((*place, name), ABSENT, item)
    elif type(before) is type(after) is list:
        for number in range(max(len(before), len(after))):
            one, other = (
                side[number] if number < len(side) else ABSENT for side in (before, after)
            )
            yield from differences(one, other, (*place, Index(number)))
    elif not _same_leaf(before, after):
        yield Difference(place, before, after)


def same(before: Any, after: Any) -> bool:
    return next(differences(before, after), None) is None


def parts(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every part of a value, itself first, and where it is."""
    yield place, value
    if type(value) is dict:
        for name, item in value.items():
            yield from parts(item, (*place, name))
    elif type(value) is list:
        for number, item in enumerate(value):
            yield from parts(item, (*place, Index(number)))


def shown_place(place: Place) -> str:
    """`database.ports[0]."a key"`, in which a key that is no text stands as `{1}`."""
    text = ""
    for step in place:
        if type(step) is Index:
            text += f"[{int(step)}]"
        elif not isinstance(step, str):
            text += f"{{{to_json(step)}}}"
        else:
            text += ("." if text else "") + (step if BARE.fullmatch(step) else to_json(step))
    return text


def kind_of(value: Any) -> str:
    """What a person calls it."""
    names = {"dict": "a map", "list": "a list", "str": "a text", "NoneType": "null"}
    name = type(value).__name__
    return names.get(name) or f"a value of type {name}"


def _same_leaf(before: Any, after: Any) -> bool:
    if type(before) is not type(after):
        return False
    return bool(before == after or (before != before and after != after))  # NaN

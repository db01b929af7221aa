"""What shared dicts, lists and sets have in common.

A container that is in a shared dict is stored whole, under one key of the bus. A `View` is a way
into it: the key, and the steps from there. It holds nothing itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from collections.abc import Mapping as AnyMapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ..errors import UnsupportedValue

if TYPE_CHECKING:
    from ..client.sync import Client

C = TypeVar("C")
R = TypeVar("R")

ABSENT: Any = object()
"""Stands for the value of a key that is not there; None is a value."""
Step = tuple[type, Any]
"""Into a dict or a list, and there to this key or index."""


class Unchanged(Exception):
    """Ends a change that has found nothing to do, with what it returns."""

    def __init__(self, result: Any = None) -> None:
        self.result = result


class View(Generic[C]):
    """A container at its place in the value of a key. Reading reads the bus; each change is one
    compare-and-swap of the value, so none is lost, whoever else changes it.

    All raise KeyError, IndexError or TypeError when the place is not there any more, or holds
    something else.
    """

    __slots__ = ("_client", "_key", "_path")
    _kind: ClassVar[type]
    """What it looks like."""
    _kinds: ClassVar[dict[type, type[View[Any]]]] = {}

    def __init_subclass__(cls) -> None:
        if "_kind" in vars(cls):
            View._kinds[cls._kind] = cls

    def __init__(self, client: Client, key: str, path: tuple[Step, ...] = ()) -> None:
        self._client = client
        self._key = key
        self._path = path

    def plain(self) -> C:
        """What is there now, as plain dicts, lists and sets, which nobody shares."""
        return self._within(self._client.get(self._key, ABSENT))

    def copy(self) -> C:
        """The same."""
        return self.plain()

    def stays(self, client: Client, key: str, path: tuple[Step, ...] = ()) -> bool:
        """Whether this is the view of that place: Python puts it there at the end of `m[key] += …`,
        and to write it again would undo what others have changed since."""
        same = self._path == path and self._key == key and self._client.address == client.address
        if same:
            self.plain()  # raises if there is nothing to stay
        return same

    def _change(self, change: Callable[[C], R]) -> R:
        """Let `change` change the container, and return what it returns. It is called again when
        somebody else was quicker. If it raises, all stays as it was."""
        result: R

        def changed(whole: Any) -> Any:
            nonlocal result
            result = change(self._within(whole))
            return whole

        try:
            self._client.update(self._key, changed, ABSENT)
        except Unchanged as unchanged:
            return unchanged.result  # type: ignore[no-any-return]
        return result

    # --- the way to it ----------------------------------------------------------------------

    def _within(self, whole: Any) -> C:
        """The container itself, in the value of the key."""
        if whole is ABSENT:
            raise KeyError(f"{self._key} is no longer there")
        here = whole
        for number, (kind, step) in enumerate(self._path):
            self._check_kind(here, kind, number)
            try:
                here = here[step]
            except LookupError as error:
                raise type(error)(f"{self._where(number + 1)} is no longer there") from None
        self._check_kind(here, self._kind, len(self._path))
        return here  # type: ignore[no-any-return]

    def _check_kind(self, here: Any, kind: type, steps: int) -> None:
        if type(here) is not kind:
            raise TypeError(
                f"{self._where(steps)} is no {kind.__name__} any more, but {type(here).__name__}"
            )

    def _where(self, steps: int) -> str:
        return self._key + "".join(f"[{step!r}]" for _, step in self._path[:steps])

    def _step(self, step: Any) -> tuple[Step, ...]:
        """The path to what is one step further."""
        return (*self._path, (self._kind, step))

    def _child(self, step: Any, value: Any) -> Any:
        """What is there: a view, or the value itself."""
        kind = View._kinds.get(type(value))
        return value if kind is None else kind(self._client, self._key, self._step(step))

    # --- as others see it -------------------------------------------------------------------

    def __copy__(self) -> C:
        return self.plain()

    def __deepcopy__(self, memo: Any) -> C:
        return self.plain()

    def __reduce__(self) -> Any:
        return type(self), (self._client, self._key, self._path)

    def __repr__(self) -> str:
        try:
            return f"{type(self).__name__}({self.plain()!r})"
        except (LookupError, TypeError) as error:
            return f"<{type(self).__name__}: {error.args[0]}>"


def view_of(client: Client, key: str, value: Any) -> Any:
    """The value of a key: a view, if it is a container."""
    kind = View._kinds.get(type(value))
    return value if kind is None else kind(client, key)


# --- plain objects ----------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` with what they hold in the place of views; its dicts, lists and sets are new."""
    try:
        return _plain(value)
    except RecursionError:
        raise UnsupportedValue(f"this {type(value).__name__} is too deep to be sent") from None


def _plain(value: Any) -> Any:
    if isinstance(value, View):
        return value.plain()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(_plain, value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return set(value) if isinstance(value, set) else value


def plain_list(values: Iterable[Any]) -> list[Any]:
    """A list of what an iterable gives, plain."""
    return list(values.plain()) if isinstance(values, View) else list(map(plain, values))


def plain_dict(other: Any) -> dict[Any, Any]:
    """A dict of what `dict` takes; its values are as they are."""
    return other.copy() if isinstance(other, DictLike) else dict(other)


# --- dicts ------------------------------------------------------------------------------------


class DictLike(MutableMapping[Any, Any]):
    """The methods of dict that all shared ones have in common. None asks for one key after the
    other."""

    __slots__ = ()

    @abstractmethod
    def copy(self) -> dict[Any, Any]:
        """A plain dict."""

    @abstractmethod
    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """The keys with their values, or with views of these."""

    @abstractmethod
    def _put(self, values: dict[Any, Any]) -> None:
        """Set all of that at once."""

    def items(self) -> ItemsView[Any, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all of that at once, as of dict: nobody sees a part of it."""
        values = plain_dict(other) | more
        if values:
            self._put(values)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __or__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, AnyMapping):
            return NotImplemented
        return self.copy() | plain_dict(other)

    def __ror__(self, other: Any) -> dict[Any, Any]:
        if not isinstance(other, AnyMapping):
            return NotImplemented
        return plain_dict(other) | self.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AnyMapping):
            return NotImplemented
        return self.copy() == plain_dict(other)

    __hash__ = None  # type: ignore[assignment]


class _Items(ItemsView[Any, Any]):
    _mapping: DictLike

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._pairs()


class _Values(ValuesView[Any]):
    _mapping: DictLike

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs())

    def __contains__(self, value: object) -> bool:
        return plain(value) in self._mapping.copy().values()

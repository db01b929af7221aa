"""What is served: a function, or the methods of an object, and whether arguments fit them."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import BadArguments, InvalidRequest, UnknownMethod

ITSELF = ""
"""The name of the method of a service that is one function."""

NO_SERVICES = (types.ModuleType, types.NoneType, int, float, complex, str, bytes)
"""They have methods, but nobody means these: it is a slip."""
DESCRIBING = (functools.partialmethod, functools.singledispatchmethod)
"""Methods that are no functions themselves."""


class Function:
    """One function that can be called."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """`name` is for people."""
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
            function
        )
        self.doc = inspect.getdoc(function)
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (ValueError, TypeError):  # some built-in ones do not tell
            self._signature = None
        self.least, self.most = _positional(self._signature)

    @property
    def signature(self) -> str:
        return "(...)" if self._signature is None else str(_unquoted(self._signature))

    def check(self, args: list[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments unless it can be called with these."""
        if self._signature is None or (not kwargs and self.least <= len(args) <= self.most):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(
                f"{self.name}: {error}; it takes {self.signature}", function=self.name
            ) from None


class _Written:
    """An annotation as it stands in the source, which may have been kept as a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _unquoted(signature: inspect.Signature) -> inspect.Signature:
    def shown(annotation: Any) -> Any:
        return _Written(annotation) if isinstance(annotation, str) else annotation

    return signature.replace(
        parameters=[
            parameter.replace(annotation=shown(parameter.annotation))
            for parameter in signature.parameters.values()
        ],
        return_annotation=shown(signature.return_annotation),
    )


def _positional(signature: inspect.Signature | None) -> tuple[int, int]:
    """How many arguments are enough, and how many fit, if all are given by position; none do if
    there is one that must be given by name."""
    least = most = 0
    for parameter in () if signature is None else signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += required
        elif parameter.kind == parameter.VAR_POSITIONAL:
            most = 1_000_000
        elif parameter.kind == parameter.KEYWORD_ONLY and required:
            return 1, 0
    return least, most


class AnyMethod(NamedTuple):
    """In the place of an object: whatever is called is passed on, by name."""

    function: Callable[[str], Callable[..., Any]]
    """From the name of a method to what is called."""


class Offered:
    """The functions of a service, by the name of the method."""

    def __init__(self, service: str, target: Any) -> None:
        """`target` is a function, an object whose public methods are served, or a class of which
        one object is made. Raises InvalidRequest for what has nothing to call."""
        self.service = service
        if inspect.isclass(target):
            target = target()
        self._all: Callable[[str], Callable[..., Any]] | None = None
        if isinstance(target, AnyMethod):
            self.functions: dict[str, Function] = {}
            self._all = target.function
            return
        if isinstance(target, NO_SERVICES):
            raise InvalidRequest(
                f"the service {service!r}: {target!r:.100} is no function, class or object with "
                "methods"
            )
        routine = inspect.isroutine(target) or isinstance(target, functools.partial)
        methods = {} if routine else _public_methods(target)
        if routine or (not methods and callable(target)):
            self.functions = {ITSELF: Function(service, target)}
        else:
            self.functions = {
                name: Function(f"{service}/{name}", function) for name, function in methods.items()
            }
        if not self.functions:
            raise InvalidRequest(
                f"the service {service!r}: {type(target).__name__} is no function and has no "
                "public methods, so there is nothing to call"
            )

    @property
    def is_async(self) -> bool:
        """Whether an event loop is needed."""
        return any(function.is_async for function in self.functions.values())

    def find(self, method: Any) -> Function:
        """Raises UnknownMethod."""
        try:
            return self.functions[method]
        except (KeyError, TypeError):
            if self._all is not None and type(method) is str:
                return Function(f"{self.service}/{method}", self._all(method))
            raise UnknownMethod(self._nothing_like(method)) from None

    def _nothing_like(self, method: Any) -> str:
        if ITSELF in self.functions:
            return f"{self.service} is one function, and has no method {method!r}"
        known = ", ".join(f"{self.service}/{name}" for name in sorted(self.functions))
        if method == ITSELF:
            return f"{self.service} has several functions: call one of {known}"
        return f"{self.service} has no method {method!r} (it has {known})"

    def described(self) -> dict[str, Any]:
        """Method → [signature, the first line of its docstring or None]."""
        return {
            name: [function.signature, (function.doc or "").split("\n")[0] or None]
            for name, function in self.functions.items()
        }


def _public_methods(target: Any) -> dict[str, Callable[..., Any]]:
    found = {}
    for name in dir(target):
        if name.startswith("_"):
            continue
        static = inspect.getattr_static(target, name)
        method = callable(getattr(static, "__func__", static)) or isinstance(static, DESCRIBING)
        if isinstance(static, property) or not method:
            continue  # a property would be carried out
        value = getattr(target, name)
        if isinstance(static, functools.singledispatchmethod):
            value = _passed_on(value)
        if callable(value) and not inspect.isclass(value):
            found[name] = value
    return found


def _passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """One with no signature of its own: that of the first of several is not that of all, and what
    `inspect` finds has `self` in it."""

    def passed_on(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    passed_on.__doc__ = function.__doc__
    return passed_on

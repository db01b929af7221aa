"""Services that are declared before there is a client to serve them with: what `udsbus worker`
looks for in a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

from ..client.binding import MISSING
from ..errors import InvalidRequest
from .serving import check_options

T = TypeVar("T")


class Declared(NamedTuple):
    """One of them."""

    name: str
    target: Any
    retry: int
    concurrency: int


class Services:
    """What the workers of a pool serve, each of them all of it.

        app = udsbus.Services()

        @app.service("calc", retry=2)
        class Calc:
            def add(self, a, b):
                return a + b

    `udsbus worker module:app --processes 4` serves it. A class is made one object of in each
    process, when that begins to serve.
    """

    def __init__(self) -> None:
        self.declared: list[Declared] = []

    @overload
    def service(
        self, name: str, *, retry: int = ..., concurrency: int = ...
    ) -> Callable[[T], T]: ...
    @overload
    def service(
        self, name: str, target: object, *, retry: int = ..., concurrency: int = ...
    ) -> None: ...
    def service(
        self, name: str, target: Any = MISSING, *, retry: int = 0, concurrency: int = 1
    ) -> Callable[[T], T] | None:
        """As `Client.service`; a decorator, or with `target` a call."""
        check_options(name, retry, concurrency)
        if any(declared.name == name for declared in self.declared):
            raise InvalidRequest(f"the service {name!r} is declared already")

        def declare(target: Any) -> Any:
            self.declared.append(Declared(name, target, retry, concurrency))
            return target

        return declare if target is MISSING else declare(target) and None

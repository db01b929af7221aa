"""Nothing that both clients offer is left out of the contract."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import udsbus
from tests.test_twins import FOLLOWER
from udsbus import AsyncClient, AsyncLock, AsyncMapping, AsyncRWLock, AsyncSharedLock

from .adapter import TWINS

CLASSES = {twin.__name__: twin for twin in TWINS.values()} | {"SharedMapping": AsyncMapping}
"""By the names that annotations call them."""
INSIDE = FOLLOWER | {"changed"}
"""What is for the client, and not for its user."""


def test_every_method_and_parameter_is_used_here() -> None:
    used: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        Uses(used, ast.parse(path.read_text()))
    missing = sorted(set(offered()) - used)
    assert missing == []


def offered() -> Iterator[str]:
    """`CLASS.METHOD` and `CLASS.METHOD(PARAMETER)`, of all that both clients have."""
    for sync, twin in TWINS.items():
        for name in dir(twin):
            public = not name.startswith("_") and name not in INSIDE and hasattr(sync, name)
            if public or name in ("__aenter__", "__aiter__", "__await__"):
                yield where(twin, name)
            if public and callable(found := inspect.getattr_static(twin, name)):
                yield from (f"{where(twin, name)}({each})" for each in parameters(found))
    yield from (f"connect({each})" for each in parameters(udsbus.connect_async))


def where(of: type, name: str) -> str:
    """`CLASS.METHOD`, of the class whose users it is written for."""
    defined = next((each for each in of.__mro__ if name in vars(each)), of)
    return f"{(defined if defined in TWINS.values() else of).__name__}.{name}"


def parameters(function: Any) -> list[str]:
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.name != "self" and each.kind != each.VAR_KEYWORD]


Classes = frozenset[type]
NONE: Classes = frozenset()


class Uses(ast.NodeVisitor):
    """Finds what a module uses of the classes of the async client, as far as the annotations of
    these, and of the module, tell of which class something is."""

    def __init__(self, used: set[str], module: ast.Module) -> None:
        self._used = used
        self._known: dict[str, Classes] = {}
        """Variable → its classes: a loop's may have several."""
        self._returned = {
            each.name: classes_in(each.returns)
            for each in module.body
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        """Function, or alias of a kind of functions → the classes of what it returns."""
        for each in module.body:
            if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                self._returned[each.targets[0].id] = classes_in(each.value)
        self.visit(module)

    # --- what is of which class -------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside, self._known = self._known, dict(self._known)
        for each in [*node.args.args, *node.args.kwonlyargs]:
            if isinstance(each.annotation, ast.Name) and each.annotation.id in self._returned:
                self._returned[each.arg] = self._returned[each.annotation.id]
            else:
                self._known[each.arg] = classes_in(each.annotation)
        for _ in range(2):  # functions within use what is assigned after them
            self.generic_visit(node)
        self._known = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        outside, self._known = self._known, dict(self._known)
        if [each.arg for each in node.args.args] == ["client"]:
            self._known["client"] = frozenset({AsyncClient})
        self.generic_visit(node)
        self._known = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        self._bind(node.targets[0], node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self._bind(node.target, node.value)

    def visit_For(self, node: ast.For | ast.comprehension) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    visit_comprehension = visit_For

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._use(node.iter, "__aiter__")
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        for each in node.generators:
            if each.is_async:
                self._use(each.iter, "__aiter__")
            self.visit(each)
        self.visit(node.elt)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        for item in node.items:
            self._use(item.context_expr, "__aenter__")
            if isinstance(item.optional_vars, ast.Name):
                of = self._classes_of(item.context_expr)
                connects = is_call_of(item.context_expr, "connect")
                self._known[item.optional_vars.id] = of if connects else gives(of, "__aenter__")
        self.generic_visit(node)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        targets, values = [target], [value]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if len(target.elts) == len(value.elts):
                targets, values = target.elts, value.elts
            else:
                targets, values = target.elts, [value] * len(target.elts)
        for one, its in zip(targets, values, strict=False):
            if isinstance(one, ast.Name):
                self._known[one.id] = self._classes_of(its)

    def _classes_of(self, node: ast.expr) -> Classes:
        """Of a tuple or a list those of its items."""
        match node:
            case ast.Name(id=name):
                return self._known.get(name, NONE)
            case ast.Await(value=of) | ast.Subscript(value=of) | ast.ListComp(elt=of):
                return self._classes_of(of)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return frozenset().union(*map(self._classes_of, items))
            case ast.Call(func=ast.Name(id="connect")):
                return frozenset({AsyncClient})
            case ast.Call(func=ast.Name(id=name)):
                return self._returned.get(name, NONE)
            case ast.Call(func=ast.Attribute(value=of, attr=name)):
                return gives(self._classes_of(of), name)
            case ast.Attribute(value=of, attr=name):
                return gives(self._classes_of(of), name)
        return NONE

    # --- what is used of it -----------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node.value, node.attr)
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        if not (
            isinstance(node.value, ast.Call)
            and isinstance(function := node.value.func, ast.Attribute)
            and any(
                inspect.iscoroutinefunction(inspect.getattr_static(of, function.attr, None))
                for of in self._classes_of(function.value)
            )
        ):
            self._use(node.value, "__await__")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function, arguments = node.func, node.args
        if isinstance(function, ast.Name) and function.id == "partial":
            function, *arguments = arguments
        if isinstance(function, ast.Name) and function.id == "connect":
            names = parameters(udsbus.connect_async)
            self._used |= {f"connect({each})" for each in given(names, arguments, node)}
        if isinstance(function, ast.Attribute):
            for of in self._classes_of(function.value):
                found = inspect.getattr_static(of, function.attr, None)
                if callable(found):
                    self._used |= {
                        f"{where(of, function.attr)}({each})"
                        for each in given(parameters(found), arguments, node)
                    }
        self.generic_visit(node)

    def _use(self, node: ast.expr, name: str) -> None:
        self._used |= {where(of, name) for of in self._classes_of(node) if hasattr(of, name)}


def given(names: list[str], arguments: list[ast.expr], node: ast.Call) -> list[str]:
    """The names of the parameters that a call gives."""
    found = names[: len(arguments)] + [each.arg for each in node.keywords if each.arg in names]
    return found + [each for each in names if each in ("options", "more") and node.keywords]


def is_call_of(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def gives(classes: Classes, name: str) -> Classes:
    """The classes of what a method returns or a property is."""
    found: Classes = NONE
    for of in classes:
        member = inspect.getattr_static(of, name, None)
        if member is None and of is AsyncRWLock:
            member = vars(Sides).get(name)
        if isinstance(member, property):
            member = member.fget
        annotation = getattr(member, "__annotations__", {}).get("return", "None")
        if annotation == "Self":
            found |= {of}
        elif isinstance(annotation, str):
            found |= classes_in(ast.parse(annotation))
    return found


class Sides:
    """The attributes of an `AsyncRWLock`."""

    def read(self) -> AsyncSharedLock:
        raise NotImplementedError

    def write(self) -> AsyncLock:
        raise NotImplementedError


def classes_in(annotation: ast.AST | None) -> Classes:
    """Those that an annotation names."""
    names = () if annotation is None else ast.walk(annotation)
    return frozenset(
        CLASSES[each.id] for each in names if isinstance(each, ast.Name) and each.id in CLASSES
    )

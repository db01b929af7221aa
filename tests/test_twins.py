"""The modules that are made from async ones are as these say, and both clients offer the same."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import udsbus
from udsbus.client.opening import connect, connect_async
from udsbus.primitives import aio as async_primitives

ROOT = Path(__file__).parents[1]


def test_the_twins_are_up_to_date() -> None:
    pytest.importorskip("ruff", reason="ruff formats the twins; pip install 'udsbus[dev]'")
    ran = subprocess.run(
        [sys.executable, "-m", "tools.twins", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"run `python -m tools.twins`; not as they should be:\n{ran.stdout}"


def public(kind: type) -> dict[str, object]:
    """The methods and properties of a class that people use."""
    return {
        name: getattr(kind, name)
        for name in dir(kind)
        if not name.startswith("_") and not name.startswith("after_fork")
    }


def parameters(function: object) -> list[tuple[str, object, object]]:
    """Of a method: name, default and kind of each parameter."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [(each.name, each.default, each.kind) for each in signature.parameters.values()]


PAIRS = [("Client", "AsyncClient")] + [
    (name.removeprefix("Async"), name)
    for name in udsbus._WHERE
    if name.startswith("Async") and name != "AsyncClient"
]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_both_offer_the_same(sync: str, asynchronous: str) -> None:
    ours, theirs = public(getattr(udsbus, sync)), public(getattr(udsbus, asynchronous))
    if sync == "Mapping":
        dict_methods = {
            "get",
            "keys",
            "values",
            "items",
            "pop",
            "popitem",
            "clear",
            "update",
            "setdefault",
            "copy",
            "change",
            "increment",
            "watch",
            "bus_key",
            "key_of",
        }
        assert dict_methods <= theirs.keys()
        return
    forks = {"inherited", "before_fork", "after_fork_in_parent", "origin"}
    only_ours = ours.keys() - theirs.keys() - forks - FOLLOWER
    only_theirs = theirs.keys() - ours.keys() - FOLLOWER
    assert (only_ours, only_theirs) == (set(), set())
    for name in ours.keys() & theirs.keys() - FOLLOWER:
        mine, other = ours[name], theirs[name]
        assert callable(mine) == callable(other), name
        if callable(mine):
            assert parameters(mine) == parameters(other), name


FOLLOWER = {
    "begin", "ceaser", "notified", "refuse", "wake", "attended", "refusal", "serial", "started",
    "start", "let_go", "beat", "interrupted", "doubt", "live",
}  # fmt: skip
"""What watches and subscriptions offer the client, and not its user."""


def test_both_begin_in_the_same_way() -> None:
    assert parameters(connect) == parameters(connect_async)
    assert parameters(udsbus.Client) == parameters(udsbus.AsyncClient)


def test_every_primitive_has_an_async_one() -> None:
    assert async_primitives.__doc__
    prefix = "Async"
    sync_only = {"SharedDict", "SharedList", "SharedSet"}
    for name, where in udsbus._WHERE.items():
        if where.startswith("primitives.") and not name.startswith(prefix):
            if name in {"Leader"} | sync_only:
                continue
            assert f"{prefix}{name}" in udsbus._WHERE, name

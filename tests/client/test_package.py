"""What `import udsbus` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import udsbus


def modules_after(statement: str) -> set[str]:
    command = [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement", ["import udsbus", "from udsbus import *", "import udsbus.cli"]
)
def test_import_brings_no_event_loop(statement: str) -> None:
    modules = modules_after(statement)
    assert not modules & {"anyio", "asyncio", "rich", "trio", "udsbus.broker", "udsbus.engine"}


def test_import_brings_no_command_line_and_no_client() -> None:
    modules = modules_after("import udsbus")
    assert "udsbus" in modules
    assert not modules & {"click", "msgpack", "socket", "subprocess", "udsbus.client"}


def test_client_brings_no_command_line() -> None:
    modules = modules_after("from udsbus import *")
    assert "udsbus.client.sync" in modules
    assert "click" not in modules


def test_every_public_name_resolves() -> None:
    for name in udsbus.__all__:
        assert getattr(udsbus, name).__name__ == name


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from udsbus import *", namespace)
    assert set(udsbus.__all__) == namespace.keys() - {"__builtins__"}


def test_public_names_are_sorted_and_listed_once() -> None:
    assert list(udsbus.__all__) == sorted(set(udsbus.__all__))
    for name in udsbus.__all__:
        getattr(udsbus, name)
    names = dir(udsbus)
    assert set(udsbus.__all__) <= set(names)
    assert len(names) == len(set(names)), "dir(udsbus) names some twice"


def test_every_exception_is_public() -> None:
    from udsbus import errors

    classes: list[type[errors.Error]] = [errors.Error, *errors.ERRORS.values()]
    for cls in classes:
        assert getattr(udsbus, cls.__name__) is cls


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'udsbus' has no attribute 'conect'"):
        udsbus.conect  # noqa: B018

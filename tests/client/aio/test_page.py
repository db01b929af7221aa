"""The examples of docs/async.md, on asyncio and trio."""

from __future__ import annotations

import ast
import inspect
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import udsbus
from tests.client.support import PATIENCE
from tests.harness import BrokerProcess
from udsbus import AsyncClient

PAGE = (Path(__file__).parents[3] / "docs" / "async.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WHOLE, WEB, TEST = (
    next(block for block in BLOCKS if mark in block)
    for mark in ("asyncio.run(", "Starlette(", "pytest.fixture")
)


def printed(block: str) -> list[str]:
    """What the comments say that it prints."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)


@pytest.mark.anyio
async def test_the_examples(
    client: AsyncClient, other: AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"client": client, "other": other}
    blocks = [block for block in BLOCKS if block not in (WHOLE, WEB, TEST)]
    assert len(blocks) == 10
    for block in blocks:
        code = compile(block, "async.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with anyio.fail_after(PATIENCE):
            running = eval(code, names)
            if inspect.isawaitable(running):
                await running
        assert capsys.readouterr().out.splitlines() == printed(block)


def test_the_first_example(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UDSBUS_SOCKET", broker.address)
    exec(WHOLE, {})
    assert capsys.readouterr().out.splitlines() == printed(WHOLE)


def test_the_example_of_starlette(broker: BrokerProcess, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="pip install 'udsbus[examples]'")
    (tmp_path / "web.py").write_text(WEB)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "web:app", "--fd", str(listening.fileno())],
            cwd=tmp_path, pass_fds=[listening.fileno()], stderr=subprocess.DEVNULL,
            env={**os.environ, "UDSBUS_SOCKET": broker.address}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for number in (b"1", b"2"):
                with socket.create_connection(listening.getsockname(), PATIENCE) as browser:
                    browser.sendall(b"GET /visits HTTP/1.0\r\n\r\n")
                    with browser.makefile("rb") as answer:
                        assert answer.read().endswith(b"\r\n\r\n" + number)
            with udsbus.connect(broker.address) as sync:
                assert "web" in [one.name for one in sync.clients()]
        finally:
            server.terminate()
            server.wait(PATIENCE)


def test_the_example_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_counting.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed" in done.stdout, done.stdout


def test_each_property_that_is_awaited_is_told_of() -> None:
    classes = [getattr(udsbus, name) for name in udsbus._WHERE if name.startswith("Async")]
    awaited = {
        name
        for each in classes
        for name, member in inspect.getmembers(each, lambda it: isinstance(it, property))
        if inspect.iscoroutinefunction(member.fget)
    }
    assert awaited == {"value", "n_waiting", "broken"}
    assert all(re.search(rf"`await \w+\.{name}`", PAGE) for name in awaited)


def test_each_method_of_a_mapping_is_told_of() -> None:
    methods = inspect.getmembers(udsbus.AsyncMapping, inspect.iscoroutinefunction)
    public = {name for name, _ in methods if not name.startswith("_")}
    assert all(re.search(rf"`{name}`|`await m\.{name}\(", PAGE) for name in public)

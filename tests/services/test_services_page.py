"""The examples of docs/services.md, run one after the other."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import udsbus
from tests.harness import BrokerProcess, wait_until

from .conftest import PATIENCE

PAGE = (Path(__file__).parents[2] / "docs" / "services.md").read_text()


def until(condition: Callable[[], Any]) -> Any:
    """What the condition returns as soon as that is true."""
    wait_until(lambda: bool(condition()), "what the page waits for", PATIENCE)
    return condition()


def test_the_examples_run(broker: BrokerProcess, tmp_path: Path) -> None:
    source = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "worker.py").write_text(program)
    started: list[subprocess.Popen[bytes]] = []

    def start(count: int) -> list[int]:
        environ = os.environ | {"UDSBUS_SOCKET": broker.address}
        command = [sys.executable, str(tmp_path / "worker.py")]
        started.extend(subprocess.Popen(command, env=environ) for _ in range(count))
        until(lambda: client.services("thumbnails"))
        return [process.pid for process in started]

    try:
        with udsbus.connect(broker.address) as client, udsbus.connect(broker.address) as other:
            names = {
                "udsbus": udsbus, "client": client, "other": other, "until": until, "start": start,
                "time": time,
            }  # fmt: skip
            test = doctest.DocTestParser().get_doctest(source, names, "services.md", None, 0)
            assert len(test.examples) > 30
            said: list[str] = []
            flags = doctest.ELLIPSIS
            doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=said.append)
        assert not said, "".join(said)
        assert [process.wait(PATIENCE) for process in started] == [-9, -9]
    finally:
        for process in started:
            process.kill()
            process.wait()

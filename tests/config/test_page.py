"""The transcripts and examples of docs/config.md, one after the other."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import udsbus
from tests.cli.test_config import APP
from tests.harness import running_broker

PAGE = (Path(__file__).parents[2] / "docs" / "config.md").read_text()


def test_the_page(address: str, runtime: Path, tmp_path: Path) -> None:
    program = runtime / "udsbus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m udsbus "$@"\n')
    program.chmod(0o755)
    environ = os.environ | {"UDSBUS_SOCKET": address, "PYTHONUTF8": "1"}
    environ["PATH"] = f"{runtime}:{environ['PATH']}"
    (tmp_path / "app.toml").write_text(APP)
    (tmp_path / "web.yaml").write_text("limits: {requests: 100, seconds: 60}\ntheme: dark\n")
    blocks = re.findall(r"```(console|pycon)\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) > 6
    with running_broker(address, durability="process", state=runtime / "state"):
        with udsbus.connect(address) as client:
            names = {"client": client}
            for kind, text in blocks:
                if kind == "pycon":
                    test = doctest.DocTestParser().get_doctest(text, names, "config.md", None, 0)
                    said: list[str] = []
                    doctest.DocTestRunner(verbose=False).run(
                        test, out=said.append, clear_globs=False
                    )
                    assert not said, "".join(said)
                    continue
                for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                    typed, _, expected = step.partition("\n")
                    done = subprocess.run(
                        ["sh", "-c", typed],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        env=environ,
                        cwd=tmp_path,
                    )
                    assert done.stdout == expected, typed

"""What the README shows is what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_is_the_file_that_is_run() -> None:
    [shown] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    source = (ROOT / "examples" / "two_processes.py").read_text()
    assert shown == source.partition('"""\n\n')[2]


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "two_processes.py"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "worker: config/limits is now {'requests': 100, 'window': (1, 'minute')}" in done.stdout
    assert "changes that the worker has seen: 3" in done.stdout


def test_two_commands_do_all_the_set_up() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    demo, tests = commands
    assert demo.endswith(".venv/bin/udsbus demo")
    assert tests.endswith("pytest -n auto")
    assert README.index(demo) < README.index(tests) < README.index("## ")


def test_every_link_leads_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"

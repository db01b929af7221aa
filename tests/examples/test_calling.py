"""examples/calling.py, as docs/calling.md tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "calling.md").read_text()


def shape(text: str) -> str:
    return re.sub(r"worker \d+", "worker N", text)


def test_it_goes_as_the_page_tells() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "calling.py"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (told,) = re.findall(r"```\n(echo: .*?)```", PAGE, re.S)
    assert shape(done.stdout) == shape(told)
    first, second, killed, answers, *later = re.findall(r"worker (\d+)", done.stdout)
    assert first != second
    assert killed == first != answers
    assert len(set(later)) == 2
    assert first not in later
    # What is logged goes another way, and says how they have ended.
    assert f"server: worker {first} has died (-9)" in done.stderr
    for worker in later:  # the one that has just begun may be told to before it waits for that
        assert re.search(rf"server: worker {worker} has ended \((0|-15)\)", done.stderr)
    assert "asked for '6 * 7'" in done.stderr


def test_the_page_shows_what_is_in_the_program() -> None:
    source = (ROOT / "examples" / "calling.py").read_text()
    shown = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert shown
    for each in shown:
        assert each in source, each

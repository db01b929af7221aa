"""examples/guarding.py, as docs/guarding.md tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")
def test_it_goes_as_the_page_tells() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "guarding.py"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    page = (ROOT / "docs" / "guarding.md").read_text()
    (told,) = re.findall(r"```\n(the broker is.*?)```", page, re.S)

    def shape(text: str) -> str:
        return re.sub(r"\d+(\.\d+)?", "N", text)

    assert shape(done.stdout) == shape(told)
    served = re.findall(r"process (\d+)", done.stdout)
    assert len(set(served)) >= 4
    numbers = [int(number) for number in re.findall(r"counted on to (\d+)", done.stdout)]
    assert numbers == sorted(numbers)

"""Four ways to reload, and what docs/reloading.md says of them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "reloading"
WAYS = ("with_udsbus", "with_signals", "with_event", "with_queue")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_works(way: str) -> None:
    run = subprocess.run(
        [sys.executable, FOLDER / f"{way}.py"], capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip
    told = run.stdout.split("\n")[:-1]
    who = {"process", "thread", "coroutine"} if way == "with_udsbus" else {"process 1", "process 2"}
    colours = ["red", "green", "yellow"] if way == "with_udsbus" else ["red", "green"]
    found = [line.split(": ") for line in told]
    each = len(who)
    for number, colour in enumerate(colours):
        part = found[number * each : (number + 1) * each]
        assert {name for name, _ in part} == who
        assert {seen for _, seen in part} == {colour}
    assert run.stderr.count("size: Input should be a valid integer") == (
        3 if way == "with_udsbus" else 0
    ), "an invalid value is refused by each, with the reason"


def lines_of(way: str) -> int:
    """Lines with code, without docstrings."""
    source = (FOLDER / f"{way}.py").read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT,
                   tokenize.DEDENT, tokenize.ENDMARKER)  # fmt: skip
        docstring = token.type == tokenize.STRING and token.line.lstrip().startswith('"""')
        if token.type not in skipped and not docstring and token.string != '"""':
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def test_the_page_has_the_lines() -> None:
    page = (ROOT / "docs" / "reloading.md").read_text()
    row = re.search(r"^\| lines of code \|(.*)\|$", page, re.MULTILINE)
    assert row is not None
    assert [int(cell) for cell in row[1].split("|")] == [lines_of(way) for way in WAYS]

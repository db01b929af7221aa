"""Makes the sync twin of each module that is written for the async client.

    python -m tools.twins            write those that are not as they should be
    python -m tools.twins --check    only say which those are

What both clients do in the same way is written once, with `async` and `await`; without these words
it is what the sync client does. So a twin is a file of its own that can be read, stepped through
and type-checked like any other, and nobody needs an event loop in order to be synchronous. It is
the way of urllib3, httpcore, psycopg and PyMongo; their tools (unasync, synchro) leave docstrings
alone, in which our examples are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {
    "udsbus/client/aio": ("batches", "client", "holding", "methods"),
    "udsbus/primitives/aio": ("election", "events", "limiter", "locks", "queues"),
    "udsbus/services/aio": ("calling",),
}
"""Folder of the sources → its modules that have a twin, in the folder above."""
NAMES = {"client": "sync"}
"""Those whose twin has another name."""

RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\basync (def|with|for)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\bAsync(?=[A-Z])", ""),
        (r"\bimport Awaitable, ", "import "),
        (r"\bAwaitable\[(\w+)\] \| \1\b", r"\1"),
        (r"\bAwaitable\[((?:[^\[\]]|\[[^\]]*\])*)\]", r"\1"),
        (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
        (r"\basynccontextmanager\b", "contextmanager"),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\bclient\.aio\.client\b", "client.sync"),
        (r"\bfrom \.client import\b", "from .sync import"),
        (r"(?m)^( *from )\.(\.+)(?=[\w ])", r"\1\2"),  # one folder less up
        (r"(?m)^( *from [.\w]+)\.aio\b", r"\1"),
        (r"\bfrom anyio import sleep\b", "from time import sleep"),
    )
)


def twin(source: str, name: str) -> str:
    """The text of the twin of the module `name`, still to be formatted."""
    for pattern, replacement in RULES:
        source = pattern.sub(replacement, source)
    return f"# Made from {name} by tools/twins.py. Change that one.\n{source}"


def formatted(text: str, path: Path) -> str:
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def twins() -> dict[Path, str]:
    """Each twin as it should be."""
    found = {}
    for folder, modules in SOURCES.items():
        for module in modules:
            source = ROOT / folder / f"{module}.py"
            path = source.parents[1] / f"{NAMES.get(module, module)}.py"
            text = twin(source.read_text(), str(source.relative_to(ROOT)))
            found[path] = formatted(text, path)
    return found


def main() -> int:
    stale = [
        (path, text)
        for path, text in twins().items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())

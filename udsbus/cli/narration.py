"""How the demo tells its story: styled and at a person's pace on a terminal, plain in a pipe."""

from __future__ import annotations

import sys
import time

from .output import is_terminal, write

PAUSE_SECONDS = 0.6
"""Between two steps, for a person to read the last one."""


class Narrator:
    def __init__(self) -> None:
        self._number = 0
        self._terminal = is_terminal(sys.stdout)

    def title(self, text: str) -> None:
        self._line(text, "bold", indent=0)

    def step(self, text: str) -> None:
        if self._terminal and self._number:
            time.sleep(PAUSE_SECONDS)
        self._number += 1
        self.gap()
        self._line(f"{self._number}. {text}", "bold cyan", indent=0)

    def say(self, text: str) -> None:
        self._line(text, "", indent=3)

    def command(self, text: str, remark: str) -> None:
        self._line(f"{text:<33} {remark}", "green", indent=3)

    def gap(self) -> None:
        write("\n")

    def _line(self, text: str, style: str, indent: int) -> None:
        if not self._terminal:
            write(f"{' ' * indent}{text}\n", flush=True)
            return
        from rich.console import Console
        from rich.highlighter import ReprHighlighter
        from rich.padding import Padding
        from rich.text import Text

        line = Text(text, style) if style else ReprHighlighter()(Text(text))
        Console(highlight=False).print(Padding(line, (0, 0, 0, indent), expand=False))

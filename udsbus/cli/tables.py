"""Tables, for terminals only. The one place that imports rich for a command other than demo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

CELL_CHARACTERS = 500
"""A longer cell is cut: who wants it whole gets that one key."""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows of text that is fit for a terminal already. Columns of numbers stand to the right."""
    cells = [[_cut(cell) for cell in row] for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, column in zip(headings, zip(*cells, strict=True), strict=False):
        numbers = all(cell.isdigit() for cell in column)
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    if cells:
        Console(highlight=False).print(table)


def _cut(cell: str) -> str:
    return cell if len(cell) <= CELL_CHARACTERS else cell[: CELL_CHARACTERS - 1] + "…"

"""Results for people: one table a measure."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from .markdown import number
from .results import REDIS, UDSBUS, Row, Table


def print_facts(console: Console, facts: dict[str, str]) -> None:
    for name, value in facts.items():
        console.print(f"[dim]{name}:[/dim] {value}", highlight=False)


def print_table(console: Console, table: Table) -> None:
    """Medians over the rounds ± half of what lies between least and most; ratio and goal."""
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for heading in ("", "figure", "unit"):
        shown.add_column(heading, no_wrap=True)
    for heading in (table.reference, table.own, f"{table.own} / it"):
        shown.add_column(heading, justify="right")
    shown.add_column("goal")
    group = None
    for row in table.rows:
        if group not in (None, row.group):
            shown.add_section()
        shown.add_row(
            "" if row.group == group else row.group, row.name, row.unit,
            _figures(row, REDIS), _figures(row, UDSBUS), _ratio(row), _goal(row),
        )  # fmt: skip
        group = row.group
    if shown.rows:
        console.print(shown)
    else:
        console.print(f"[bold]{table.title}[/bold]")
    for note in table.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def _ratio(row: Row) -> str:
    if REDIS not in row.samples:
        return ""
    return f"{row.ratio:.2f}" if row.ratio >= 0.1 else f"{row.ratio:.4f}"


def _figures(row: Row, side: str) -> str:
    if side not in row.samples:
        return ""
    median, samples = row.figure(side), row.samples[side]
    if len(samples) == 1 or not median:
        return number(median)
    return f"{number(median)} [dim]±{(max(samples) - min(samples)) / 2 / median:.0%}[/dim]"


def _goal(row: Row) -> str:
    goal = row.goal
    if goal is None:
        return ""
    text = f"{goal.text}: {'met' if goal.met(row) else 'MISSED'}"
    return f"[{'green' if goal.met(row) else 'red'}]{text}[/]"

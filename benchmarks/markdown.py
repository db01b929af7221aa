"""Results for a page: the figures of a run as `results.md`, and two runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plots.pictures import Picture

HEAD = """# Results

Made by `python -m benchmarks` with `--json`, `--markdown` and `--plots`; what is measured, and why
some of it is slower, is in [README.md](README.md). Median over the rounds, ± half of what lies
between the least and the most round.

"""


def page(
    facts: dict[str, str],
    tables: Iterable[dict[str, Any]],
    pictures: Sequence[Picture] = (),
    where: str = "",
) -> str:
    """One run; `tables` as `Table.as_json` gives them, with the pictures that stand in `where`,
    seen from the page, above the tables that they are drawn from."""
    lines = [HEAD + "| | |\n|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if name != "load average"]
    for table in tables:
        lines.append(f"\n## `{table['name']}`: {table['title']}\n")
        lines += [_embedded(one, where) for one in pictures if one.table == table["name"]]
        lines.append(f"| | figure | {table['reference']} | {table['own']} | ratio | goal |")
        lines.append("|---|---|---|---|---|---|")
        group = None
        for row in table["rows"]:
            shown = "" if row["group"] == group else row["group"]
            group = row["group"]
            lines.append(
                f"| {shown} | {row['name']}, {row['unit']} | {_figure(row, 'redis')} | "
                f"{_figure(row, 'udsbus') or _figure(row, 'bare')} | {_ratio(row)} | {_goal(row)} |"
            )
        lines += [f"\n{note}" for note in table["notes"]]
    return "\n".join(lines) + "\n"


def _embedded(picture: Picture, where: str) -> str:
    path = f"{where}/{picture.name}"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}-dark.svg">'
        f'<img src="{path}.svg" alt="{picture.title}"></picture>\n'
    )


def comparison(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What udsbus's figures, and their ratios to the others', were in a run and are in another."""
    old = {
        (table["name"], row["group"], row["name"]): row
        for table in before["tables"]
        for row in table["rows"]
    }
    lines = ["| measure | figure | before | after | after / before | ratio before | ratio after |"]
    lines.append("|---|---|---|---|---|---|---|")
    for table in after["tables"]:
        for row in table["rows"]:
            was = old.get((table["name"], row["group"], row["name"]))
            if was is None or "udsbus" not in was["median"] or "udsbus" not in row["median"]:
                continue
            first, second = was["median"]["udsbus"], row["median"]["udsbus"]
            change = f"{second / first:.2f}" if first else ""
            lines.append(
                f"| `{table['name']}` {row['group']} | {row['name']}, {row['unit']} | "
                f"{number(first)} | {number(second)} | {change} | {_ratio(was)} | {_ratio(row)} |"
            )
    return "\n".join(lines) + "\n"


def number(figure: float) -> str:
    """Three digits that count."""
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}" if figure >= 1 else f"{figure:.3f}"


def _figure(row: dict[str, Any], side: str) -> str:
    if side not in row["median"]:
        return ""
    median, samples = row["median"][side], row["samples"][side]
    if len(samples) == 1 or not median:
        return number(median)
    return f"{number(median)} ±{(max(samples) - min(samples)) / 2 / median:.0%}"


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.4f}"


def _goal(row: dict[str, Any]) -> str:
    if "goal" not in row:
        return ""
    return f"{row['goal']['text']}: {'met' if row['goal']['met'] else '**missed**'}"

"""`python -m benchmarks`: see README.md."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .bench import FULL, QUICK, Bench, Scale
from .machine import described
from .markdown import comparison, page
from .measures import MEASURES
from .plots import draw
from .report import print_facts, print_table
from .results import Table
from .servers import running_redis, running_udsbus

_FILE = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--quick", is_flag=True, help="A smoke test: short runs, figures of no worth.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASURES)), metavar="NAME",
    help=f"Just this measure; may be given again. One of {', '.join(MEASURES)}.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="How often each side has its turn, instead of 5."
)
@click.option("--json", "json_file", type=_FILE, help="Write all figures of all rounds there.")
@click.option("--markdown", type=_FILE, help="Write the tables there as a page.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="BEFORE AFTER",
    help="Measure nothing: two JSON files side by side.",
)
@click.option("--plots", type=_DIRECTORY, help="Draw SVGs there, for light and for dark pages.")
@click.option(
    "--from",
    "earlier",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: the page and the plots of a JSON file.",
)
def main(
    quick: bool,
    only: tuple[str, ...],
    rounds: int | None,
    json_file: Path | None,
    markdown: Path | None,
    compare: tuple[Path, Path] | None,
    plots: Path | None,
    earlier: Path | None,
) -> None:
    """Measure udsbus beside Redis, in turns, on Unix sockets.

    Ends with 0 also when goals are missed, with 1 when a measure broke.
    """
    if compare is not None:
        before, after = (json.loads(path.read_text()) for path in compare)
        click.echo(comparison(before, after), nl=False)
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    if earlier is not None:
        results = json.loads(earlier.read_text())
    else:
        scale = QUICK if quick else FULL
        if rounds is not None:
            scale = scale._replace(rounds=rounds, rival_rounds=rounds)
        results = _measured(console, only, scale)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(results, indent=1) + "\n")
    pictures = draw(results["tables"], plots) if plots is not None else []
    if markdown is not None:
        where = os.path.relpath(plots, markdown.parent) if plots is not None else ""
        markdown.write_text(page(results["facts"], results["tables"], pictures, where))
    if results["broken"]:
        console.print(f"[red]broken: {', '.join(results['broken'])}[/red]")
        sys.exit(1)


def _measured(console: Console, only: tuple[str, ...], scale: Scale) -> dict[str, Any]:
    """What the JSON file has, of a run that is shown as it goes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended too
    facts = described() | {"rounds": str(scale.rounds)}
    print_facts(console, facts)
    tables, broken = _run(console, [name for name in MEASURES if name in (only or MEASURES)], scale)
    return {
        "facts": facts,
        "settings": scale._asdict(),
        "tables": [table.as_json() for table in tables],
        "broken": broken,
    }


def _run(console: Console, names: list[str], scale: Scale) -> tuple[list[Table], list[str]]:
    """The tables of the measures, printed as they come, and the names of those that broke."""
    tables: list[Table] = []
    broken: list[str] = []
    status = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="udsbus-bench-") as directory,
        running_redis(Path(directory)) as redis,
        running_udsbus(Path(directory)) as udsbus,
    ):
        bench = Bench((redis, udsbus), scale, Path(directory))
        for name in names:
            try:
                with status.status(f"measuring {name}"):
                    table = MEASURES[name](bench)
            except Exception:  # the other measures are still worth having
                console.print(f"[red]{name} broke[/red]")
                console.print(traceback.format_exc(), markup=False)
                broken.append(name)
            else:
                print_table(console, table)
                tables.append(table)
    return tables, broken


if __name__ == "__main__":
    main()

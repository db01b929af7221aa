"""`udsbus journal check` and `udsbus journal repair`: a journal without its broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BrokerUnavailable, InvalidRequest
from ..paths import default_state
from .options import Command, address, socket_option
from .outcomes import ABSENT, DONE, REFUSED, USAGE
from .output import complain, is_terminal, json_of, shown, write_line

if TYPE_CHECKING:
    from ..journal.repair import Extent, Report

HINT = "; the one of a bus with a directory of its own needs --state DIR (see `udsbus info`)"
F = TypeVar("F", bound=Callable[..., Any])


def _state_option(function: F) -> F:
    return click.option(
        "--state", metavar="DIR", type=click.Path(file_okay=False),
        help="State directory of the bus.  [default: that of --socket]",
    )(function)  # fmt: skip


@click.group("journal", invoke_without_command=True)
@click.pass_context
def journal_command(ctx: click.Context) -> int | None:
    """Look at what a bus has kept, and mend it if it is damaged."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


@journal_command.command("check", cls=Command)
@_state_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@socket_option
def check_command(state: str | None, as_json: bool) -> int:
    """Read a journal from beginning to end, and change nothing.

    Exit code 0: a broker starts with it, 3: it is damaged, and a broker does not, 1: there is none.
    While a broker writes to it, its last record may look cut off.
    """
    from ..journal.repair import check

    directory = _directory(state)
    if not os.path.isdir(directory):
        complain(f"there is no state in {directory}{HINT if state is None else ''}")
        return ABSENT
    report = check(directory)
    rows = _rows(directory, report)
    if as_json:
        write_line(json_of({name.replace(" ", "_"): value for name, value in rows}))
    else:
        _print([(name, value) for name, value in rows if value is not None])
    return _judge(directory, report)


@journal_command.command("repair", cls=Command)
@_state_option
@click.option(
    "--bridge", is_flag=True,
    help="Keep what can be read behind the damage, and leave out only what cannot.",
)  # fmt: skip
@socket_option
def repair_command(state: str | None, bridge: bool) -> int:
    """Mend a journal that a broker refuses to start with.

    It will end at the last good record before the damage; with --bridge, what came after it is kept
    too, without the changes that cannot be read. Look before with `udsbus journal check`. The bytes
    that are taken out are kept in a directory `damaged` beside the journal.
    """
    from ..journal import StateDirectory
    from ..journal.repair import repair

    directory = _directory(state)
    if not os.path.isdir(directory):
        complain(f"there is no state in {directory}{HINT if state is None else ''}")
        return ABSENT
    try:
        opened = StateDirectory(directory)
    except BrokerUnavailable as error:
        complain(str(error))
        return REFUSED
    mended = repair(opened, bridge=bridge)
    if not mended:
        write_line("there is nothing to mend")
    for fault, kept in mended:
        write_line(f"mended {shown(str(fault))}")
        for path in kept:
            write_line(f"kept what stood there in {shown(path)}")
    return DONE


def _directory(state: str | None) -> str:
    if state == "":
        raise InvalidRequest("the path of the state directory is empty")
    return default_state(address()) if state is None else os.path.abspath(state)


def _rows(directory: str, report: Report) -> list[tuple[str, Any]]:
    fault = report.fault
    return [
        ("state", directory),
        ("segments", len(report.segments)),
        ("bytes", sum(size for _, size in report.segments)),
        *_extent("", report.good),
        ("damage", None if fault is None else fault.what),
        ("file", None if fault is None else fault.segment.path),
        ("offset", None if fault is None else fault.offset),
        ("torn tail", None if fault is None else fault.torn),
        *(_extent("later ", report.later) if fault is not None else ()),
    ]


def _extent(which: str, extent: Extent) -> list[tuple[str, Any]]:
    return [
        (f"{which}turns", extent.turns),
        (f"{which}changes", extent.changes),
        (f"{which}revision", extent.revision or None),
        (f"{which}time", _moment(extent.time) if extent.turns else None),
    ]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def _print(rows: list[tuple[str, Any]]) -> None:
    cells = [
        (name, shown(value) if isinstance(value, str) else json_of(value)) for name, value in rows
    ]
    if is_terminal(sys.stdout):
        from .tables import print_table

        print_table(("name", "value"), cells)
    else:
        for name, cell in cells:
            write_line(f"{name}\t{cell}")


def _judge(directory: str, report: Report) -> int:
    """Say what the rows mean, and what can be done."""
    fault = report.fault
    if fault is None:
        return DONE
    if fault.foreign:
        complain("another release has written it: start that one, or see its notes on upgrading")
        return REFUSED
    if fault.torn:
        complain("the tail is torn, nothing else: the next broker cuts it off and sets it aside")
        return DONE
    good, later = report.good, report.later
    repair = f"udsbus journal repair --state {directory}"
    complain(
        f"damaged: no broker starts with it. {repair} ends it at revision {good.revision}, "
        f"with {good.changes} changes"
    )
    if later.turns:
        complain(
            f"{repair} --bridge also keeps the {later.changes} changes behind the damage, up to "
            f"revision {later.revision}"
        )
    return REFUSED

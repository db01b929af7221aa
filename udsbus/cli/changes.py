"""`udsbus watch`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..messages import GONE
from .options import REVISION, TIMEOUT, Command, Name, Text, following_options, socket_option
from .outcomes import DONE
from .output import is_terminal, json_of, shown, write_line

if TYPE_CHECKING:
    from ..client.following import Change, Watch
    from ..client.sync import Client

COLORS = {
    "created": "green",
    "updated": "cyan",
    "deleted": "red",
    "expired": "yellow",
    "released": "magenta",
    "present": "bright_black",
}


@click.command("watch", cls=Command)
@click.argument("pattern", type=Name())
@click.option("--initial", is_flag=True, help="Begin with what is there (`present`).")
@click.option(
    "--from-revision", metavar="N", type=REVISION,
    help="Begin with the changes after revision N; if the broker has forgotten them, with what is "
    "there.",
)  # fmt: skip
@following_options
@socket_option
def watch_command(
    pattern: str,
    initial: bool,
    from_revision: int | None,
    count: int | None,
    timeout: float | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Print the changes of the keys that match PATTERN.

    One a line, as they happen. A line is revision, kind, key and value with tabs between; the
    value is empty for a key that is gone. See also `udsbus wait`.

    Runs until Ctrl-C, and through restarts of the broker: if changes were missed, stderr says so
    and what is there now follows.
    """
    if initial and from_revision is not None:
        raise click.UsageError("--initial and --from-revision exclude each other")
    from .following import follow

    def start(client: Client) -> Watch:
        return client.watch(pattern, initial=initial, from_revision=from_revision)

    line = _object if as_json else _row if is_terminal(sys.stdout) else _fields
    return follow(start, line, count=count, seconds=timeout, verbose=verbose)


@click.command("wait", cls=Command)
@click.argument("key", type=Name())
@click.option("--value", metavar="VALUE", type=Text(), help="Until it has this value.")
@click.option("--gone", is_flag=True, help="Until it is not there.")
@click.option(
    "--timeout", "seconds", metavar="SECONDS", type=TIMEOUT, help="Wait so long: exit code 4."
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print the value.")
@socket_option
def wait_command(
    key: str, value: str | None, gone: bool, seconds: float | None, quiet: bool
) -> int:
    """Wait until KEY is there, and print its value.

    Or until it has a certain value, read as `udsbus set` reads it, or is not there. If that is so
    already, it does not wait.
    """
    if gone and value is not None:
        raise click.UsageError("--gone and --value exclude each other")
    from .following import wait_for
    from .inputs import value_of

    wanted = None if value is None else value_of(value)

    def is_it(change: Change | None) -> bool:
        there = change is not None and change.kind not in GONE
        if gone:
            return not there
        return there and (value is None or (change is not None and change.value == wanted))

    code, change = wait_for(key, is_it, seconds)
    if change is not None and code == DONE and not gone and not quiet:
        write_line(json_of(change.value))
    return code


def _value(change: Change) -> str:
    return "" if change.kind in GONE else json_of(change.value)


def _fields(change: Change) -> str:
    return f"{change.revision}\t{change.kind}\t{shown(change.key)}\t{_value(change)}"


def _row(change: Change) -> str:
    kind = click.style(f"{change.kind:<8}", fg=COLORS.get(change.kind))
    return f"{change.revision:>6}  {kind}  {shown(change.key)}  {_value(change)}".rstrip()


def _object(change: Change) -> str:
    fields = change._asdict()
    if change.kind in GONE:
        del fields["value"]
    return json_of(fields)

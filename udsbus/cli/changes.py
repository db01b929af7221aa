"""`udsbus watch`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..terms import CREATED, GONE, KINDS
from .options import REVISION, TIMEOUT, Command, Name, Text, following_options, socket_option
from .outcomes import DONE
from .output import is_terminal, json_of, shown, write_line

if TYPE_CHECKING:
    from ..client.followed import Change, ChangeKind
    from ..client.following import Watch
    from ..client.sync import Client
    from ..client.watching import CaughtUp

COLORS = {
    "created": "green",
    "updated": "cyan",
    "deleted": "red",
    "expired": "yellow",
    "released": "magenta",
    "present": "bright_black",
}
CAUGHT_UP = "caught_up"
"""In the place of a kind: all that was there has been told."""


@click.command("watch", cls=Command)
@click.argument("pattern", type=Name())
@click.option("--initial", is_flag=True, help="Begin with what is there (`present`).")
@click.option(
    "--from-revision", metavar="N", type=REVISION,
    help="Begin with the changes after revision N; if the broker has forgotten them, with what is "
    "there.",
)  # fmt: skip
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS),
    help="Only changes of this kind; may be given again.",
)  # fmt: skip
@click.option("--previous", is_flag=True, help="With the value before, too.")
@following_options
@socket_option
def watch_command(
    pattern: str,
    initial: bool,
    from_revision: int | None,
    kinds: tuple[ChangeKind, ...],
    previous: bool,
    count: int | None,
    timeout: float | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Print the changes of the keys that match PATTERN.

    One a line, as they happen. A line is revision, kind, key and value with tabs between; the
    value is empty for a key that is gone. With --initial, a line of the kind `caught_up`, which
    --count does not count, follows what is there. See also `udsbus wait`.

    Runs until Ctrl-C, and through restarts of the broker: if changes were missed, stderr says so
    and what is there now follows.
    """
    if initial and from_revision is not None:
        raise click.UsageError("--initial and --from-revision exclude each other")
    from .following import follow

    def start(client: Client) -> Watch[Any]:
        return client.watch(
            pattern,
            initial=initial,
            from_revision=from_revision,
            kinds=kinds or None,
            previous=previous,
        )

    line: Callable[[Change | CaughtUp, bool], str]
    line = _object if as_json else _row if is_terminal(sys.stdout) else _fields
    return follow(
        start, lambda told: line(told, previous), count=count, seconds=timeout, verbose=verbose
    )


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


def _parts(told: Change | CaughtUp, previous: bool) -> tuple[str, str, str, str | None]:
    """Kind, key, value, and the value before if there was one and it is wanted."""
    if len(told) == 1:  # it has caught up; its class is not imported for that
        return CAUGHT_UP, "", "", None
    _, kind, key, value, before = told
    was = json_of(before) if previous and kind not in (CREATED, "present") else None
    return kind, shown(key), "" if kind in GONE else json_of(value), was


def _fields(told: Change | CaughtUp, previous: bool) -> str:
    *parts, was = _parts(told, previous)
    return "\t".join([str(told.revision), *parts, *([was or ""] if previous else [])])


def _row(told: Change | CaughtUp, previous: bool) -> str:
    kind, key, value, was = _parts(told, previous)
    styled = click.style(f"{kind:<8}", fg=COLORS.get(kind, "bright_black"))
    row = f"{told.revision:>6}  {styled}  {key}  {value}".rstrip()
    return row if was is None else f"{row}  (was {was})"


def _object(told: Change | CaughtUp, previous: bool) -> str:
    if len(told) == 1:
        return json_of({"revision": told.revision, "kind": CAUGHT_UP})
    fields = told._asdict()
    if told.kind in GONE:
        del fields["value"]
    if not previous or told.kind in (CREATED, "present"):
        del fields["previous"]
    return json_of(fields)

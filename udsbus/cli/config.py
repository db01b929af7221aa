"""`udsbus config`: configuration files and the keys that hold what is in them."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..config.differences import ABSENT as NONE
from ..config.differences import KeyChange, shown_place
from ..config.files import STDIN, Source, replace, sources
from ..config.following import Follower
from ..config.formats import FORMATS, UnreadableFile, format_of, unknown
from ..config.past import roll_back
from ..config.pulling import pull
from ..config.pushing import compare, push
from ..wire.values import Undecodable
from .options import (
    COUNT,
    REVISION,
    Command,
    Moment,
    Name,
    TextType,
    address,
    socket_option,
    timeout,
    timeout_option,
)
from .outcomes import ABSENT, DONE, USAGE
from .output import complain, is_terminal, json_of, shown, write, write_line

if TYPE_CHECKING:
    from ..client.sync import Client

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)
VALUE_CHARACTERS = 200
"""On a terminal a longer value is cut: what matters is where it is."""
COLORS = {"+": "green", "-": "red", "~": "cyan"}


class PastTime(TextType):
    """A revision, or a time: an int or a float."""

    name = "revision|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            return (REVISION if value.isdigit() else Moment()).convert(value, param, ctx)
        return value


def file_options(function: F) -> F:
    """`--key`, `--format` and `--split`: which file is which key."""
    for option in (
        format_option,
        split_option,
        click.option(
            "--key", metavar="KEY", type=Name(),
            help="The key, for a single FILE.  [default: config/ and the name without its suffix]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def format_option(function: F) -> F:
    return click.option(
        "--format", "form", type=click.Choice(list(FORMATS)),
        help="The format.  [default: as the suffix of FILE says]",
    )(function)  # fmt: skip


def split_option(function: F) -> F:
    return click.option(
        "--split", is_flag=True, help="A key below KEY for each entry at the top of the file."
    )(function)


def reads_files(function: F) -> F:
    """What is wrong with a file is wrong usage, as it is with an argument."""

    @functools.wraps(function)
    def reading(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UnreadableFile as error:
            complain(str(error))
            return USAGE

    return reading  # type: ignore[return-value]


def _client(command: str) -> Client:
    from ..client.sync import Client

    return Client(address(), name=f"udsbus config {command}", timeout=timeout())


@click.group("config", invoke_without_command=True)
@click.pass_context
def config_command(ctx: click.Context) -> int | None:
    """Keep configuration files and keys the same."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


@config_command.command("push", cls=Command)
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@file_options
@click.option("--watch", is_flag=True, help="Go on, and push at every save, until Ctrl-C.")
@click.option("-q", "--quiet", is_flag=True, help="Do not print what has changed.")
@timeout_option
@socket_option
@reads_files
def push_command(
    files: tuple[str, ...],
    key: str | None,
    form: str | None,
    split: bool,
    watch: bool,
    quiet: bool,
) -> int:
    """Write all that is in each FILE to its key, in one transaction.

    app.toml is the key config/app, .env is config/env; "-" is stdin. What is there already is not
    written. Prints what has changed, as `udsbus config diff` does.

    With --watch a save that cannot be pushed is told of, and the old value stays. It goes on
    through restarts of the broker.
    """
    pushed = sources(files, key=key, form=form, split=split)
    if watch:
        return _follow(pushed, quiet)
    _print_pushed(pushed, push(_client("push"), pushed), quiet)
    return DONE


def _follow(pushed: list[Source], quiet: bool) -> int:
    if any(source.path == STDIN for source in pushed):
        raise click.UsageError("--watch is for files, not for standard input")
    from .following import client_that_tells

    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        client = client_that_tells(timeout(), "udsbus config push")
        for told in Follower(client, pushed, complain).follow():
            if told.changes or not told.failure:
                _print_pushed(pushed, told.changes, quiet)
            if told.failure:
                complain(told.failure)
            write("", flush=True)
    except KeyboardInterrupt:
        pass
    return DONE


def _print_pushed(pushed: list[Source], changes: list[KeyChange], quiet: bool) -> None:
    if quiet:
        return
    for change in changes:
        _print(change)
    if not changes:
        keys = ", ".join(shown(source.key) for source in pushed)
        complain(f"nothing has changed: {keys} held it already")


@config_command.command("diff", cls=Command)
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@file_options
@timeout_option
@socket_option
@reads_files
def diff_command(files: tuple[str, ...], key: str | None, form: str | None, split: bool) -> int:
    """Print what `udsbus config push` would change.

    A line for each place in a value: `+` and what is new there, `-` and what is gone, or `~` and
    both, behind the key, with tabs between. Exit code 1 if anything differs.
    """
    changes = compare(_client("diff"), sources(files, key=key, form=form, split=split))
    for change in changes:
        _print(change)
    return ABSENT if changes else DONE


@config_command.command("pull", cls=Command)
@click.argument("key", type=Name())
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@format_option
@split_option
@timeout_option
@socket_option
@reads_files
def pull_command(key: str, file: str, form: str | None, split: bool) -> int:
    """Write what KEY holds into FILE, or print it, as JSON if nothing else is asked for.

    FILE is replaced at once, and keeps its permissions; a new .env is for its owner alone. What its
    format lacks is an error that says where. Exit code 1 if there is no such key.
    """
    if form is None and file == STDIN:
        form = "json"
    known = FORMATS[form] if form else format_of(file)
    if known is None:
        raise unknown(file)
    content = pull(_client("pull"), key, known, split=split)
    if content is None:
        complain(f"there is no key below {key!r}" if split else f"there is no key {key!r}")
        return ABSENT
    if file != STDIN:
        replace(file, content, private=known is FORMATS["env"])  # it is where secrets are
    elif is_terminal(sys.stdout):
        write(shown(content.decode(), keep="\n\t"))
    else:
        write("", flush=True)  # complains when it is closed
        sys.stdout.buffer.write(content)
    return DONE


@config_command.command("rollback", cls=Command)
@click.argument("key", type=Name())
@click.option("--steps", metavar="N", type=COUNT, help="So many values back.  [default: 1]")
@click.option(
    "--to", "moment", metavar="REVISION|TIME", type=PastTime(),
    help="To what was at a revision, or at a time: 2h ago, or 2026-05-04T03:02.",
)  # fmt: skip
@split_option
@timeout_option
@socket_option
def rollback_command(key: str, steps: int | None, moment: int | float | None, split: bool) -> int:
    """Let KEY hold the value before the present one.

    It is a new write, so done twice it changes nothing; --steps 2 goes further. Prints what has
    changed, as `udsbus config diff` does. Exit code 1 if nothing has.
    """
    if steps is not None and moment is not None:
        raise click.UsageError("--steps and --to exclude each other")
    changes = roll_back(
        _client("rollback"),
        key,
        split=split,
        steps=steps or 1,
        revision=moment if isinstance(moment, int) else None,
        moment=moment if isinstance(moment, float) else None,
    )
    for change in changes:
        _print(change)
    if not changes:
        complain(f"nothing has changed: {shown(key)} held it already")
    return DONE if changes else ABSENT


def _print(change: KeyChange) -> None:
    terminal = is_terminal(sys.stdout)
    for place, before, after in change.differences():
        sign = "+" if before is NONE else "-" if after is NONE else "~"
        values = " → ".join(_value(each, terminal) for each in (before, after) if each is not NONE)
        text = f"{shown_place(place)}: {values}" if place else values
        if terminal:
            sign = click.style(sign, fg=COLORS[sign])
            write_line(f"{sign} {click.style(shown(change.key), dim=True)}  {text}")
        else:
            write_line(f"{sign}\t{shown(change.key)}\t{text}")


def _value(value: Any, terminal: bool) -> str:
    if type(value) is Undecodable:
        return f"(undecodable, {value.size} bytes)"
    text = json_of(value)
    if terminal and len(text) > VALUE_CHARACTERS:
        return text[: VALUE_CHARACTERS - 1] + "…"
    return text

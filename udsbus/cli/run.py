"""`udsbus run`."""

from __future__ import annotations

import logging
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import COUNT, Command, Name, Seconds, Text, address, socket_option
from .outcomes import REFUSED
from .output import complain, is_terminal, shown

if TYPE_CHECKING:
    from ..running.plan import Plan, Reaction

VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
DURATION = Seconds(1e6)


class OnChange(click.ParamType):  # type: ignore[type-arg]
    """`restart`, `signal=NAME`, `hook=CMD`, `none`."""

    name = "reaction"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Reaction:
        from ..running.plan import Reaction

        kind, _, rest = value.partition("=")
        if value in ("restart", "none"):
            return Reaction(value)
        if kind == "signal":
            return Reaction("signal", number=self._number(rest, param, ctx))
        if kind == "hook":
            try:
                words = shlex.split(rest)
            except ValueError as error:
                self.fail(f"{rest!r} is no command: {error}", param, ctx)
            if words:
                return Reaction("hook", hook=tuple(words))
        raise click.BadParameter(
            f"{value!r} is none of restart, signal=NAME, hook=COMMAND and none", ctx, param
        )

    def _number(self, name: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        known = signal.Signals.__members__
        found = known.get(name.upper()) or known.get(f"SIG{name.upper()}")
        if found is None and name.isdecimal() and int(name) in signal.valid_signals():
            return int(name)
        if found is None:
            self.fail(f"there is no signal {name!r}; see: kill -l", param, ctx)
        return found


class Pair(click.ParamType):  # type: ignore[type-arg]
    """`LEFT=RIGHT`, of which only LEFT may have a `=` in it."""

    name = "pair"

    def __init__(self, shape: str, right: str = ".+") -> None:
        self.shape = shape
        self.right = right

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        left, _, right = value.rpartition("=")
        if not left or not re.fullmatch(self.right, right, re.DOTALL):
            self.fail(f"{value!r} is not like {self.shape}", param, ctx)
        return left, right


class Prefix(Text):
    """The beginning of a variable's name."""

    name = "prefix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        prefix = super().convert(value, param, ctx)
        if not re.fullmatch(VARIABLE, prefix):
            self.fail(f"no variable's name begins with {prefix!r}", param, ctx)
        return prefix


@click.command("run", cls=Command)
@click.argument("command", nargs=-1, required=True, type=Text())
@click.option(
    "--watch", "patterns", metavar="PATTERN", type=Name(), multiple=True,
    help="Keys to follow; may be given again.",
)  # fmt: skip
@click.option(
    "--on-change", "reaction", metavar="REACTION", type=OnChange(), default="restart",
    help="restart, signal=NAME, hook=COMMAND or none.  [default: restart]",
)  # fmt: skip
@click.option("--env", "as_variables", is_flag=True, help="Give COMMAND the values as variables.")
@click.option(
    "--env-prefix", "prefix", metavar="PREFIX", type=Prefix(),
    help="The same, with PREFIX before their names.",
)  # fmt: skip
@click.option(
    "--env-from", "named", metavar="KEY=NAME", type=Pair("KEY=NAME", VARIABLE), multiple=True,
    help="Give COMMAND the value of KEY as the variable NAME; may be given again.",
)  # fmt: skip
@click.option(
    "--render", "renderings", metavar="TEMPLATE=FILE", type=Pair("TEMPLATE=FILE"), multiple=True,
    help="Fill values into TEMPLATE, and write FILE; may be given again.",
)  # fmt: skip
@click.option("--copies", metavar="N", type=COUNT, default=1, help="Run so many.  [default: 1]")
@click.option(
    "--debounce", metavar="SECONDS", type=DURATION,
    help="React when nothing has changed for so long.  [default: 0.2]",
)  # fmt: skip
@click.option(
    "--settle", metavar="SECONDS", type=DURATION,
    help="Restart the next copy when a new one has run for so long.  [default: 1]",
)  # fmt: skip
@click.option(
    "--grace", metavar="SECONDS", type=DURATION,
    help="What does not end on SIGTERM is killed after so long.  [default: 10]",
)  # fmt: skip
@socket_option
def run_command(
    command: tuple[str, ...],
    patterns: tuple[str, ...],
    reaction: Reaction,
    as_variables: bool,
    prefix: str | None,
    named: tuple[tuple[str, str], ...],
    renderings: tuple[tuple[str, str], ...],
    copies: int,
    debounce: float | None,
    settle: float | None,
    grace: float | None,
) -> int:
    """Run COMMAND with values of the bus, and restart it when they change.

    \b
        udsbus run --watch 'config/app/**' --env -- gunicorn app:app
        udsbus run --watch 'config/app/**' --on-change signal=HUP \\
            --render app.conf.tmpl=app.conf -- nginx -g 'daemon off;'

    There is no shell in between. The exit code is that of COMMAND, and signals are passed on to it.
    See docs/running.md for the names that values have, and for what happens when.
    """
    names = [name for _, name in named]
    if len(dict(named)) < len(named) or len(set(names)) < len(names):
        raise click.UsageError("--env-from: a key, or a name, is given twice")
    followed = [*patterns, *(key for key, _ in named if key not in patterns)]
    if not followed:
        raise click.UsageError("there is nothing to follow: give --watch PATTERN")

    from ..running.naming import Unusable
    from ..running.plan import Plan
    from ..running.programs import why_not
    from ..running.rendering import Rendering, overwritten

    files = [Rendering(Path(template), Path(file)) for template, file in renderings]
    if clash := overwritten(files):
        raise click.UsageError(
            f"--render: {shown(str(clash[1]))} would be written over the template "
            f"{shown(str(clash[0]))}"
        )
    given = {"debounce": debounce, "settle": settle, "grace": grace}
    plan = Plan(
        command,
        followed,
        reaction,
        copies=copies,
        prefix=prefix or ("" if as_variables else None),
        named=dict(named),
        renderings=files,
        **{name: seconds for name, seconds in given.items() if seconds is not None},
    )
    refusal = why_not(command[0])
    if refusal is not None:
        complain(refusal[1])
        return refusal[0]
    try:
        return _run(plan)
    except Unusable as error:
        complain(f"the command has not been started: {error}")
        return REFUSED


def _run(plan: Plan) -> int:
    from ..client.sync import Client
    from ..running.following import Following
    from ..running.supervisor import Supervisor
    from ..wire.notation import to_json

    log = logging.getLogger("udsbus.client")
    log.setLevel(logging.CRITICAL)  # what goes wrong at the beginning is raised
    about = {"command": " ".join(plan.command)[:1_000]}
    client = Client(address(), name="udsbus run", metadata=about, cache=False)
    following = Following(client, plan.patterns, complain)
    log.addHandler(_Complaints())
    log.propagate = False
    log.setLevel(logging.WARNING)
    try:
        person = is_terminal(sys.stderr)  # in a log it would stand between the command's own lines
        tell = complain if person else _nothing
        return Supervisor(plan, following, client.address, to_json, complain, tell).run()
    finally:
        log.setLevel(logging.CRITICAL)
        following.close()


def _nothing(message: str) -> None:
    pass


class _Complaints(logging.Handler):
    """What the client's log says while the command runs: above all, that the bus is away."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.getMessage()}; the command runs on")

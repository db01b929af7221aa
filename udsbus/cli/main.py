"""The command's entry: finding the subcommand, and turning errors into messages and exit codes."""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__
from ..errors import Error
from .options import socket_option
from .outcomes import exit_code_of

COMMANDS = {
    "serve": "serving",
}
"""Subcommand → the module in this package that has it, as a function of the same name."""


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        where = COMMANDS.get(name)
        if where is None:
            return None
        command: click.Command = getattr(import_module(f"{__package__}.{where}"), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="udsbus")
@socket_option
def udsbus() -> None:
    """Shared state, change events and messages for the processes of one machine."""


def main() -> None:
    """Run the command. Exit codes: see outcomes.py."""
    try:
        udsbus()
    except Error as error:
        click.echo(f"udsbus: {error}", err=True)
        raise SystemExit(exit_code_of(error)) from None

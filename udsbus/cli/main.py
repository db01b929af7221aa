"""The command's entry: finding the subcommand, and turning errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

import click

from ..errors import Error
from ..version import __version__
from .options import MARK, socket_option
from .outcomes import DONE, MEANINGS, REFUSED, USAGE, exit_code_of
from .output import abandon_stdout, complain

COMMANDS = {
    "serve": "serving",
    "takeover": "serving",
    "get": "values",
    "set": "values",
    "delete": "values",
    "keys": "values",
    "watch": "changes",
    "wait": "changes",
    "log": "past",
    "diff": "past",
    "rollback": "past",
    "snapshot": "past",
    "config": "config",
    "schema": "schemas",
    "publish": "messages",
    "subscribe": "messages",
    "clients": "clients",
    "kick": "clients",
    "locks": "locks",
    "lock": "locks",
    "run": "run",
    "queue": "queues",
    "call": "services",
    "services": "services",
    "worker": "workers",
    "ping": "about",
    "info": "about",
    "journal": "journal",
    "demo": "demo",
    "completion": "completing",
}
"""Subcommand → the module in this package that has it, as `<subcommand>_command`."""


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        where = COMMANDS.get(name)
        if where is None:
            return None
        module = import_module(f"{__package__}.{where}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(error.message + hint, ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        # Before click turns them into exit codes of its own.
        try:
            code = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            raise _Ended(signal.SIGPIPE) from None
        except KeyboardInterrupt:
            raise _Ended(signal.SIGINT) from None
        return code


class _Ended(BaseException):
    """The end that a signal would have made, had Python not taken it."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number


EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {what}" for code, what in MEANINGS.items())


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="udsbus")
@socket_option
@click.pass_context
def udsbus(ctx: click.Context) -> int | None:
    """Shared state, change events and messages for the processes of one machine.

    Start with: udsbus demo
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


def main() -> None:
    """Run the command. Exit codes: see outcomes.py."""
    sys.setrecursionlimit(20_000)  # a value may be nested more deeply than any program
    _fill_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run()
    except _Ended as ended:
        # Die of it, as other tools do: only then does a shell stop its loop at a Ctrl-C.
        abandon_stdout()
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
        raise SystemExit(128 + ended.number) from None
    _exit(code)


def _fill_standard_descriptors() -> None:
    """Where one is closed, a socket would get its number, and what is printed to it."""
    for standard in range(3):
        try:
            os.fstat(standard)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _exit(code: int) -> NoReturn:
    """At once: taking the interpreter apart would be a tenth of all that `udsbus get` does."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # said already, if it can be said at all
                stream.flush()
    os._exit(code)


def _run() -> int:
    try:
        return udsbus.main(prog_name="udsbus", standalone_mode=False) or DONE
    except click.ClickException as error:
        complain(_usage(error))
        return USAGE
    except Error as error:
        complain(str(error))
        return exit_code_of(error)
    except click.Abort:
        raise _Ended(signal.SIGINT) from None
    except OSError as error:
        complain(f"cannot go on: {error}")
        abandon_stdout()
        return REFUSED
    except Exception:
        # Python would exit with 1, which here means "absent".
        import traceback

        complain("this is a fault of udsbus itself; please report it with what follows")
        for line in traceback.format_exc().splitlines():
            complain(line)
        return REFUSED


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().replace(MARK, "").split())
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.removesuffix('.')}; see: {context.command_path} --help"

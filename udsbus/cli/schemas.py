"""`udsbus schema`: what values must look like."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import click

from .options import Command, Name, address, socket_option, timeout, timeout_option
from .outcomes import ABSENT, DONE, REFUSED, USAGE
from .output import complain, shown, write_line

if TYPE_CHECKING:
    from ..client.sync import Client

FILE = click.File(encoding="utf-8")


def _client() -> Client:
    from ..client.sync import Client

    return Client(address(), name="udsbus command", timeout=timeout())


@click.group("schema", invoke_without_command=True)
@click.pass_context
def schema_command(ctx: click.Context) -> int | None:
    """Say what the values of keys must look like, with JSON Schema."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


@schema_command.command("set", cls=Command)
@click.argument("pattern", type=Name())
@click.argument("file", type=FILE)
@click.option("-v", "--verbose", is_flag=True, help="Print the revision that holds it.")
@timeout_option
@socket_option
def set_command(pattern: str, file: IO[str], verbose: bool) -> None:
    """Refuse from now on to write what does not match the JSON Schema in FILE.

    For every key that matches PATTERN, whoever writes. FILE may be "-" for stdin. What is there
    already stays; see before what would not match: `udsbus schema check PATTERN FILE`.
    """
    revision = _client().set_schema(pattern, _read(file))
    if verbose:
        write_line(str(revision))


@schema_command.command("get", cls=Command)
@click.argument("pattern", type=Name())
@timeout_option
@socket_option
def get_command(pattern: str) -> int:
    """Print the schema of PATTERN.

    Exit code 1 if it has none.
    """
    schema = _client().schemas().get(pattern)
    if schema is None:
        return _none_for(pattern)
    write_line(json.dumps(schema, indent=2))
    return DONE


@schema_command.command("list", cls=Command)
@timeout_option
@socket_option
def list_command() -> int:
    """Print the schemas that there are: pattern and schema on each line, with a tab between.

    Exit code 1 if there is none.
    """
    schemas = _client().schemas()
    for pattern, schema in schemas.items():
        write_line(f"{shown(pattern)}\t{json.dumps(schema)}")
    return DONE if schemas else ABSENT


@schema_command.command("delete", cls=Command)
@click.argument("pattern", type=Name())
@timeout_option
@socket_option
def delete_command(pattern: str) -> int:
    """Let values of PATTERN be anything again.

    Exit code 1 if it has no schema.
    """
    client = _client()
    if pattern not in client.schemas():
        return _none_for(pattern)
    client.set_schema(pattern, None)
    return DONE


@schema_command.command("check", cls=Command)
@click.argument("pattern", type=Name())
@click.argument("file", type=FILE, required=False)
@timeout_option
@socket_option
def check_command(pattern: str, file: IO[str] | None) -> int:
    """Print which values do not match the schema of PATTERN, or the one in FILE, and why.

    Nothing is changed. A line is key, place in the value (a JSON Pointer, nothing for the whole of
    it) and reason, with tabs between. Exit code 3 if there are any, 1 if there is no schema.
    """
    client = _client()
    if file is None and pattern not in client.schemas():
        return _none_for(pattern)
    found = client.violations(pattern, None if file is None else _read(file))
    for violation in found:
        fields = (violation.details[name] for name in ("key", "path", "reason"))
        write_line("\t".join(map(shown, fields)))
    return REFUSED if found else DONE


def _none_for(pattern: str) -> int:
    complain(f"there is no schema for {pattern!r}")
    return ABSENT


def _read(file: IO[str]) -> Any:
    try:
        return json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} is not JSON: {error}") from None

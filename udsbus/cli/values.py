"""`udsbus get`, `set`, `delete` and `keys`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from ..client import requests
from ..errors import UnsupportedValue
from ..wire.values import decode
from .asking import Asker, asker
from .inputs import read_value, value_of
from .options import (
    REVISION,
    Command,
    Name,
    Seconds,
    Text,
    socket_option,
    timeout_option,
    value_options,
)
from .outcomes import ABSENT, REFUSED
from .output import complain, is_terminal, json_of, shown, write, write_line, write_raw

_ABSENT = object()


@click.command("get", cls=Command)
@click.argument("key", type=Name())
@click.option(
    "--default", metavar="VALUE", type=Text(), help="Print this if the key is absent, and succeed."
)
@click.option("--raw", is_flag=True, help="Print text and bytes as they are, without a newline.")
@click.option("--entry", is_flag=True, help="Print value, revision and ttl (seconds left).")
@timeout_option
@socket_option
def get_command(key: str, default: str | None, raw: bool, entry: bool) -> int | None:
    """Print the value of KEY as JSON.

    Exit code 1 if it is absent.
    """
    if raw and entry:
        raise click.UsageError("--raw and --entry exclude each other")
    substitute = _ABSENT if default is None else value_of(default)
    if entry:
        found = asker().ask(requests.entry(key))
        if found is not None:
            write_line(json_of(found._asdict()))
            return None
        if substitute is not _ABSENT:
            write_line(json_of({"value": substitute, "revision": 0, "ttl": None}))
            return None
    else:
        value = asker().ask(requests.get(key, substitute))
        if value is not _ABSENT:
            if raw:
                write_raw(value)
            else:
                write_line(json_of(value))
            return None
    complain(f"there is no key {key!r}")
    return ABSENT


@click.command("set", cls=Command)
@click.argument("key", type=Name())
@click.argument("value", type=Text())
@value_options
@click.option("--ttl", metavar="SECONDS", type=Seconds(), help="It expires after so long.")
@click.option(
    "--if-revision", metavar="N", type=REVISION,
    help="Only if the key is at revision N (0: absent).",
)  # fmt: skip
@click.option("--if-absent", is_flag=True, help="Only if the key is absent.")
@click.option("--if-changed", is_flag=True, help="Do nothing if it holds that value already.")
@click.option("-v", "--verbose", is_flag=True, help="Print the revision that holds the value.")
@timeout_option
@socket_option
def set_command(
    key: str,
    value: str,
    as_json: bool,
    raw: bool,
    ttl: float | None,
    if_revision: int | None,
    if_absent: bool,
    if_changed: bool,
    verbose: bool,
) -> None:
    """Write VALUE to KEY.

    VALUE is JSON if it can be read as JSON, else it is taken as text: 10 is a number, ten is text,
    and so is [1, 2 with the bracket forgotten (--json would complain, --raw takes 10 as text too).
    "-" reads it from stdin; text from there loses its last newline, with --raw it is kept as it
    is, and what is not UTF-8 becomes bytes.

    Exit code 3 if the condition does not hold.
    """
    if if_absent and if_revision is not None:
        raise click.UsageError("--if-absent and --if-revision exclude each other")
    content = read_value(value, as_json=as_json, raw=raw)
    expected = 0 if if_absent else if_revision
    revision = asker().ask(requests.set(key, content, ttl, expected, if_changed))
    if verbose:
        write_line(str(revision))


@click.command("delete", cls=Command)
@click.argument("keys", metavar="KEY...", type=Name(), nargs=-1, required=True)
@click.option(
    "--if-revision", metavar="N", type=REVISION, help="Only if the key, a single one, is at N."
)
@timeout_option
@socket_option
def delete_command(keys: tuple[str, ...], if_revision: int | None) -> int | None:
    """Remove each KEY.

    Exit code 1 if none of them was there, 3 if the condition does not hold.
    """
    if if_revision is not None and len(keys) > 1:
        raise click.UsageError("--if-revision takes a single KEY")
    bus = asker()
    deleted = [bus.ask(requests.delete(key, if_revision)) for key in keys]
    if any(deleted):
        return None
    complain(f"there is no key {keys[0]!r}" if len(keys) == 1 else "none of these keys is there")
    return ABSENT


@click.command("keys", cls=Command)
@click.argument("pattern", type=Name(), default="**")
@click.option("--count", is_flag=True, help="Print how many there are.")
@click.option("--values", is_flag=True, help="Print the values too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one key a line.")
@timeout_option
@socket_option
def keys_command(pattern: str, count: bool, values: bool, as_json: bool) -> int | None:
    """List the keys that match PATTERN, in order.

    Without PATTERN all of them. In a PATTERN `*` stands for one segment and `**` for any number
    of them.
    """
    if count and (values or as_json):
        raise click.UsageError("--count prints a number and nothing else")
    bus = asker()
    if count:
        write_line(str(sum(bus.pages(lambda after: requests.count_page(pattern, after)))))
        return None
    if values:
        return _print_items(bus, pattern, as_json)
    for page in bus.pages(lambda after: requests.keys_page(pattern, after)):
        lines = map(json_of, page) if as_json else map(shown, page)
        write("".join(line + "\n" for line in lines))
    return None


def _print_items(bus: Asker, pattern: str, as_json: bool) -> int | None:
    code = None

    def rows() -> Iterator[tuple[str, Any, int]]:
        nonlocal code
        for page in bus.pages(lambda after: requests.raw_items_page(pattern, after)):
            for key, data, revision in page:
                try:
                    yield key, decode(data), revision
                except UnsupportedValue as error:
                    complain(f"{key!r} is left out: {error}")
                    code = REFUSED

    if as_json:
        for key, value, revision in rows():
            write_line(json_of({"key": key, "value": value, "revision": revision}))
    elif is_terminal(sys.stdout):
        from .tables import print_table

        cells = [(shown(key), json_of(value), str(revision)) for key, value, revision in rows()]
        print_table(("key", "value", "revision"), cells)
    else:
        for key, value, _ in rows():
            write_line(f"{shown(key)}\t{json_of(value)}")
    return code

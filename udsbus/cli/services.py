"""`udsbus call` and `udsbus services`: to call what processes serve, and to see who serves what."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import RemoteError, ServiceUnavailable
from .inputs import read_value
from .options import Command, Name, Text, address, socket_option, timeout, value_options
from .options import timeout_option as request_timeout_option
from .outcomes import ABSENT, DONE, REFUSED
from .output import complain, json_of, shown, write_line, write_raw

if TYPE_CHECKING:
    from ..services.listing import ServiceInfo

POOLS = "pools/"
"""Before the names of the services by which pools of workers are asked."""
HEADINGS = ("service", "signature", "workers", "free", "pids")


class CallName(Name):
    """What can be called; completed with what is served."""

    def like(self, incomplete: str, ctx: click.Context) -> list[str]:
        from .completing import calls_like

        return calls_like(incomplete, ctx)


class ServiceName(Name):
    """A service, or a pattern of them; completed with those that are served."""

    def like(self, incomplete: str, ctx: click.Context) -> list[str]:
        from .completing import services_like

        return services_like(incomplete, ctx)


@click.command("call", cls=Command)
@click.argument("name", type=CallName())
@click.argument("arguments", metavar="[ARGUMENT]...", type=Text(), nargs=-1)
@click.option(
    "--with", "named", metavar="NAME=VALUE", type=Text(), multiple=True,
    help="An argument by name; may be given several times.",
)  # fmt: skip
@click.option("--print-raw", is_flag=True, help="Print text and bytes as they are, not as JSON.")
@click.option("--traceback", is_flag=True, help="If it fails, print where.")
@value_options
@request_timeout_option
@socket_option
def call_command(
    name: str,
    arguments: tuple[str, ...],
    named: tuple[str, ...],
    print_raw: bool,
    traceback: bool,
    as_json: bool,
    raw: bool,
) -> int:
    """Call NAME, which is SERVICE/METHOD or SERVICE, and print what it returns as JSON.

    Each ARGUMENT is read as `udsbus set` reads a value. What a generator yields is printed line by
    line as it comes. Exit code 1 if nobody serves NAME, 3 if it failed.
    """
    args = [read_value(each, as_json=as_json, raw=raw) for each in arguments]
    kwargs: dict[str, Any] = {}
    for each in named:
        key, equals, text = each.partition("=")
        if not equals or not key.isidentifier():
            raise click.UsageError(f"--with needs NAME=VALUE, not {each!r}")
        if key in kwargs:
            raise click.UsageError(f"--with {key!r} is given twice")
        kwargs[key] = read_value(text, as_json=as_json, raw=raw)
    show = write_raw if print_raw else _write_json
    from ..client.sync import Client
    from ..services.asking import Stream

    client = Client(address(), name="udsbus command", timeout=timeout())
    try:
        result = client._calls.call(name, tuple(args), kwargs, None)
        if isinstance(result, Stream):
            for item in result:
                show(item)
                sys.stdout.flush()
        else:
            show(result)
    except Exception as error:
        remote = error if isinstance(error, RemoteError) else error.__cause__
        if isinstance(remote, RemoteError):  # whatever class it is of: it came from the function
            complain(f"{shown(name)} failed: {Exception.__str__(remote)}")
            for line in str(remote.details.get("traceback", "")).splitlines() if traceback else ():
                complain(line)
            return REFUSED
        if not isinstance(error, ServiceUnavailable):
            raise
        complain(str(error))
        return ABSENT
    client.close()
    return DONE


@click.command("services", cls=Command)
@click.argument("pattern", type=ServiceName(), default="**")
@click.option("--json", "as_json", is_flag=True, help="Print each service as a JSON object.")
@request_timeout_option
@socket_option
def services_command(pattern: str, as_json: bool) -> int:
    """List the services whose names match PATTERN: what can be called, and by whom it is served.

    A table on a terminal, lines with tabs in a pipe: a line for each function, with how many
    workers there are, how many calls they could begin now, and their pids. By what pools of workers
    are asked (`udsbus worker status` lists them) is only shown for a PATTERN like pools/**. Exit
    code 1 if there is none.
    """
    from ..client.sync import Client

    client = Client(address(), name="udsbus command", timeout=timeout())
    services = client.services(pattern)
    if pattern == "**":
        services = [service for service in services if not service.name.startswith(POOLS)]
    if as_json:
        for service in services:
            write_line(json.dumps({
                **service._asdict(), "workers": [worker._asdict() for worker in service.workers],
            }))  # fmt: skip
    else:
        rows = [row for service in services for row in _rows(service)]
        if sys.stdout is not None and sys.stdout.isatty():
            from .tables import print_table

            print_table(HEADINGS, rows)
        else:
            for row in rows:
                write_line("\t".join(row))
    if services:
        return DONE
    matching = "" if pattern == "**" else f" that matches {shown(pattern)}"
    complain(f"nothing{matching} is served")
    return ABSENT


def _write_json(value: Any) -> None:
    write_line(json_of(value))


def _rows(service: ServiceInfo) -> list[list[str]]:
    workers = service.workers
    known = [worker.free for worker in workers if worker.free is not None]
    free = str(sum(known)) if len(known) == len(workers) else ""
    pids = " ".join(str(worker.pid) for worker in workers)
    return [
        [
            shown(f"{service.name}/{method}" if method else service.name), shown(signature),
            str(len(workers)), free, pids,
        ]
        for method, (signature, _) in sorted(service.methods.items()) or [("*", ("(...)", None))]
    ]  # fmt: skip

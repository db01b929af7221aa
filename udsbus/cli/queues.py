"""`udsbus queue`: put, get, len."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .inputs import read_value
from .options import TIMEOUT, Command, Name, Text, address, socket_option, value_options
from .options import timeout_option as request_timeout_option
from .outcomes import ABSENT, DONE, TIMED_OUT, USAGE
from .output import complain, json_of, shown, write_line, write_raw

if TYPE_CHECKING:
    from ..client.sync import Client

F = TypeVar("F", bound=Callable[..., Any])


def wait_options(what: str) -> Callable[[F], F]:
    def add(command: F) -> F:
        seconds = click.option(
            "--timeout",
            "seconds",
            metavar="SECONDS",
            type=TIMEOUT,
            help=f"Wait for {what} so long at most.  [default: for as long as it takes]",
        )
        no_wait = click.option("--no-wait", is_flag=True, help=f"Do not wait for {what} at all.")
        return seconds(no_wait(command))

    return add


def _check_wait(seconds: float | None, no_wait: bool) -> None:
    if no_wait and seconds is not None:
        raise click.UsageError("--no-wait and --timeout exclude each other")


def _client() -> Client:
    from ..client.sync import Client

    return Client(address(), name="udsbus command")


@click.group("queue", invoke_without_command=True)
@click.pass_context
def queue_command(ctx: click.Context) -> int | None:
    """Put items into queues that all processes share, and take them out."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


@queue_command.command("put", cls=Command)
@click.argument("name", type=Name())
@click.argument("value", type=Text())
@value_options
@click.option(
    "--priority", is_flag=True,
    help="Behind all that are lower, by the values: numbers, texts, or lists that begin with such.",
)  # fmt: skip
@click.option(
    "--maxsize", metavar="N", type=click.IntRange(min=1),
    help="Wait while there are N items in it.",
)  # fmt: skip
@wait_options("room")
@socket_option
def put_command(
    name: str,
    value: str,
    as_json: bool,
    raw: bool,
    priority: bool,
    maxsize: int | None,
    seconds: float | None,
    no_wait: bool,
) -> int:
    """Put VALUE into the queue NAME.

    VALUE is read as `udsbus set` reads it; "-" reads it from stdin. Exit code 4 if there was no
    room in time.
    """
    _check_wait(seconds, no_wait)
    item = read_value(value, as_json=as_json, raw=raw)
    client = _client()
    jobs = (client.priority_queue if priority else client.queue)(name, maxsize or 0)
    try:
        jobs.put(item, not no_wait, seconds)
    except queue.Full:
        complain(f"there is no room in {shown(name)}: --maxsize is {maxsize}")
        return TIMED_OUT
    client.close()
    return DONE


@queue_command.command("get", cls=Command)
@click.argument("name", type=Name())
@click.option("--last", is_flag=True, help="Take the last item, not the first.")
@click.option("--raw", is_flag=True, help="Print text and bytes as they are, without a newline.")
@wait_options("an item")
@socket_option
def get_command(name: str, last: bool, raw: bool, seconds: float | None, no_wait: bool) -> int:
    """Take an item out of the queue NAME and print it as JSON.

    Waits until there is one. It is gone from the queue when it has been printed; what cannot be
    printed stays. Exit code 4 if there was none in time, 1 with --no-wait.
    """
    _check_wait(seconds, no_wait)
    client = _client()
    jobs = (client.lifo_queue if last else client.queue)(name)
    try:
        taken = jobs.get(not no_wait, seconds, ack=True)
    except queue.Empty:
        complain(f"there is nothing in {shown(name)}")
        return ABSENT if no_wait else TIMED_OUT
    # Should anything fail now, this process ends, and with it goes its hold on the item.
    if raw:
        write_raw(taken.item)
    else:
        write_line(json_of(taken.item))
    sys.stdout.flush()
    taken.done()
    client.close()
    return DONE


@queue_command.command("len", cls=Command)
@click.argument("name", type=Name())
@request_timeout_option
@socket_option
def len_command(name: str) -> int:
    """Print how many items there are in the queue NAME."""
    from ..client import requests
    from .asking import asker

    write_line(str(asker().ask(requests.queue(name))["items"]))
    return DONE

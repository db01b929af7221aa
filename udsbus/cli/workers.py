"""`udsbus worker`: a pool of processes that serve; and to see, resize and renew one."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from ..errors import Conflict, RequestTimeout, ServiceUnavailable, WorkerLost
from ..limits import PROCESSES_MOST
from .options import Command, Name, Text, address, socket_option, timeout
from .options import timeout_option as request_timeout_option
from .outcomes import ABSENT, DONE, REFUSED, USAGE, exit_code_of
from .output import complain, shown, write_line
from .services import POOLS

if TYPE_CHECKING:
    from ..client.sync import Client

HEADINGS = ("pool", "place", "pid", "state", "seconds", "restarts", "last")
EMPTY = {**dict.fromkeys(HEADINGS[1:]), "state": "empty"}
"""What is told of a pool that has no processes."""


class WorkerGroup(click.Group):
    """What is none of its subcommands is what to serve."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            self._check_no_slip(ctx, args[0])
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def _check_no_slip(self, ctx: click.Context, word: str) -> None:
        """Refuse what is nearly a subcommand, and no module."""
        from difflib import get_close_matches
        from importlib.util import find_spec

        close = get_close_matches(word, self.commands, 1)
        if not close or not word.isidentifier():
            return
        here = Path(word).is_dir() or Path(f"{word}.py").exists()
        if not here and find_spec(word) is None:
            ctx.fail(f"{word!r} is neither a subcommand nor a module. Did you mean {close[0]!r}?")


@click.group("worker", cls=WorkerGroup, invoke_without_command=True)
@click.pass_context
def worker_command(ctx: click.Context) -> int | None:
    """Run processes that serve, and look after them: udsbus worker MODULE:NAME --processes 4"""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return USAGE
    return None


@worker_command.command("run", cls=Command)
@click.argument("app", metavar="MODULE:NAME | COMMAND", type=Text(), nargs=-1)
@click.option(
    "--processes",
    "--workers",
    "-n",
    metavar="N",
    type=click.IntRange(0, PROCESSES_MOST),
    default=1,
    show_default=True,
    help="How many.",
)
@click.option("--name", metavar="NAME", type=Name(), help="Of the pool.  [default: what it serves]")
@click.option(
    "--service",
    metavar="NAME",
    type=Name(),
    help="The service, where NAME is a function, class or object, or with --stdio.",
)
@click.option(
    "--retry",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="How many others may be given a call whose worker has died; as --service.",
)
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Calls at once, of each process; as --service.",
)
@click.option(
    "--max-calls",
    metavar="N",
    type=click.IntRange(min=1),
    help="Renew a worker after about so many calls.",
)
@click.option(
    "--max-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=1.0),
    help="Renew a worker that is so old.",
)
@click.option(
    "--max-memory", metavar="MIB", type=click.IntRange(min=1), help="Renew a worker that uses more."
)
@click.option(
    "--hang",
    metavar="SECONDS",
    type=click.FloatRange(min=0.5),
    default=60.0,
    show_default=True,
    help="Kill a worker whose call takes longer.",
)
@click.option(
    "--ready-within",
    metavar="SECONDS",
    type=click.FloatRange(min=0.5),
    default=60.0,
    show_default=True,
    help="Kill a worker that does not serve by then.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0.0),
    default=10.0,
    show_default=True,
    help="What calls in hand have when a worker is to end.",
)
@click.option(
    "--log-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what each worker prints to a file there.",
)
@click.option("--stdio", is_flag=True, help="Ask COMMAND over its stdin; it answers on stdout.")
@click.option(
    "--private",
    is_flag=True,
    help="Ask COMMAND over $UDSBUS_REQUESTS and $UDSBUS_ANSWERS instead, so it may print.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "msgpack"]),
    default="json",
    show_default=True,
    help="With --stdio: lines of JSON, or MessagePack.",
)
@socket_option
def run_command(app: tuple[str, ...], processes: int, name: str | None, stdio: bool, form: str,
                service: str | None, log_dir: Path | None, hang: float, max_seconds: float | None,
                max_memory: int | None, ready_within: float, **options: Any) -> int:  # fmt: skip
    """Serve what NAME in MODULE is: a `udsbus.Services`, a function, a class or an object.

    A worker that ends is started again, with a pause if it ends soon; one that hangs is killed.
    SIGTERM and Ctrl-C end the pool when what is in hand is done, a second one ends it at once.
    SIGHUP renews all workers one after the other, or ends the pool when its terminal is gone. What
    workers print comes to stderr, with the name and the pid of each.

    With --stdio: COMMAND is asked in lines like {"id": 1, "method": "add", "args": [2, 3],
    "kwargs": {}} and answers with {"id": 1, "result": 5} or {"id": 1, "error": "why"}. With
    --private too it opens the files that $UDSBUS_REQUESTS and $UDSBUS_ANSWERS name for that, and
    what it prints is log.
    """
    if not app or (len(app) > 1 and not stdio):
        raise click.UsageError("it needs one MODULE:NAME, or --stdio and a COMMAND")
    from ..running.programs import has_terminal
    from ..workers.loading import named

    if not stdio:
        named(app[0])
    if stdio and options["concurrency"] > 1:
        raise click.UsageError(
            "a program with --stdio is asked one thing at a time; use --processes"
        )
    if options["private"] and not stdio:
        raise click.UsageError("--private is for a COMMAND with --stdio")
    if stdio and service is None:
        raise click.UsageError("--stdio needs --service, the name by which it is called")
    from ..workers.pool import Pool, Rules
    from ..workers.printing import Printer
    from ..workers.program import Configuration

    called = name or service or app[0].partition(":")[0].rpartition(".")[2]
    printer = Printer(2)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=cast(TextIO, printer))
    logging.getLogger("udsbus.client").setLevel(logging.ERROR)
    client = _client(f"udsbus worker {called}")
    client.ping()  # without a broker it is better not to begin
    # The lock is for two that begin at once; a broker may have forgotten it, but no service.
    known = any(info.name == POOLS + called for info in client.services(POOLS + "**"))
    if known or not client.lock(POOLS + called).acquire(timeout=0):
        raise Conflict(f"there is a pool {called!r} already; name this one with --name")
    configuration = Configuration(
        address=client.address, name=called, app=None if stdio else app[0],
        command=list(app) if stdio else [], format=form, service=service,
        max_bytes=None if max_memory is None else max_memory * 2**20, **options,
    )  # fmt: skip
    rules = Rules(hang, max_seconds, ready_within)
    pool = Pool(called, processes, configuration, rules, log_dir, printer)
    client.service(POOLS + called, _Asked(pool))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pool.stop())
    had_terminal = has_terminal()
    signal.signal(
        signal.SIGHUP,
        lambda *_: pool.stop() if had_terminal and not has_terminal() else pool.restart(),
    )
    pool.run()
    client.close()
    printer.close()
    if pool.failed is not None:
        complain(f"{shown(app[0])}: {pool.failed}")
        return REFUSED
    return DONE


class _Asked:
    """What a pool can be asked over the bus."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def status(self) -> list[dict[str, Any]]:
        """A map for each process."""
        found: list[dict[str, Any]] = self._pool.status()
        return found

    def scale(self, processes: int) -> int:
        """Have so many processes; how many there were."""
        before: int = self._pool.scale(processes)
        return before

    def restart(self) -> None:
        """Renew all, one after the other."""
        self._pool.restart()

    def stop(self) -> None:
        """End when what is in hand is done."""
        self._pool.stop()


@worker_command.command("status", cls=Command)
@click.argument("pool", type=Name(), default="**")
@click.option("--json", "as_json", is_flag=True, help="Print each process as a JSON object.")
@request_timeout_option
@socket_option
def status_command(pool: str, as_json: bool) -> int:
    """List the processes of the pools whose names match POOL.

    A table on a terminal, lines with tabs in a pipe. A process is starting, ready, leaving, waiting
    (to be started again), or flapping: it has ended soon after its start several times in a row.
    A pool of 0 processes is empty, and one that does not answer is silent. Exit code 1 if there is
    no pool.
    """
    client = _client("udsbus command")
    rows: list[list[str]] = []
    found = client.services(POOLS + pool)
    code = DONE
    for info in found:
        called = info.name.removeprefix(POOLS)
        try:
            processes = client.call(f"{info.name}/status") or [EMPTY]
        except (RequestTimeout, ServiceUnavailable, WorkerLost) as error:
            complain(str(error))
            code = exit_code_of(error)
            processes = [{**EMPTY, "state": "silent"}]
        for each in processes:
            if as_json:
                write_line(json.dumps({"pool": called, **each}))
            cells = [called, *("" if each[name] is None else each[name] for name in HEADINGS[1:])]
            rows.append([shown(str(cell)) for cell in cells])
    if not as_json:
        if sys.stdout is not None and sys.stdout.isatty():
            from .tables import print_table

            print_table(HEADINGS, rows)
        else:
            for row in rows:
                write_line("\t".join(row))
    if not found:
        complain(f"there is no pool {shown(pool)}" if pool != "**" else "there are no pools")
        return ABSENT
    return code


@worker_command.command("scale", cls=Command)
@click.argument("pool", type=Name())
@click.argument("processes", metavar="N", type=click.IntRange(min=0))
@request_timeout_option
@socket_option
def scale_command(pool: str, processes: int) -> int:
    """Let POOL have N processes from now on; print how many it had.

    Those that are too many finish what they have in hand. Exit code 1 if there is no such pool.
    """
    return _ask(pool, "scale", processes)


@worker_command.command("restart", cls=Command)
@click.argument("pool", type=Name())
@request_timeout_option
@socket_option
def restart_command(pool: str) -> int:
    """Renew the processes of POOL one after the other, each when the new one is ready.

    Exit code 1 if there is no such pool.
    """
    return _ask(pool, "restart")


@worker_command.command("stop", cls=Command)
@click.argument("pool", type=Name())
@request_timeout_option
@socket_option
def stop_command(pool: str) -> int:
    """End POOL, when what it has in hand is done. Exit code 1 if there is no such pool."""
    return _ask(pool, "stop")


def _ask(pool: str, what: str, *args: int) -> int:
    client = _client("udsbus command")
    try:
        answer = client.call(f"{POOLS}{pool}/{what}", *args)
    except ServiceUnavailable:
        complain(f"there is no pool {shown(pool)}; `udsbus worker status` lists them")
        return ABSENT
    if answer is not None:
        write_line(str(answer))
    return DONE


def _client(name: str) -> Client:
    from ..client.sync import Client

    return Client(address(), name=name, timeout=timeout())

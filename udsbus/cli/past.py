"""`udsbus log`, `udsbus diff`, `udsbus rollback` and `udsbus snapshot`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidRequest
from ..terms import GONE
from .changes import COLORS
from .options import (
    COUNT,
    REVISION,
    Command,
    Moment,
    Name,
    address,
    socket_option,
    timeout,
    timeout_option,
)
from .outcomes import ABSENT, DONE
from .output import is_terminal, json_of, shown, write, write_line

if TYPE_CHECKING:
    from ..client.past import PastChange
    from ..client.sync import Client

LAST = 100
NICE = 10


def _client() -> Client:
    from ..client.sync import Client

    return Client(address(), name="udsbus command", timeout=timeout())


@click.command("log", cls=Command)
@click.argument("pattern", type=Name(), default="**")
@click.option(
    "--limit", metavar="N", type=COUNT, default=LAST, show_default=True, help="The last N changes."
)
@click.option("--all", "everything", is_flag=True, help="Not only the last ones.")
@click.option("--after", metavar="REVISION", type=REVISION, default=0, help="Later than that.")
@click.option(
    "--since", metavar="TIME", type=Moment(), help="From then on: 2h ago, or 2026-05-04T03:02."
)
@click.option("--client", metavar="NAME", help="Made by clients of that name.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what changes now, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print an object on each line.")
@timeout_option
@socket_option
def log_command(
    pattern: str,
    limit: int,
    everything: bool,
    after: int,
    since: float | None,
    client: str | None,
    follow: bool,
    as_json: bool,
) -> int:
    """Print what has changed, when, and who did it.

    The keys that match PATTERN, all if there is none; the oldest change first. A line is revision,
    time, kind, key, value, pid and name of the client, with tabs between. It goes back as far as
    `udsbus serve --history` says. Exit code 1 if there is nothing.
    """
    bus = _client()
    line = _object if as_json else _row if is_terminal(sys.stdout) else _fields
    most = None if everything else limit
    watch = bus.watch(pattern) if follow else None
    found = bus.history(pattern, limit=most, after_revision=after, since=since, client=client)
    for change in found:
        write_line(line(change))
    if watch is None:
        return DONE if found else ABSENT
    try:
        while True:
            after = max(after, found[-1].revision if found else 0)
            write("", flush=True)
            if watch.get(timeout=None) is None:
                return DONE
            found = bus.history(pattern, limit=None, after_revision=after, client=client)
            for change in found:
                write_line(line(change))
    except KeyboardInterrupt:
        return DONE


@click.command("diff", cls=Command)
@click.argument("from_revision", metavar="FROM", type=REVISION)
@click.argument("to_revision", metavar="[TO]", type=REVISION, required=False)
@click.option("--pattern", metavar="PATTERN", type=Name(), default="**", help="Only those keys.")
@timeout_option
@socket_option
def diff_command(from_revision: int, to_revision: int | None, pattern: str) -> int:
    """Print what differs between two revisions; between FROM and now without TO.

    A line for each key: `+` and its value, `-` and the value that it had, or `~` and both, with
    tabs between. Exit code 1 if nothing differs.
    """
    if to_revision is not None and to_revision < from_revision:
        raise InvalidRequest(f"revision {to_revision} is before {from_revision}")
    bus = _client()
    for revision in (from_revision, to_revision):
        if revision is not None and revision > (last := bus.revision()):
            raise InvalidRequest(f"revision {revision} has not been yet; the bus is at {last}")
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for change in bus.history(pattern, limit=None, after_revision=from_revision):
        if to_revision is not None and change.revision > to_revision:
            break
        before.setdefault(change.key, _value(change.before, change.kind == "created"))
        after[change.key] = _value(change.after, change.kind in GONE)
    found = False
    for key in sorted(before):
        if before[key] != after[key]:
            found = True
            write_line(_difference(shown(key), before[key], after[key]))
    return DONE if found else ABSENT


@click.command("rollback", cls=Command)
@click.argument("pattern", type=Name())
@click.option("--to", "revision", metavar="REVISION", type=REVISION, help="To what was then.")
@click.option(
    "--to-time", "moment", metavar="TIME", type=Moment(), help="2h ago, or 2026-05-04T03:02."
)
@timeout_option
@socket_option
def rollback_command(pattern: str, revision: int | None, moment: float | None) -> int:
    """Let the keys that match PATTERN hold again what they held at a revision or a time.

    It is a new write, at one revision, and can itself be rolled back. See before what differs:
    `udsbus diff REVISION --pattern PATTERN`. Prints how many keys were changed; exit code 1 if
    there is none.
    """
    if (revision is None) == (moment is None):
        raise click.UsageError("give either --to or --to-time")
    changed = _client().rollback(pattern, revision=revision, time=moment)
    write_line(str(changed))
    return DONE if changed else ABSENT


@click.command("snapshot", cls=Command)
@click.argument("path", type=click.Path(dir_okay=False))
@timeout_option
@socket_option
def snapshot_command(path: str) -> int:
    """Write all that the bus holds into a new file, PATH, and print its revision.

    An SQLite database like the bus's own, with the history. Begin a bus with it:
    `udsbus serve --from PATH`.
    """
    os.nice(NICE)  # the broker and its clients come first, but somebody waits for this too
    write_line(str(_client().snapshot(path)))
    return DONE


def _value(value: Any, absent: bool) -> str | None:
    return None if absent else json_of(value)


def _difference(key: str, before: str | None, after: str | None) -> str:
    if before is None:
        return f"+\t{key}\t{after}"
    if after is None:
        return f"-\t{key}\t{before}"
    return f"~\t{key}\t{before}\t{after}"


def _told(change: PastChange) -> tuple[str, str, str]:
    """Value, pid and client, as they are printed."""
    gone = change.kind in GONE
    pid = "" if change.pid is None else str(change.pid)
    return "" if gone else json_of(change.after), pid, shown(change.client or "")


def _fields(change: PastChange) -> str:
    moment = change.time.isoformat(timespec="milliseconds")
    fields = (str(change.revision), moment, change.kind, shown(change.key), *_told(change))
    return "\t".join(fields)


def _row(change: PastChange) -> str:
    moment = change.time.astimezone().isoformat(" ", timespec="seconds")[:19]
    kind = click.style(f"{change.kind:<8}", fg=COLORS.get(change.kind))
    value, pid, client = _told(change)
    who = f"  ({' '.join(filter(None, (client, pid)))})" if pid else ""
    line = f"{change.revision:>6}  {moment}  {kind}  {shown(change.key)}  {value}"
    return line.rstrip() + click.style(who, dim=True)


def _object(change: PastChange) -> str:
    fields = change._asdict()
    fields["time"] = change.time.isoformat()
    return json_of(fields)

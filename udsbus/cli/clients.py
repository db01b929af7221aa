"""`udsbus clients` and `udsbus kick`: who is connected."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ..patterns import SLOW_KEYS
from .options import Command, address, socket_option, timeout, timeout_option
from .outcomes import ABSENT, DONE, REFUSED
from .output import complain, shown, write_line

if TYPE_CHECKING:
    from ..client.requests import ClientInfo
    from ..client.sync import Client

HEADINGS = ("session", "pid", "name", "since", "metadata", "behind since")


def _client() -> Client:
    from ..client.sync import Client

    return Client(address(), name="udsbus command", timeout=timeout())


def _others(client: Client) -> list[ClientInfo]:
    return [each for each in client.clients() if each.session != client.session]


@click.command("clients", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print each client as a JSON object.")
@timeout_option
@socket_option
def clients_command(as_json: bool) -> int:
    """List who is connected to the bus: a table on a terminal, lines with tabs in a pipe.

    Exit code 1 if there is nobody.
    """
    asking = _client()
    clients = _others(asking)
    behind = _behind(asking) if clients else {}
    if as_json:
        for client in clients:
            about = client._asdict() | {"behind_since": behind.get(client.session)}
            write_line(_as_json(about))
    else:
        rows = [_row(client, behind.get(client.session)) for client in clients]
        if sys.stdout is not None and sys.stdout.isatty():
            from .tables import print_table

            print_table(HEADINGS, rows)
        else:
            for row in rows:
                write_line("\t".join(row))
    return DONE if clients else ABSENT


def _behind(client: Client) -> dict[str, float]:
    """Session → since when one of its connections does not keep up."""
    found: dict[str, float] = {}
    for key, about in client.items(f"{SLOW_KEYS}*"):
        session = key.removeprefix(SLOW_KEYS).rpartition(".")[0]
        found[session] = min(about["since"], found.get(session, about["since"]))
    return found


def _row(client: ClientInfo, behind: float | None) -> list[str]:
    metadata = "" if client.metadata is None else _as_json(client.metadata)
    return [
        shown(client.session), str(client.pid), shown(client.name or ""),
        _time(client.since), shown(metadata), "" if behind is None else _time(behind),
    ]  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except TypeError:  # a map whose keys are no texts
        return json.dumps(str(value))


@click.command("kick", cls=Command)
@click.argument("client")
@timeout_option
@socket_option
def kick_command(client: str) -> int:
    """End the connections of CLIENT, and remove the ephemeral keys that belong to it.

    CLIENT is a session, a pid or a name, as `udsbus clients` lists them; if several clients have
    it, none is kicked. A program that goes on comes back under the same session name, as a new
    entry, without what belonged to it. Exit code 1 if there is no such client.
    """
    asking = _client()
    others = _others(asking)
    found = [each for each in others if each.session == client] or [
        each for each in others if client in (str(each.pid), each.name)
    ]
    if len(found) > 1:
        sessions = ", ".join(each.session for each in found)
        complain(f"{len(found)} clients are called {client!r}; name one of the sessions {sessions}")
        return REFUSED
    if not found or not asking.kick(found[0].session):
        complain(f"there is no client {client!r}; `udsbus clients` lists them")
        return ABSENT
    return DONE

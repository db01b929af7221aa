"""`udsbus locks` and `udsbus lock`: who holds what, and to hold something while a command runs."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING

import click

from ..errors import Error, LockLost
from ..running.gated import STOP_SECONDS, Gated
from ..running.programs import why_not
from ..terms import GONE
from .options import TIMEOUT, Command, Name, Text, address, socket_option, timeout
from .options import timeout_option as request_timeout_option
from .outcomes import ABSENT, DONE, REFUSED, TIMED_OUT
from .output import complain, shown, write_line

if TYPE_CHECKING:
    from ..client.followed import Change
    from ..client.locks import LockHolder, LockInfo, LockWaiter
    from ..client.sync import Client
    from ..primitives.locks import Lock

LINGER_SECONDS = STOP_SECONDS + 2.0
"""So long nobody else has the lock when `udsbus lock` is kicked: the command must end first."""
HEADINGS = ("lock", "kind", "session", "pid", "name", "thread", "seconds")


@click.command("locks", cls=Command)
@click.argument("pattern", type=Name(), default="**")
@click.option("--graph", is_flag=True, help="Print who waits for whom in a circle.")
@click.option("--json", "as_json", is_flag=True, help="Print each lock as a JSON object.")
@request_timeout_option
@socket_option
def locks_command(pattern: str, graph: bool, as_json: bool) -> int:
    """List who holds a lock whose name matches PATTERN, and who waits for one.

    A table on a terminal, lines with tabs in a pipe. Exit code 1 if there is none. With --graph:
    the circles in which clients wait for one another, so that none of them goes on by itself; exit
    code 1 if there are none.
    """
    from ..client.sync import Client

    client = Client(address(), name="udsbus command", timeout=timeout())
    if graph:
        return _print_circles(client)
    locks = client.locks(pattern)
    if as_json:
        for lock in locks:
            write_line(json.dumps({
                **lock._asdict(),
                "holders": [holder._asdict() for holder in lock.holders],
                "waiting": [waiter._asdict() for waiter in lock.waiting],
            }))  # fmt: skip
        return DONE if locks else ABSENT
    called = _called(client)
    rows = [row for lock in locks for row in _rows(lock, called)]
    if sys.stdout is not None and sys.stdout.isatty():
        from .tables import print_table

        print_table(HEADINGS, rows)
    else:
        for row in rows:
            write_line("\t".join(row))
    return DONE if locks else ABSENT


def _called(client: Client) -> dict[str, tuple[str, str]]:
    """Session → (pid, name), to be shown."""
    return {one.session: (str(one.pid), shown(one.name or "")) for one in client.clients()}


def _rows(lock: LockInfo, called: dict[str, tuple[str, str]]) -> list[list[str]]:
    def row(kind: str, one: LockHolder | LockWaiter) -> list[str]:
        pid, name = called.get(one.session, ("", ""))
        return [
            shown(lock.name), kind, shown(one.session), pid, name, str(one.thread),
            f"{one.seconds:.1f}",
        ]  # fmt: skip

    rows = [row("shares" if one.shared else "holds", one) for one in lock.holders]
    return rows + [row("waits to share" if one.shared else "waits", one) for one in lock.waiting]


def _print_circles(client: Client) -> int:
    circles = client.deadlocks()
    called = _called(client)
    for circle in circles:
        for one in circle:
            pid, name = called.get(one.session, ("?", ""))
            who = f"{name} (pid {pid}, thread {one.thread})".strip()
            write_line(f"{who} holds {shown(one.holds)} and waits for {shown(one.wants)}")
        write_line("")
    return DONE if circles else ABSENT


@click.command("lock", cls=Command)
@click.argument("name", type=Name())
@click.argument("command", nargs=-1, required=True, type=Text())
@click.option("--shared", is_flag=True, help="Besides others that share it: as a reader.")
@click.option(
    "--timeout",
    "seconds",
    metavar="SECONDS",
    type=TIMEOUT,
    help="Wait for the lock so long at most.  [default: for as long as it takes]",
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the lock at all.")
@socket_option
def lock_command(
    name: str, command: tuple[str, ...], shared: bool, seconds: float | None, no_wait: bool
) -> int:
    """Run COMMAND while holding the lock NAME, like flock(1), without a shell.

    \b
        udsbus lock backup -- rsync -a /srv /mnt/backup

    The exit code is that of COMMAND, or 4 if the lock was not to be had in time. Signals are passed
    on. COMMAND finds the fencing token in UDSBUS_LOCK_TOKEN. Should the lock be lost, because
    somebody has kicked this client, say, COMMAND is stopped, and the exit code is 3.
    """
    refusal = why_not(command[0])
    if refusal is not None:
        complain(refusal[1])
        return refusal[0]
    code: int | None = None
    gated = Gated(command)
    try:
        from ..client.sync import Client

        logging.getLogger("udsbus.client").setLevel(logging.ERROR)  # what matters is said here
        about = {"command": " ".join(command)[:1_000]}
        client = Client(address(), name="udsbus lock", metadata=about)
        lock = client.rwlock(name).read if shared else client.lock(name)
        wait = None if no_wait else -1 if seconds is None else seconds
        held = _hold(client, lock, wait, gated)
    except BaseException:
        gated.give_up()
        raise
    if not held:
        gated.give_up()
        complain(f"{shown(name)} is held by somebody else: see `udsbus locks`")
        return TIMED_OUT
    if gated.stopped:
        gated.give_up()
    else:
        code = gated.let_go({"UDSBUS_LOCK_TOKEN": str(lock.token), "UDSBUS_SOCKET": client.address})
        if gated.failure is not None:
            complain(gated.failure)
    lost = gated.stopped  # before the release, which takes it away too
    with contextlib.suppress(Error):
        lock.release()  # at once, also if it lingers
    client.close()
    if code is None or lost:
        complain(f"{shown(name)} was lost while the command ran, which has been stopped")
        return REFUSED
    return code


def _hold(client: Client, lock: Lock, wait: float | None, gated: Gated) -> bool:
    """Acquire a lock, and have the command stopped as soon as it is lost. `wait`: seconds, -1 for
    as long as it takes, None for not at all. False: it is not to be had."""
    kicks: list[bool] = []
    holds = False

    @client.on_kick
    def kicked() -> None:
        kicks.append(True)
        if holds:
            gated.stop()

    while not holds:
        kicks.clear()
        if not lock.acquire(wait is not None, -1 if wait is None else wait, linger=LINGER_SECONDS):
            return False
        holds = True
        if kicks:  # before it had the lock, or just since: it has to get it anew
            holds = False
            with contextlib.suppress(LockLost):
                lock.release()
    key = lock.key

    def look(change: Change) -> None:
        if change.kind in GONE:
            gated.stop()

    client.on_change(key, look)
    if client.entry(key) is None:
        gated.stop()
    return True

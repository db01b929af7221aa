"""`udsbus ping` and `udsbus info`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import click

from ..client import requests
from .asking import asker
from .options import COUNT, Command, socket_option, timeout_option
from .output import is_terminal, json_of, shown, write_line


@click.command("ping", cls=Command)
@click.option("--count", metavar="N", type=COUNT, default=1, help="Ask N times, and sum up.")
@timeout_option
@socket_option
def ping_command(count: int) -> None:
    """Print how many milliseconds the broker takes to answer."""
    bus = asker()
    times = []
    for _ in range(count):
        began = perf_counter()
        bus.ask(requests.ping())
        times.append(1000 * (perf_counter() - began))
        write_line(f"{times[-1]:.3f} ms")
    if count > 1:
        times.sort()
        write_line(
            f"min {times[0]:.3f} ms, median {times[count // 2]:.3f} ms, max {times[-1]:.3f} ms"
        )


@click.command("info", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@timeout_option
@socket_option
def info_command(as_json: bool) -> None:
    """Print what the broker is and does.

    Its pid, address and uptime, how many keys and connections there are, counters, limits.
    """
    info = asker().ask(requests.info())
    if as_json:
        write_line(json_of(info))
        return
    rows = [(name, _cell(value)) for name, value in _flat("", info)]
    if is_terminal(sys.stdout):
        from .tables import print_table

        print_table(("name", "value"), rows)
    else:
        for name, cell in rows:
            write_line(f"{name}\t{cell}")


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """`{"limits": {"key_bytes": 1024}}` → `limits.key_bytes`, 1024."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    else:
        yield shown(name), value


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return shown(value)
    return f"{value:.3f}" if isinstance(value, float) else json_of(value)

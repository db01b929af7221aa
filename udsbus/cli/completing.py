"""`udsbus completion`, and the keys and services that a shell completes."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import click

from ..errors import Error
from .options import Command, address

SECONDS = 0.5
"""A person waits at the prompt: rather no completion than a late one."""
MOST = 100
PLAIN = re.compile(r"[\w@%+=:,./][\w@%+=:,./-]*")
"""Keys without anything that a shell or a terminal would act upon: bash puts a completion into
the command line as it is, unquoted."""

SHELLS = {
    "bash": "echo 'eval \"$(udsbus completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(udsbus completion zsh)\"' >> ~/.zshrc",
    "fish": "udsbus completion fish > ~/.config/fish/completions/udsbus.fish",
}


@click.command(
    "completion",
    cls=Command,
    epilog="\b\nTo have it in every new shell, run once:\n"
    + "\n".join(f"  {how}" for how in SHELLS.values()),
)
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion_command(shell: str) -> None:
    """Print the script that lets SHELL complete.

    Commands, options, and the keys and services that are there: the broker is asked for them.
    """
    from click.shell_completion import get_completion_class

    from .main import udsbus
    from .output import write

    completion = get_completion_class(shell)
    assert completion is not None
    write(completion(udsbus, {}, "udsbus", "_UDSBUS_COMPLETE").source())


def keys_like(incomplete: str, ctx: click.Context) -> list[str]:
    """Keys that begin with `incomplete`, at most 100; none when there is no broker to ask."""
    from ..client import requests
    from .asking import Asker

    found: list[str] = []
    with contextlib.suppress(Error):
        bus = Asker(address(ctx), SECONDS)
        found += bus.ask(requests.keys_page("**", incomplete or None)).items
        if bus.ask(requests.exists(incomplete)):  # last: it refuses what is no key, as `a/`
            found.insert(0, incomplete)
    return _fit(found, incomplete)


def calls_like(incomplete: str, ctx: click.Context) -> list[str]:
    """What is served that begins with `incomplete`: SERVICE/METHOD, or SERVICE if it is one
    function."""
    return _fit(
        [
            f"{service}/{method}" if method else service
            for service, about in _workers(ctx)
            for method in about.get("methods", ())
        ],
        incomplete,
    )


def services_like(incomplete: str, ctx: click.Context) -> list[str]:
    """The services that begin with `incomplete`."""
    return _fit([service for service, _ in _workers(ctx)], incomplete)


def _workers(ctx: click.Context) -> list[tuple[str, dict[str, Any]]]:
    """(service, what a worker tells of itself), of the first page of workers."""
    from ..client import requests
    from ..patterns import WORKER_KEYS
    from .asking import Asker

    with contextlib.suppress(Error):
        found = Asker(address(ctx), SECONDS).ask(requests.items_page(WORKER_KEYS + "**")).items
        return [
            (key.removeprefix(WORKER_KEYS).rpartition("/")[0], about)
            for key, about in found
            if isinstance(about, dict)
        ]
    return []


def _fit(found: list[str], incomplete: str) -> list[str]:
    """Those that can be offered, each once."""
    fit = [name for name in dict.fromkeys(found) if name.startswith(incomplete)]
    return [name for name in fit if PLAIN.fullmatch(name)][:MOST]

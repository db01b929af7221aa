"""`udsbus completion`, and the keys that a shell completes."""

from __future__ import annotations

import contextlib
import re

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

    Commands, options, and the keys that are there: the broker is asked for them.
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
    return [key for key in found if key.startswith(incomplete) and PLAIN.fullmatch(key)][:MOST]

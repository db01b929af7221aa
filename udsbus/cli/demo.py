"""`udsbus demo`: what the bus is for, shown with real processes, in a few seconds."""

from __future__ import annotations

import click

from .options import Command


@click.command("demo", cls=Command)
def demo_command() -> None:
    """See it work, in a few seconds.

    A private broker and real processes: two workers react to a change, four count together, a
    lease changes hands when its holder is killed, and the broker is stopped and started.
    Everything is cleaned up at the end, after Ctrl-C too; other buses are not touched.
    """
    from .demonstration import demonstrate

    demonstrate()

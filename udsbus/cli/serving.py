"""`udsbus serve`."""

from __future__ import annotations

import logging
import os
import socket

import click

from .options import address, socket_option


@click.command()
@socket_option
@click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True,
    help="Event loop to run on.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log connections too.")
@click.option("--detach", is_flag=True, help="Go on in the background, as nobody's child.")
@click.option("--lifeline-fd", type=int, hidden=True, help="Stop when its other end closes.")
@click.option("--ready-fd", type=int, hidden=True, help="Tell `ready` here.")
def serve(
    backend: str, verbose: bool, detach: bool, lifeline_fd: int | None, ready_fd: int | None
) -> None:
    """Run a broker until SIGTERM or Ctrl-C."""
    from ..broker import Settings, run

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s udsbus[%(process)d] %(levelname)s %(message)s",
    )
    where = address()
    if detach and os.fork():
        os._exit(0)

    def started() -> None:
        logging.getLogger("udsbus.broker").info("serving %s", where)
        if ready_fd is not None:
            with socket.socket(fileno=ready_fd) as ready:
                ready.sendall(b"ready\n")

    run(Settings(where, backend, lifeline_fd), started)  # type: ignore[arg-type]

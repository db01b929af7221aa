"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..paths import resolve_address

F = TypeVar("F", bound=Callable[..., Any])


def socket_option(function: F) -> F:
    """`--socket PATH`, before or after the subcommand; the later one wins."""
    return click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_remember_address,
        help="Socket of the bus.  [default: $UDSBUS_SOCKET, else this user's default bus]",
    )(function)


def _remember_address(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["udsbus.address"] = value


def address() -> str:
    """The address that the options and the environment name."""
    return resolve_address(click.get_current_context().meta.get("udsbus.address"))

"""`udsbus publish` and `udsbus subscribe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..terms import DROP_OLDEST, POLICIES
from .inputs import read_value
from .options import (
    Command,
    Name,
    Text,
    following_options,
    socket_option,
    timeout_option,
    value_options,
)
from .outcomes import ABSENT, DONE
from .output import complain, json_of, shown, write_line

if TYPE_CHECKING:
    from ..client.followed import Message, Policy
    from ..client.following import Subscription
    from ..client.sync import Client


@click.command("publish", cls=Command)
@click.argument("topic", type=Name())
@click.argument("message", type=Text())
@click.option("--retain", is_flag=True, help="Keep it as the last of its topic, for later ones.")
@value_options
@timeout_option
@socket_option
def publish_command(topic: str, message: str, retain: bool, as_json: bool, raw: bool) -> int:
    """Send MESSAGE to whoever subscribes to TOPIC now.

    Prints how many clients that are. MESSAGE is read as `udsbus set` reads a value: JSON or else
    text, "-" for stdin. With --retain it is kept, and whoever subscribes later gets it at once.

    Exit code 1 if nobody got it and it is not kept.
    """
    from ..client import requests
    from .asking import asker

    content = read_value(message, as_json=as_json, raw=raw)
    receivers = asker().ask(requests.publish(topic, content, retain=retain))
    write_line(str(receivers))
    if not receivers and not retain:
        complain(f"nobody subscribes to {topic!r}")
        return ABSENT
    return DONE


@click.command("subscribe", cls=Command)
@click.argument("patterns", metavar="PATTERN...", type=Name(), nargs=-1, required=True)
@click.option(
    "--policy", type=click.Choice(POLICIES), default=DROP_OLDEST,
    help="What to do when output is so slow that messages cannot be kept any more: drop the "
    "oldest, come back and miss some, or let publishers wait who are ready to.  "
    f"[default: {DROP_OLDEST}]",
)  # fmt: skip
@following_options
@socket_option
def subscribe_command(
    patterns: tuple[str, ...],
    policy: Policy,
    count: int | None,
    timeout: float | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Print the messages to the topics that match a PATTERN.

    One a line, as they come. A line is topic and message with a tab between, and `retained` behind
    another for one that was published before, with --retain. Runs until Ctrl-C, and through
    restarts of the broker; stderr says when messages may have been missed.
    """
    from .following import follow

    def start(client: Client) -> Subscription:
        return client.subscribe(*patterns, policy=policy)

    line = _object if as_json else _fields
    return follow(start, line, count=count, seconds=timeout, verbose=verbose)


def _fields(message: Message) -> str:
    retained = "\tretained" if message.retained else ""
    return f"{shown(message.topic)}\t{json_of(message.value)}{retained}"


def _object(message: Message) -> str:
    return json_of(message._asdict())

"""The processes of the demo: what people write, in a few lines each.

Run as `python -m udsbus.cli.demoworkers ROLE ADDRESS NAME`. Each tells the demo over stdout what
it does, a line at a time, and ends when its stdin ends: when the demo ends, however that is.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from queue import SimpleQueue

import udsbus

LIMIT = "config/limit"
COUNTER = "counter"
VOTES = "votes"
LEASE = "lease/leader"
LEASE_SECONDS = 0.6
INCREMENTS = 2_500
UPDATES = 100


_told: SimpleQueue[str] = SimpleQueue()


def tell(*words: object) -> None:
    print(*words, flush=True)


def wait_to_be_told() -> None:
    _told.get()


def _listen() -> None:
    for line in sys.stdin:
        _told.put(line)
    os._exit(0)


def react(client: udsbus.Client, name: str) -> None:
    """Work with the newest configuration."""
    watch = client.watch("config/**")
    tell("ready")
    for change in watch:
        tell(time.monotonic_ns(), change.kind, change.value, watch.started_over)


def count(client: udsbus.Client, name: str) -> None:
    """Count what four processes count at once; then change a dict that they all change."""
    tell("ready")
    wait_to_be_told()
    for _ in range(INCREMENTS):
        client.increment(COUNTER)
    tell("counted")
    attempts = 0

    def vote(votes: dict[str, int]) -> dict[str, int]:
        nonlocal attempts
        attempts += 1
        return votes | {name: votes.get(name, 0) + 1}

    wait_to_be_told()
    for _ in range(UPDATES):
        client.update(VOTES, vote, default={})
    tell(attempts)


def lead(client: udsbus.Client, name: str) -> None:
    """Hold the lease or wait for it."""
    gone = client.watch(LEASE)
    tell("ready")
    while True:
        try:
            client.set(LEASE, name, if_revision=0, ttl=LEASE_SECONDS)
        except udsbus.Conflict:
            while (change := gone.get()) is not None and change.kind not in ("expired", "deleted"):
                pass
            continue
        tell(time.monotonic_ns())
        while client.expire(LEASE, LEASE_SECONDS):  # False: too late, it is lost
            time.sleep(LEASE_SECONDS / 3)


ROLES = {"react": react, "count": count, "lead": lead}


def main() -> None:
    role, address, name = sys.argv[1:]
    logging.getLogger("udsbus.client").disabled = True  # that the broker dies is part of the show
    client = udsbus.connect(address, name=f"demo {name}")
    threading.Thread(target=_listen, daemon=True).start()
    ROLES[role](client, name)


if __name__ == "__main__":
    main()

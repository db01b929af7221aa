"""`udsbus serve`, but it dies at a chosen step of a turn. The standby that it starts does the same.

    python -m tests.crash.faulty SOCKET STATE

Each process draws a point of the turn, and how many times it passes it before it kills itself, from
what its pid gives. It is done by taking the journal and the hub in hand, on both sides of which all
steps of the turn lie.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from typing import Any

from udsbus.broker import Inherited, Settings, pair, run
from udsbus.broker import connection as connection_module
from udsbus.hub import EpollHub
from udsbus.journal import FileJournal

POINTS = ("read", "journal", "expose", "deliver", "amid the deliveries", "amid a record")
STRUCK = "this broker kills itself at"
PATIENCE = 12_000
"""So many turns in which something changes does a process live at most."""


class Fate:
    def __init__(self) -> None:
        draw = random.Random(os.getpid())
        self.point = draw.choice(POINTS)
        self.left = draw.randrange(PATIENCE // 10, PATIENCE)

    def passes(self, point: str) -> bool:
        """Whether this is the end. Counts the passings of its point."""
        if point != self.point:
            return False
        self.left -= 1
        return self.left == 0

    def strike(self, point: str) -> None:
        if self.passes(point):
            die(point)


def die(point: str) -> None:
    logging.warning("%s: %s", STRUCK, point)
    os.kill(os.getpid(), signal.SIGKILL)


FATE = Fate()


def arm() -> None:
    append, write = FileJournal.append, os.write
    flush = connection_module.Connection.flush

    def faulty_append(self: FileJournal, effects: Any, answers: Any, now: float) -> bool:
        FATE.strike("journal")
        if FATE.passes("amid a record"):
            os.write = write_half
        kept = append(self, effects, answers, now)
        FATE.strike("expose")
        return kept

    def write_half(fd: int, data: Any) -> int:
        write(fd, data[: len(data) // 2])
        die("amid a record")
        raise AssertionError("dead")

    def faulty_flush(self: connection_module.Connection) -> bool:
        FATE.strike("deliver")
        done = flush(self)
        FATE.strike("amid the deliveries")
        return done

    FileJournal.append = faulty_append  # type: ignore[method-assign]
    connection_module.Connection.flush = faulty_flush  # type: ignore[method-assign]

    pair.CRASHES_FREE = 10**9  # type: ignore[attr-defined]  # they are meant


class FaultyHub(EpollHub):
    """Tells when there is something to read."""

    def __init__(self) -> None:
        super().__init__()
        poll = self.poll

        def faulty_poll(*args: Any) -> list[tuple[int, int]]:
            ready = poll(*args)
            if ready:
                FATE.strike("read")
            return ready

        self.poll = faulty_poll  # type: ignore[assignment]


def main() -> None:
    address, state, *inherited = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    arm()
    settings = Settings(
        address,
        hub=FaultyHub,
        durability="process",
        state=state,
        standby=(sys.executable, "-m", "tests.crash.faulty", address, state),
        hung_seconds=2.0,
    )
    run(settings, inherited=Inherited.from_text(inherited[0]) if inherited else None)


if __name__ == "__main__":
    main()

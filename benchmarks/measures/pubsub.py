"""A message from one process to another: how long from `publish` until the receiver has it?"""

from __future__ import annotations

from ..bench import Bench
from ..load import percentiles, ping, pong, publish, receive
from ..results import Goal, Table
from ..workers import Job, run_together

GAP_SECONDS = 0.002
GOAL = Goal(1 / 1.5, "1.5 times lower")


def measure(bench: Bench) -> Table:
    table = Table("pubsub", "From publish to receive, between two processes, 64 bytes")
    count = bench.scale.messages
    for server in bench.turns():
        ages, _ = run_together(
            [Job(receive, (server, count)), Job(publish, (server, count, GAP_SECONDS))]
        )
        halves, _ = run_together([Job(ping, (server, count)), Job(pong, (server, count))])
        for group, nanoseconds, goal in (
            (f"a message each {GAP_SECONDS * 1e3:g} ms", ages, GOAL),
            ("back and forth, one way", halves, None),
        ):
            for name, microseconds in percentiles([nanoseconds]).items():
                if name != "p99.9":  # there are too few for that
                    row = table.row(group, name, "µs", goal if name == "p50" else None)
                    row.add(server.kind, microseconds)
    return table

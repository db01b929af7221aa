"""Does it cost more to publish when many others wait for something else?"""

from __future__ import annotations

from array import array
from time import perf_counter_ns

import udsbus

from ..bench import Bench
from ..load import VALUE, percentiles
from ..results import REDIS, UDSBUS, Goal, Table

FEW, MANY = 10, 100_000
CALLS = 5_000
WARM_UP_CALLS = 200
"""As long as the broker still forgets the patterns of the round before, nobody polls."""
GOAL = Goal(1.25, "the same, 1.25 times at most")
WAYS = ("jobs/7/{}", "jobs/*/{}", "other/{}/**", "**/{}", "*/7/{}")
"""Patterns that share the way with the topics as far as they can without matching."""


def measure(bench: Bench) -> Table:
    table = Table(
        "interest", "publish beside subscriptions that do not match",
        reference=f"{FEW} others", own=f"{MANY:,} others",
    )  # fmt: skip
    address = bench.servers[1].address
    for number in range(bench.scale.rounds):
        sides = [(REDIS, FEW), (UDSBUS, MANY)]
        for side, others in sides if number % 2 == 0 else reversed(sides):
            for name, microseconds in percentiles([_publish_beside(others, address)]).items():
                if name != "p99.9":
                    goal = GOAL if name == "p50" else None
                    table.row("to a new topic", name, "µs", goal).add(side, microseconds)
    return table


def _publish_beside(others: int, address: str) -> array[int]:
    """Nanoseconds of each call. Each topic is new, so that no answer can be remembered."""
    patterns = [WAYS[number % len(WAYS)].format(f"x{number}") for number in range(others)]
    with udsbus.connect(address) as client, client.subscribe(*patterns):
        for number in range(WARM_UP_CALLS):
            client.publish(f"jobs/7/z{number}", VALUE)
        latencies = array("q")
        for number in range(CALLS):
            topic = f"jobs/7/y{number}"
            start = perf_counter_ns()
            told = client.publish(topic, VALUE)
            latencies.append(perf_counter_ns() - start)
            assert told == 0
        return latencies

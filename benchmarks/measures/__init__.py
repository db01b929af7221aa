"""The measures by name, in the order in which they are run."""

from __future__ import annotations

from ..bench import Measure
from . import alone, batches, floor, idle, interest, latency, pubsub, startup, throughput

MEASURES: dict[str, Measure] = {
    "latency": latency.measure,
    "throughput": throughput.measure,
    "batches": batches.measure,
    "pubsub": pubsub.measure,
    "alone": alone.measure,
    "idle": idle.measure,
    "startup": startup.measure,
    "interest": interest.measure,
    "floor": floor.measure,
}

"""The measures by name, in the order in which they are run."""

from __future__ import annotations

from ..bench import Measure
from . import (
    alone,
    async_client,
    batches,
    busy,
    correctness,
    durability,
    fanout,
    floor,
    idle,
    interest,
    latency,
    locks,
    primitives,
    pubsub,
    recovery,
    slow,
    startup,
    throughput,
    watchers,
)

MEASURES: dict[str, Measure] = {
    "latency": latency.measure,
    "throughput": throughput.measure,
    "batches": batches.measure,
    "pubsub": pubsub.measure,
    "fanout": fanout.measure,
    "watchers": watchers.measure,
    "async": async_client.measure,
    "alone": alone.measure,
    "idle": idle.measure,
    "startup": startup.measure,
    "durability": durability.measure,
    "journal": durability.measure_beside_redis,
    "correctness": correctness.measure,
    "takeover": recovery.measure_takeover,
    "busy": busy.measure,
    "restart": recovery.measure_restart,
    "locks": locks.measure,
    "handover": locks.measure_handover,
    "sessions": locks.measure_sessions,
    "queue": primitives.measure_queue,
    "mapping": primitives.measure_mapping,
    "interest": interest.measure,
    "slow": slow.measure,
    "slow_memory": slow.measure_memory,
    "floor": floor.measure,
}

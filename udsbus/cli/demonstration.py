"""The steps of `udsbus demo`. Every number that it tells has been measured in that run."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable

from ..broker.pair import can_pair
from ..client.following import Watch
from ..client.sync import Client
from .demostage import DemoFailed, Stage, Worker
from .demoworkers import COUNTER, INCREMENTS, LEASE, LEASE_SECONDS, LIMIT, UPDATES, VOTES
from .narration import Narrator

CHANGES = 100
REQUESTS = 2_000


def demonstrate() -> None:
    """Tell the whole story. Raises Error when something does not go as it must."""
    logging.getLogger("udsbus.client").disabled = True  # that the broker dies is part of the show
    narrator = Narrator()
    narrator.title("udsbus: shared state and events for the processes of one machine")
    with Stage() as stage:
        client = _start(narrator, stage)
        workers = _react(narrator, stage, client)
        _count(narrator, stage, client)
        _hand_over(narrator, stage, client)
        if can_pair():
            _take_over(narrator, stage, client, workers)
        _measure(narrator, client)
    narrator.gap()
    narrator.say(f"All {stage.started} processes have ended and their files are removed.")
    narrator.title("Try next:")
    udsbus = _command()
    narrator.command(f"{udsbus} serve --detach", "a broker of your own")
    narrator.command(f"{udsbus} watch 'config/**'", "in a second terminal")
    narrator.command(f"{udsbus} set config/limit 10", "and look at the second terminal")


def _command() -> str:
    """What to type to run `udsbus`: its path, unless the shell finds it."""
    installed = os.path.join(os.path.dirname(sys.executable), "udsbus")
    if shutil.which("udsbus") or not os.path.exists(installed):
        return "udsbus"
    return min(installed, os.path.relpath(installed), key=len)


def _start(narrator: Narrator, stage: Stage) -> Client:
    narrator.step("Start a broker, for this demo alone")
    began = time.perf_counter()
    stage.start_broker()
    took = time.perf_counter() - began
    narrator.say(f"pid {stage.broker.pid} answers at {stage.broker.address} after {took:.2f} s")
    client = stage.connect("demo")
    if can_pair():
        narrator.say(f"and has a standby, pid {stage.standby(client)}, for step 5")
    return client


def _react(narrator: Narrator, stage: Stage, client: Client) -> list[Worker]:
    narrator.step("Two worker processes watch config/**, a third process changes it")
    workers = stage.start("react", "A", "B")
    delays = _change_limit(client, workers, 10)
    narrator.say("set config/limit to 10")
    for worker, delay in zip(workers, delays, strict=True):
        narrator.say(f"worker {worker.name} (pid {worker.pid}) has it after {delay:.2f} ms")
    both = [max(_change_limit(client, workers, limit)) for limit in range(11, 11 + CHANGES)]
    narrator.say(f"{CHANGES} more: both have it after {statistics.median(both):.2f} ms (median)")
    return workers


def _change_limit(client: Client, workers: list[Worker], limit: int) -> list[float]:
    """Milliseconds from before `set` until each worker has the new value in its hands."""
    began = time.monotonic_ns()
    client.set(LIMIT, limit)
    delays = []
    for worker in workers:
        at, _, value, started_over = worker.hear()
        if value != str(limit) or started_over != "0":
            raise DemoFailed(
                f"worker {worker.name} was told {value}, not {limit} and all before it"
            )
        delays.append((int(at) - began) / 1e6)
    return delays


def _count(narrator: Narrator, stage: Stage, client: Client) -> None:
    narrator.step("Four processes write to the same keys at once, and nothing is lost")
    workers = stage.start("count", "A", "B", "C", "D")

    def together() -> tuple[float, list[list[str]]]:
        began = time.perf_counter()
        for worker in workers:
            worker.tell("go")
        answers = [worker.hear() for worker in workers]
        return time.perf_counter() - began, answers

    took, _ = together()
    total = client.get(COUNTER)
    _expect(total, 4 * INCREMENTS)
    narrator.say(f"increment: 4 x {INCREMENTS:,} = {total:,}, exact, {total / took:,.0f} a second")
    _, attempts = together()
    votes = sum(client.get(VOTES).values())
    _expect(votes, 4 * UPDATES)
    again = sum(int(number) for [number] in attempts) - votes
    narrator.say(
        f"update (compare-and-swap on one dict): 4 x {UPDATES} = {votes}, exact; "
        f"{again} times another was quicker and it tried again"
    )


def _hand_over(narrator: Narrator, stage: Stage, client: Client) -> None:
    narrator.step(
        f"A lease as a lock: created if absent, gone after {LEASE_SECONDS} s unless renewed"
    )
    [holder] = stage.start("lead", "A")
    holder.hear()
    [heir] = stage.start("lead", "B")
    narrator.say(f"A (pid {holder.pid}) holds it and renews it, B (pid {heir.pid}) waits")
    with client.watch(LEASE) as watch:
        holder.kill()
        killed = time.monotonic_ns()
        narrator.say("kill -9 A")
        _await(watch, "expired")
        expired = time.monotonic_ns()
        narrator.say(
            f"after {(expired - killed) / 1e6:.1f} ms watchers are told that it has expired"
        )
        [at] = heir.hear()
        owner = _await(watch, "created")
        _expect(owner, heir.name)
        narrator.say(f"after {(int(at) - killed) / 1e6:.1f} ms {owner} holds it")


def _await(watch: Watch, kind: str) -> object:
    change = watch.get(timeout=10)
    if change is None or change.kind != kind:
        raise DemoFailed(f"the lease should be {kind}, but what came is {change}")
    return change.value


def _take_over(narrator: Narrator, stage: Stage, client: Client, workers: list[Worker]) -> None:
    narrator.step("Kill the broker while four processes count: its standby takes over")
    standby = stage.standby(client)
    counters = stage.start("count", "C", "D", "E", "F")
    before = client.get(COUNTER)
    for counter in counters:
        counter.tell("go")
    while client.get(COUNTER) < before + INCREMENTS:  # of all four: a quarter of the way
        pass
    killed = stage.kill_broker()
    began = time.perf_counter()
    client.set("demo/key", "after the kill")
    took = time.perf_counter() - began
    _expect(stage.broker.pid, standby)
    narrator.say(f"kill -9 {killed}; after {1e3 * took:.1f} ms pid {standby} answers in its place")
    for counter in counters:
        counter.hear()
    total = client.get(COUNTER)
    _expect(total, before + 4 * INCREMENTS)
    narrator.say(
        f"the four counted on: {before:,} + 4 x {INCREMENTS:,} = {total:,}, exact, none lost, "
        "none twice"
    )
    delay = max(_change_limit(client, workers, 20))
    narrator.say(
        f"set config/limit to 20: both workers of step 2, which have reconnected by themselves "
        f"and missed nothing, have it after {delay:.2f} ms"
    )
    stage.standby(client)


def _measure(narrator: Narrator, client: Client) -> None:
    narrator.step(f"How long a request takes here ({REQUESTS:,} of each)")
    for name, request in (
        ("get", lambda: client.get(LIMIT)),
        ("set", lambda: client.set("demo/key", "a short text")),
    ):
        times = sorted(_microseconds(request) for _ in range(REQUESTS))
        narrator.say(
            f"{name}: p50 {times[REQUESTS // 2]:.3g} µs, p99 {times[REQUESTS * 99 // 100]:.3g} µs"
        )


def _microseconds(request: Callable[[], object]) -> float:
    began = time.perf_counter()
    request()
    return 1e6 * (time.perf_counter() - began)


def _expect(seen: object, expected: object) -> None:
    if seen != expected:
        raise DemoFailed(f"it should be {expected}, but it is {seen}")

"""Jobs in processes of their own, let go at the same moment.

The processes are forked from a small server process in which the client libraries are loaded
already: sixteen are ready in a fraction of a second, and none inherits a connection.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any, NamedTuple

READY_SECONDS = 30.0
"""How long the processes have to get ready."""
RESULT_SECONDS = 120.0
"""How long one has from then on for its result; none is meant to need nearly that long."""
_KEPT_WAITING = "another job was not ready in time"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["benchmarks.__main__", "redis.asyncio", "udsbus.client.sync", "udsbus.client.aio.client"]
)


class Job(NamedTuple):
    """`function(ready, *arguments)`, which calls `ready()` once when it is prepared."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_together(
    jobs: list[Job],
    meanwhile: Callable[[], None] = lambda: None,
    patience: float = RESULT_SECONDS,
) -> list[Any]:
    """Run each job in a process of its own; their results in the order of `jobs`, each of which
    may take `patience` seconds.

    No job passes its `ready()` before all have reached it. `meanwhile` is called here right after.
    Raises RuntimeError, with the job's traceback, when one fails.
    """
    barrier = _context.Barrier(len(jobs) + 1)
    receivers: list[Connection] = []
    processes = []
    try:
        for job in jobs:
            receiver, sender = _context.Pipe(duplex=False)
            process = _context.Process(target=_work, args=(job, barrier, sender), daemon=True)
            process.start()
            sender.close()
            receivers.append(receiver)
            processes.append(process)
        try:
            barrier.wait(READY_SECONDS)
            meanwhile()
        except BrokenBarrierError:
            pass  # a job has failed before it was ready; its outcome says how
        outcomes = [_outcome(receiver, patience) for receiver in receivers]
    finally:
        for receiver in receivers:
            receiver.close()
        for process in processes:
            process.join(0.5)
            if process.is_alive():
                process.kill()
                process.join()
    failures = [str(result) for good, result in outcomes if not good]
    if failures:
        causes = [failure for failure in failures if failure != _KEPT_WAITING]
        raise RuntimeError("\n".join(causes or failures))
    return [result for _, result in outcomes]


def _work(job: Job, barrier: Barrier, sender: Connection) -> None:
    try:
        sender.send((True, job.function(barrier.wait, *job.arguments)))
    except BrokenBarrierError:
        sender.send((False, _KEPT_WAITING))
    except Exception:
        barrier.abort()
        sender.send((False, f"a job failed:\n{traceback.format_exc()}"))


def _outcome(receiver: Connection, patience: float) -> tuple[bool, Any]:
    """(whether it went well, the result or what went wrong)."""
    try:
        if receiver.poll(patience):
            outcome: tuple[bool, Any] = receiver.recv()
            return outcome
    except EOFError:
        return False, "a job's process died"
    return False, f"a job gave no result within {patience:g} s"

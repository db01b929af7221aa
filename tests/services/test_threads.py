"""Threads of a worker with an event loop."""

from __future__ import annotations

import threading

import anyio
import pytest

from udsbus.services.aio.threads import Job, Threads

pytestmark = pytest.mark.anyio


async def test_what_is_given_up_before_it_begins_never_does(anyio_backend_name: str) -> None:
    begun: list[int] = []
    told: list[int] = []
    job = Job(lambda: begun.append(1), lambda: told.append(1), lambda tell: tell())
    with anyio.move_on_after(0.01):
        await job.result()
    assert told == [1]
    assert job.ended
    job.run()
    assert (begun, told) == ([], [1])


async def test_what_has_begun_goes_on(anyio_backend_name: str) -> None:
    threads = Threads("test", 1)
    begun, go_on, ended = threading.Event(), threading.Event(), anyio.Event()

    def function() -> None:
        begun.set()
        go_on.wait(20)

    job = threads.start(function, ended.set)
    assert begun.wait(20)
    with anyio.move_on_after(0.01):
        await job.result()
    assert not job.ended
    then = threading.Event()
    assert job.then(then.set), "as it has not ended"
    go_on.set()
    with anyio.fail_after(20):
        await ended.wait()
    assert then.is_set()
    assert not job.then(then.set)
    threads.close()

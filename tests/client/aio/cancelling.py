"""Cancels what a coroutine does, at the moment that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio

import udsbus


class Steps:
    """Awaits something, and cancels `scope` when that has suspended for the `at`-th time."""

    def __init__(self, awaitable: Awaitable[Any], scope: anyio.CancelScope, at: int) -> None:
        self._awaitable = awaitable
        self._scope = scope
        self._at = at
        self.taken = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                suspended = resume()
            except StopIteration as stop:
                return stop.value
            self.taken += 1
            if self.taken == self._at:
                self._scope.cancel()
            try:
                value = yield suspended
            except BaseException as error:
                resume = lambda error=error: steps.throw(error)  # type: ignore[misc] # noqa: E731
            else:
                resume = lambda value=value: steps.send(value)  # type: ignore[misc] # noqa: E731


async def cancelled_at(at: int, function: Callable[[], Awaitable[Any]]) -> bool:
    """Whether `function` was cancelled when it suspended for the `at`-th time; False: it had ended
    before."""
    with anyio.CancelScope() as scope:
        await Steps(function(), scope, at)
    return scope.cancelled_caught


async def cancelled_with_answer(
    client: udsbus.AsyncClient, which: int, function: Callable[[], Awaitable[Any]]
) -> bool:
    """The same, in the very moment in which the `which`-th piece of what the broker says has come
    and has been taken, and the task has not run yet. Only asyncio cancels a task then."""
    link = client._link
    assert link is not None
    received, number = link._received, 0

    async def whole() -> None:
        await function()

    task = asyncio.create_task(whole())

    def receive(messages: list[Any]) -> None:
        nonlocal number
        received(messages)
        number += 1
        if number == which:
            task.cancel()

    link._received = receive
    try:
        await asyncio.wait([task])
    finally:
        link._received = received
    if not task.cancelled():
        task.result()
    return task.cancelled()

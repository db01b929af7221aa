"""What each worker has of the board, and what its visitors have not been sent yet. Needs only
udsbus and anyio.

    board/votes/tea           how many want tea
    board/here/SESSION.1      "ann": a visit of hers, to the worker of that session (ephemeral)
    rates/board/ann           how much she has done of late, see `Client.rate_limiter`
    board/lines               a topic: what visitors say

Why this is right, whoever comes and goes, and whenever a worker is killed:

- A worker follows the board with one watch, however many visitors it has. Who comes gets a copy of
  what the watch has told, and from then on each change: in one step, so nothing lies between.
- A visit begins when the watch tells of its key. Who saw something at a worker that was killed came
  here after that, and her key is younger: she never sees an older board than before.
- It ends when that key goes, whyever: who is not there for the others is not served.
- What a visitor was not sent yet is the newest value of each key. So one who is slow sees fewer
  steps, each of which the board once was, takes no more room than the board, and holds up nobody.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc

import udsbus

CHOICES = ("tea", "coffee", "water")
LINES_KEPT = 100
"""Of what was said, for a visitor who is slow."""


class Visit:
    """What one visitor has not been sent yet."""

    def __init__(self) -> None:
        self._begun = self._over = False
        self._changes: dict[str, Any] = {}
        self._lines: deque[list[str]] = deque(maxlen=LINES_KEPT)
        self._something = anyio.Event()

    async def news(self) -> dict[str, Any] | None:
        """What is new, as soon as something is: the values of keys, None for those that are gone,
        and lines. The first time the whole board. None: the visit is over."""
        await self._something.wait()
        if self._over:
            return None
        self._something = anyio.Event()
        changes, self._changes = self._changes, {}
        lines = [*self._lines]
        self._lines.clear()
        return {"changes": changes, "lines": lines}

    def begin(self, state: dict[str, Any]) -> None:
        self._begun = True
        self.change(state)

    def end(self) -> None:
        self._over = True
        self._something.set()

    def change(self, changes: dict[str, Any]) -> None:
        if self._begun:
            self._changes |= changes
            self._something.set()

    def tell(self, line: list[str]) -> None:
        if self._begun:
            self._lines.append(line)
            self._something.set()


class Board:
    """One worker's view. Every method may raise what requests raise, see `udsbus.Client`."""

    def __init__(self, bus: udsbus.AsyncClient) -> None:
        self._bus = bus
        self._state: dict[str, Any] = {}
        """Key → value, as the watch has told."""
        self._visits: dict[str, Visit] = {}
        """By key."""
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def visit(self, name: str) -> AsyncIterator[Visit]:
        key = f"board/here/{self._bus.session}.{next(self._numbers)}"
        visit = self._visits[key] = Visit()
        try:
            await self._bus.set(key, name, ephemeral=True)
            yield visit
        finally:
            del self._visits[key]
            with anyio.CancelScope(shield=True):
                await self._bus.delete(key)

    async def act(self, name: str, visit: Visit, wish: str) -> None:
        """Do what she wants: `vote tea`, or `say something`."""
        verb, _, what = wish.partition(" ")
        if not await self._bus.rate_limiter(f"board/{name}", rate=5, burst=10).try_acquire():
            visit.tell(["", "not so fast"])
        elif verb == "vote" and what in CHOICES:
            try:
                await self._bus.increment(f"board/votes/{what}")
            except (udsbus.InvalidRequest, udsbus.LimitExceeded):  # whoever set it may delete it
                visit.tell(["", f"the votes for {what} are no number that one can be added to"])
        elif verb == "say" and 0 < len(what) <= 500:
            await self._bus.publish("board/lines", [name, what])
        else:
            visit.tell(["", f"vote for one of {', '.join(CHOICES)}, or say at most 500 letters"])

    async def follow_state(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keep the state, and tell all visitors. For ever."""
        async with self._bus.watch("board/**", initial=True) as watch:
            async for told in watch:
                if isinstance(told, udsbus.CaughtUp):
                    break
                self._state[told.key] = told.value
            task_status.started()
            while together := await watch.get_transaction():
                self._apply({c.key: c.value for c in together if isinstance(c, udsbus.Change)})

    def _apply(self, changes: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is None:
                self._state.pop(key, None)
            else:
                self._state[key] = value
        for visit in self._visits.values():
            visit.change(changes)
        for key in changes.keys() & self._visits.keys():
            if changes[key] is None:
                self._visits[key].end()
            else:
                self._visits[key].begin(self._state)

    async def follow_lines(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Tell all visitors what is said. For ever."""
        async with self._bus.subscribe("board/lines") as lines:
            task_status.started()
            async for line in lines:
                for visit in self._visits.values():
                    visit.tell(line.value)

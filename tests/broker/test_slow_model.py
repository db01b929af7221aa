"""Whatever happens, and whenever a reader takes something: what it was told adds up to the truth.

A broker of tight limits and a reader that watches, beside a plain dict. The reader may be in step,
behind or catching up when its connection is lost, in the midst of a frame; then it resumes.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.engine.changelog import ChangeLog
from udsbus.hub import best_hub
from udsbus.terms import GONE

from .slow import FailingJournal, Reader, tighten
from .stepped import SteppedBroker, stepped_broker

KEYS = ["a/1", "a/2", "a/3/4", "a", "b"]
KEPT = 100
"""Changes that the broker's log keeps: often all that a reader has missed, and often not."""


class Follower:
    """A client of few lines that does what docs/protocol.md says, and a model of the truth."""

    def __init__(self, broker: SteppedBroker, disk: FailingJournal) -> None:
        self.broker, self.disk = broker, disk
        self.other, _ = broker.accepted()
        self.values = 0
        self.reset()
        self.believed: dict[str, bytes] = {}
        self.last, self.keys_at_last = 0, set[str]()
        """The revision told of last, and the keys of it."""
        self.told: list[tuple[int, str]] = []
        self.over = 0
        self.connect()

    def reset(self) -> None:
        self.left_out = 0
        self.in_step = True
        self.sent = self.broker.engine.changes
        """Changes before this connection."""
        self.changes = 0
        self.unfinished: list[list[Any]] = []
        """Of a revision of which more is to come."""

    # --- steps ----------------------------------------------------------------------------------

    def execute(self, *commands: m.EngineCommand) -> None:
        for command in commands:
            with contextlib.suppress(Exception):
                self.broker.engine.execute(0, command, self.broker.now)
        self.broker.step()

    def set(self, *keys: str, ttl: float | None = None, size: int = 100) -> None:
        self.values += 1
        value = self.values.to_bytes(4) * size
        self.execute(*(m.Set(key, value, ttl) for key in keys))

    def burst(self) -> None:
        """More than the hard limit, of more keys than there is room for in a few pieces."""
        for number in range(40):
            self.set(f"a/{number}")

    def set_for_a_while(self, key: str) -> None:
        self.set(key, ttl=3.0)

    def delete(self, key: str) -> None:
        self.execute(m.Delete(key))

    def transact(self) -> None:
        self.values += 1
        value = self.values.to_bytes(4) * 50
        self.execute(m.Transaction([], [*(m.Set(key, value) for key in KEYS), m.Delete("a/2")]))

    def pass_time(self) -> None:
        self.broker.now += 4.0
        self.broker.step()

    def fail(self) -> None:
        """A turn in which another begins to watch, so that its changes are told early, and which
        cannot be written."""
        if self.broker.engine.frozen:
            return
        self.disk.full = True
        for key in KEYS[:2]:
            self.other.send([0, 1, "set", [key, b"\x01" * 300]], [0, 2, "watch", ["x"]])
            self.other.send([0, 1, "delete", [key]], [0, 2, "set", ["b", b"\x01"]])
        self.broker.step()
        self.broker.step()
        self.disk.full = False
        self.broker.turn.refuse_writes(None)
        self.other.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.other.receive()

    def take(self, size: int) -> None:
        """Read so many bytes of what is there."""
        self.client.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            data = self.client.socket.recv(size)
            for message in self.client._decoder.feed(data):
                self.notified(message)
        self.broker.step()

    def take_some(self) -> None:
        for _ in range(10):
            self.take(777)

    def lose(self) -> None:
        self.client.close()
        self.broker.step()
        self.connect()

    # --- what a client does ---------------------------------------------------------------------

    def connect(self) -> None:
        self.reader = Reader(self.broker)
        self.client = self.reader.client
        self.client.send([0, 1, "watch", ["a/**", {"from_revision": self.last}]])
        answer = self.broker.receive(self.client)[3]
        self.reset()
        self.base = answer[1]
        if answer[2] is None:
            self.over += 1
            items, after = self.reader.ask("items", "a/**")
            assert after is None
            self.believed = {key: value for key, value, _ in items}
            self.last, self.keys_at_last = self.base, set()
            self.told.clear()
        else:
            for change in answer[2]:
                self.change(*change)

    def notified(self, message: list[Any]) -> None:
        _, name, params = message
        if name == "behind":
            self.in_step = False
            self.left_out += params[1]
        elif name == "in_step":
            self.in_step = True
            assert params[0] >= self.last
        elif params[0] > self.base:
            revision, more = params[0], len(params) > 2 and params[2] is True
            parts = [params[1:]] if name == "change" else params[1]
            self.changes += len(parts)
            assert not self.unfinished or self.unfinished[0][0] == revision
            self.unfinished += [[revision, *part] for part in parts]
            if not more:
                for change in self.unfinished:
                    self.change(*change)
                self.unfinished = []
                self.last = revision

    def change(self, revision: int, kind: str, key: str, value: bytes | None) -> None:
        assert revision >= self.last, "revisions come in their order"
        if revision > self.last:
            self.last, self.keys_at_last = revision, set()
        elif key in self.keys_at_last:
            return
        self.keys_at_last.add(key)
        assert (revision, key) not in self.told, "each change comes once"
        self.told.append((revision, key))
        assert (value is None) == (kind in GONE)
        if value is None:
            self.believed.pop(key, None)
        else:
            self.believed[key] = value

    def catch_up(self) -> None:
        self.broker.step()
        for message in self.reader.everything():
            self.notified([2, message[0], message[1:]])
        entries = self.broker.engine.keyspace.entries
        watched = (key for key in entries if key == "a" or key.startswith("a/"))
        assert self.believed == {key: entries[key][0] for key in watched}
        assert self.in_step
        assert not self.reader.is_behind


STEPS: list[Any] = [
    *[(Follower.set, key) for key in KEYS],
    (Follower.set, *KEYS),
    *[(Follower.delete, key) for key in KEYS[:4]],
    (Follower.set_for_a_while, "a/1"),
    (Follower.set_for_a_while, "a/3/4"),
    (Follower.transact,),
    (Follower.pass_time,),
    *[(Follower.burst,)] * 3,
    (Follower.fail,),
    *[(Follower.take, size) for size in (1, 500, 5_000)],
    *[(Follower.take_some,)] * 5,
    *[(Follower.lose,)] * 2,
    (Follower.catch_up,),
]


@settings(
    max_examples=500, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=25))
def test_what_is_told_adds_up_to_the_truth(steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        tighten(patch)
        disk = FailingJournal()
        address = str(Path(directory) / "bus.sock")
        for broker in stepped_broker(address, best_hub(), patch, disk):
            broker.engine.log = ChangeLog(max_changes=KEPT)
            follower = Follower(broker, disk)
            for function, *arguments in steps:
                function(follower, *arguments)
            follower.catch_up()

"""What has changed, who did it, and going back to what was."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker
from udsbus import Conflict, InvalidRequest, MissedChanges
from udsbus.journal.folding import Retention, fold

from .support import Task


class Lives:
    """A bus whose broker is started again now and then, and its journal folded."""

    def __init__(self, address: str, state: Path) -> None:
        self.address = address
        self.state = state
        self.broker = self._started()
        self.client = udsbus.connect(address, name="tester")

    def _started(self) -> BrokerProcess:
        return BrokerProcess(self.address, durability="process", state=self.state)

    def restart(self, retention: Retention | None = None) -> None:
        """Everything until now is in the database afterwards."""
        self.broker.kill()
        self.broker = self._started()
        fold(str(self.state), *([] if retention is None else [retention]))

    def close(self) -> None:
        self.client.close()
        self.broker.stop()


@pytest.fixture
def lives(address: str, runtime: Path) -> Iterator[Lives]:
    lives = Lives(address, runtime / "state")
    yield lives
    lives.close()


def told(changes: list[udsbus.PastChange]) -> list[Any]:
    return [(c.revision, c.kind, c.key, c.before, c.after) for c in changes]


@pytest.mark.parametrize("folded_after", [None, 0, 1, 3, 5])
def test_what_has_changed(lives: Lives, folded_after: int | None) -> None:
    """Wherever it is kept: in the database, in segments, or partly."""
    client = lives.client
    steps: list[Callable[[], object]] = [
        lambda: client.set("a", {"x": datetime.date(2026, 5, 4)}),
        lambda: client.set_many({"a": 2, "b/c": (1, 2)}),
        lambda: client.delete("a"),
        lambda: client.set("b", b"bytes"),
        lambda: client.set("b/c", None),
    ]
    for number, step in enumerate(steps):
        if folded_after == number:
            lives.restart()
        step()
    if folded_after == len(steps):
        lives.restart()
    expected = [
        (2, "created", "a", None, {"x": datetime.date(2026, 5, 4)}),  # 1: the client came
        (3, "updated", "a", {"x": datetime.date(2026, 5, 4)}, 2),
        (3, "created", "b/c", None, (1, 2)),
        (4, "deleted", "a", 2, None),
        (5, "created", "b", None, b"bytes"),
        (6, "updated", "b/c", (1, 2), None),
    ]
    assert told(client.history("**")) == expected
    assert told(client.history("a")) == [one for one in expected if one[2] == "a"]
    assert told(client.history("b/**")) == [one for one in expected if one[2][0] == "b"]
    assert told(client.history("*/c")) == [one for one in expected if one[2] == "b/c"]
    assert told(client.history("**", limit=2)) == expected[-2:]
    assert told(client.history("**", after_revision=4)) == expected[-2:]
    assert told(client.history("**", client="tester")) == expected
    assert client.history("**", client="nobody") == []
    assert client.history("nothing") == []
    for change in client.history("**", limit=None):
        assert (change.pid, change.uid, change.client) == (os.getpid(), os.getuid(), "tester")


def test_when(lives: Lives) -> None:
    before = datetime.datetime.now(datetime.UTC)
    lives.client.set("a", 1)
    lives.restart()
    between = datetime.datetime.now(datetime.UTC)
    lives.client.set("a", 2)
    times = [change.time for change in lives.client.history("a")]
    assert before <= times[0] <= between <= times[1]
    assert [change.after for change in lives.client.history("a", since=between)] == [2]
    assert lives.client.history("a", since=between.timestamp() + 100) == []
    with pytest.raises(InvalidRequest):
        lives.client.history("a", since="yesterday")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        lives.client.history("a//b")


def test_what_expired_is_nobody_s_doing(lives: Lives) -> None:
    with lives.client.watch("a") as watch:
        lives.client.set("a", 1, ttl=0.01)
        assert [watch.get(timeout=20) for _ in range(2)][1] is not None
    change = lives.client.history("a")[-1]
    assert (change.kind, change.before, change.after) == ("expired", 1, None)
    assert (change.pid, change.client) == (None, None)


@pytest.mark.parametrize("folded", [False, True])
def test_rollback(lives: Lives, folded: bool) -> None:
    client = lives.client
    client.set_many({"c/a": 1, "c/b": 2, "other": 1})
    then = client.revision()
    client.set("c/a", 10)
    client.delete("c/b")
    client.set("c/new", 3)
    client.set("other", 2)
    if folded:
        lives.restart()
    last = client.revision()
    assert client.rollback("c/**", revision=then) == 3
    assert dict(client.items("**")) == {"c/a": 1, "c/b": 2, "other": 2}
    assert client.revision() == last + 1, "at once"
    assert client.rollback("c/**", revision=then) == 0
    assert client.revision() == last + 1
    assert client.rollback("c/**", revision=last) == 3, "and it can be taken back"
    assert dict(client.items("**")) == {"c/a": 10, "c/new": 3, "other": 2}
    assert client.rollback("**", revision=0) == 3
    assert client.keys() == []


def test_rollback_to_a_time(lives: Lives) -> None:
    client = lives.client
    client.set("a", 1)
    between = datetime.datetime.now(datetime.UTC)
    client.set("a", 2)
    assert client.rollback("a", time=between) == 1
    assert client.get("a") == 1
    assert client.rollback("a", time=between.timestamp() - 1000) == 1
    assert client.get("a") is None


def test_a_rollback_never_loses_what_others_write(lives: Lives) -> None:
    lives.client.set("a", 0)
    then = lives.client.revision()

    def count() -> None:
        with udsbus.connect(lives.address) as other:
            for _ in range(300):
                other.increment("a")
                other.increment("sum")

    task = Task(count)
    rolled = 0
    while lives.client.get("sum", 0) < 300:
        before = lives.client.history("a", limit=1)[-1].after
        try:
            changed = lives.client.rollback("a", revision=then)
        except Conflict:
            continue
        assert before >= 0
        rolled += changed
    task.result()
    changes = lives.client.history("a", limit=None)
    for one, other in itertools.pairwise(changes):
        assert other.before == one.after
        assert other.after in (0, other.before + 1)
    assert rolled == sum(change.after == 0 for change in changes) - 1


def test_history_that_is_forgotten(lives: Lives) -> None:
    client = lives.client
    client.set("m", 1)
    client.set("a", 1)
    client.set("a", 2)
    lives.restart(Retention(of_patterns=(("m", 0.0),)))
    client.set("a", 3)
    assert client.rollback("a", revision=3) == 1, "of this key all is known"
    assert client.get("a") == 1
    with pytest.raises(MissedChanges, match="does not reach back to revision 0"):
        client.rollback("**", revision=0)
    with pytest.raises(MissedChanges):
        client.rollback("m", revision=0)
    assert client.get("m") == 1


def test_without_a_history(address: str) -> None:
    with running_broker(address), udsbus.connect(address) as client:
        client.set("a", 1)
        with pytest.raises(Conflict, match="keeps no history"):
            client.history("a")
        with pytest.raises(Conflict, match="keeps no history"):
            client.rollback("a", revision=0)


@pytest.mark.parametrize("arguments", [{}, {"revision": 1, "time": 1.0}])
def test_a_rollback_needs_one_aim(lives: Lives, arguments: Any) -> None:
    with pytest.raises(InvalidRequest, match="either"):
        lives.client.rollback("a", **arguments)


def test_reading_while_it_is_folded(lives: Lives) -> None:
    """All of it, each time."""
    for number in range(30):
        lives.client.set("a", number)
        if number % 3 == 0:
            lives.broker.kill()
            lives.broker = lives._started()
    task = Task(lambda: fold(str(lives.state)))
    for _ in range(200):
        assert [change.after for change in lives.client.history("a")] == list(range(30))
    task.result()
    assert [change.after for change in lives.client.history("a")] == list(range(30))

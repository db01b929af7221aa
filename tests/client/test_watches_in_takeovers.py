"""Watches across the death of the broker, with the history of the bus for the truth."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import wait_until
from tests.pairs import Pair
from udsbus import CaughtUp, Change, Client

from .support import PATIENCE, Task, catches_up, take_number

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")


@pytest.fixture
def pair(address: str, runtime: Path) -> Iterator[Pair]:
    pair = Pair(address, runtime / "state")
    yield pair
    pair.close()


def happened(client: Client, but_by: str | None = None) -> list[Change]:
    """All changes below `a/` that there have ever been, but for those by a client of this name."""
    return [
        Change(past.revision, past.kind, past.key, past.after, past.before)  # type: ignore[arg-type]
        for past in client.history("a/*", limit=None)
        if but_by is None or past.client != but_by
    ]


def test_a_watch_that_nobody_polls_goes_on(pair: Pair) -> None:
    """Again and again; and what the client did before a takeover is its own after it."""
    with (
        udsbus.connect(pair.address, name="me", timeout=PATIENCE) as me,
        udsbus.connect(pair.address, name="you", timeout=PATIENCE) as you,
        me.watch("a/*", initial=True, previous=True, strict=True) as everything,
        me.watch("a/*", ignore_own=True, previous=True) as others,
    ):
        catches_up(everything)
        for turn in range(3):
            broker, _ = pair.ready(you)
            states = [everything.state, others.state]
            me.set("a/1", (turn, "before"))
            you.set_many({"a/1": (turn, "before"), "a/2": turn})
            os.kill(broker, signal.SIGKILL)
            me.set("a/2", (turn, "after"))
            you.delete("a/1")
            you.set("a/3", turn, ttl=0.001)
            wait_until(lambda: not you.exists("a/3"), "it to expire")
            assert states == ["live", "live"]
        truth, theirs = happened(you), happened(you, but_by="me")
        wait_until(lambda: everything.waiting >= len(truth), "all that has happened")
        assert take_number(everything, len(truth)) == truth
        assert take_number(others, len(theirs)) == theirs
        assert everything.get(timeout=0) is others.get(timeout=0) is None
        assert everything.started_over == others.started_over == 0


def test_a_busy_watch_goes_on(pair: Pair) -> None:
    """While several write, transactions too: no gap, no double, and each whole."""
    stop = threading.Event()

    def write(client: Client) -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            with client.transaction() as t:
                for number in range(4):
                    t.set(f"a/{number}", (client.name, turn, number))
                t.delete(f"a/{turn % 7}")
            client.set("a/5", turn)
            client.delete("a/6")

    with (
        udsbus.connect(pair.address, name="me", timeout=PATIENCE) as me,
        udsbus.connect(pair.address, name="you", timeout=PATIENCE) as you,
        me.watch("a/*", previous=True, strict=True) as everything,
        me.watch("a/*", previous=True, ignore_own=True) as others,
        you.watch("a/*", kinds=["deleted"], initial=True) as deletions,
    ):

        def follow() -> list[list[Change]]:
            found: list[list[Change]] = []
            while not found or found[-1][-1].key != "a/end":
                found.append(everything.get_transaction(PATIENCE))
                assert found[-1], "nothing comes"
            return found

        following = Task(follow)
        writing = [Task(lambda client=client: write(client)) for client in (me, you)]  # type: ignore[misc]
        try:
            for _ in range(3):
                broker, _ = pair.ready(you)
                before = you.revision()
                wait_until(lambda before=before: you.revision() > before + 100, "writes")
                os.kill(broker, signal.SIGKILL)
        finally:
            stop.set()
        for each in writing:
            each.result()
        you.set("a/end", 0)
        groups = following.result()
        truth, theirs = happened(you), happened(you, but_by="me")
        assert len(truth) > 300
        assert [change for group in groups for change in group] == truth
        revisions = [{change.revision for change in group} for group in groups]
        assert all(len(each) == 1 for each in revisions)
        assert len(groups) == len({change.revision for change in truth})
        assert take_number(others, len(theirs)) == theirs
        gone = [change._replace(previous=None) for change in truth if change.kind == "deleted"]
        assert take_number(deletions, len(gone)) == gone
        sources: tuple[udsbus.Watch[Change | CaughtUp] | udsbus.Watch, ...]
        sources = everything, others, deletions
        for source in sources:
            assert source.get(timeout=0) is None
            assert (source.started_over, source.skipped) == (0, 0)

"""Pushes that meet, and what a push makes of what others do meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from pathlib import Path

import pytest

import udsbus
from tests.harness import BrokerProcess
from udsbus.config.differences import ABSENT, KeyChange
from udsbus.config.files import sources
from udsbus.config.pushing import compare, push

PUSHES = 25


def test_what_a_push_says_that_it_changed_is_what_it_changed(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    """Each value is written over once, but for the last: nobody writes over what he did not see."""
    made: list[KeyChange] = []

    def push_many(number: int) -> None:
        path = tmp_path / f"{number}.json"
        files = sources([str(path)], key="config/app", form=None, split=False)
        with udsbus.connect(broker.address) as client:
            for turn in range(PUSHES):
                path.write_text(f'{{"who": "{number}.{turn}"}}')
                while True:
                    with contextlib.suppress(udsbus.Conflict):  # the others were quicker, ten times
                        made.extend(push(client, files))
                        break

    threads = [threading.Thread(target=push_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 * PUSHES

    def who(value: object) -> str:
        return "nobody" if value is ABSENT else value["who"]  # type: ignore[index]

    before = Counter(who(change.before) for change in made)
    assert set(before.values()) == {1}
    with udsbus.connect(broker.address) as client:
        last = client.get("config/app")["who"]
    assert set(before) == {who(change.after) for change in made} - {last} | {"nobody"}


def test_one_that_others_keep_from_its_turn_writes_nothing(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    """Several files at once, of which one is written by somebody else just before each attempt."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"x": 1}')
    paths = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    files = sources(paths, key=None, form=None, split=False)
    with udsbus.connect(broker.address) as client, udsbus.connect(broker.address) as other:

        class Late(udsbus.Client):
            def transaction(self, *, fence: int | None = None) -> udsbus.Transaction:
                other.increment("config/b")
                return super().transaction(fence=fence)

        with Late(broker.address) as late, pytest.raises(udsbus.Conflict, match="all the time"):
            push(late, files)
        assert not client.exists("config/a")
        assert [change.key for change in compare(client, files)] == ["config/a", "config/b"]
        push(client, files)
        assert compare(client, files) == []

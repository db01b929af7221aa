"""Snapshots of the files of a state directory; how they are asked for is in tests/contract."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgpack
import pytest

from udsbus import messages as m
from udsbus.bursts import Bursts
from udsbus.journal.database import opened_file
from udsbus.journal.folding import fold, write_gathered
from udsbus.journal.snapshot import PAGES, take_snapshot

from .bus import Bus
from .support import crash


def test_it_is_made_in_bursts_and_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have the core in between, and may want to fold what it reads."""
    bus = Bus(tmp_path / "state")
    keys = [f"key/{number:05}" for number in range(3_000)]
    for key in keys:
        bus.do(m.Set(key, msgpack.packb("x" * 200)))
    bus.restart()
    fold(str(bus.path))
    bus.do(m.Set(keys[0], msgpack.packb("newer")))
    bus.restart()
    pauses = refused = copied = 0

    def pause(self: Any) -> None:
        nonlocal pauses, refused
        pauses += 1
        if pauses == 3:
            bus.do(m.Set(keys[-1], msgpack.packb("newest")))
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("udsbus.journal.database.BUSY_WRITER_SECONDS", 0.0)
                    fold(str(bus.path))
            except sqlite3.OperationalError:
                refused += 1

    def write(*arguments: Any) -> None:
        nonlocal copied
        copied = pauses
        write_gathered(*arguments)

    monkeypatch.setattr(Bursts, "pause", pause)
    monkeypatch.setattr("udsbus.journal.snapshot.write_gathered", write)
    revision = take_snapshot(str(bus.path), str(tmp_path / "snapshot.db"), msgpack.unpackb)
    crash(bus.journal)
    with opened_file(str(tmp_path / "snapshot.db"), read_only=True) as database:
        (size,) = database.execute("pragma page_count").fetchone()
        rows = dict(database.execute("select key, value from entries"))
    assert copied > size / PAGES > 2
    assert pauses > copied, "and while what must not be in it is taken out"
    assert refused == 1
    assert len(rows) == len(keys)
    assert rows[keys[0]] == msgpack.packb("newer")
    assert revision == bus.engine.revision
    assert rows[keys[-1]] == msgpack.packb("newest"), "it was journaled before the tail was read"

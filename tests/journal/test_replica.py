"""A standby reads the journal while the broker writes it, and ends with the same state."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.support import examples
from udsbus import messages as m
from udsbus.broker import pair as pair_module
from udsbus.broker import replica as replica_module
from udsbus.broker.durability import open_state
from udsbus.broker.pair import READ_SECONDS, Reader
from udsbus.broker.replica import Replica
from udsbus.bursts import PAUSE_SECONDS
from udsbus.errors import JournalDamaged
from udsbus.journal import StateDirectory
from udsbus.journal.folding import fold
from udsbus.journal.repair import repair

from .bus import Bus, commands, segments, state_of, value
from .support import crash


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "state")
    yield bus
    crash(bus.journal)


class Reading:
    """A replica that is read on now and then."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.replica = Replica(str(bus.path))
        self.steps = self.replica.follow()

    def to_the_end(self) -> Replica:
        """All but the last turn."""
        for _ in range(2):  # the first may tell of the end of the time before
            while not next(self.steps):
                pass
        return self.replica

    def take_over(self) -> Any:
        """The state of a broker that goes on with it."""
        self.steps = iter(())
        crash(self.bus.journal)
        replica, self.bus.journal = open_state(
            str(self.bus.path), "process", "bus", 10, replica=self.replica
        )
        self.bus.engine = replica.engine
        return state_of(replica.engine)


steps = st.lists(
    st.one_of(
        st.lists(commands, min_size=1, max_size=4),
        st.sampled_from(["restart", "fold", "step", "end"]),
    ),
    max_size=30,
)


@given(steps, st.booleans())
@examples(100)
def test_whatever_happens_while_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, steps: Any, hasty: bool
) -> None:
    """Other brokers go on with the journal, and what was not read yet is folded."""
    bus = Bus(tmp_path_factory.mktemp("replica") / "state")
    with pytest.MonkeyPatch.context() as patch:
        if hasty:  # a step is one turn
            patch.setattr(replica_module, "STEP_SECONDS", -1.0)
        reading = Reading(bus)
        for step in steps:
            if step == "restart":
                bus.restart()
            elif step == "fold":
                with contextlib.suppress(sqlite3.OperationalError):  # it is just being loaded
                    fold(str(bus.path))
            elif step == "step":
                next(reading.steps)
            elif step == "end":
                reading.to_the_end()
            else:
                bus.do(*step)
        before = bus.state()
        assert reading.take_over() == before
        bus.restart()
        assert bus.state() == before
    crash(bus.journal)


def test_the_answers_are_read_too(bus: Bus) -> None:
    reading = Reading(bus)
    for number in range(3):
        bus.do(m.Set("a", value(number)))
    replica = reading.to_the_end()
    assert len(replica.lanes) == 1
    lane, _ = replica.lanes.take(("session", 3), 64, 1, 0.0)
    assert lane.answer(7) is not None


def test_the_last_turn_is_left_until_there_is_another(bus: Bus) -> None:
    """The broker may cut it off again."""
    reading = Reading(bus)
    bus.do(m.Set("a", value(1)))
    assert "a" not in reading.to_the_end().engine.keyspace.entries
    before = bus.journal.position
    bus.do(m.Set("a", value(2)))
    assert reading.to_the_end().engine.keyspace.entries["a"][0] == value(1)
    bus.journal._failed(OSError(5, "no such luck"), cut_to=before)
    assert bus.journal.retry()
    bus.do(m.Set("b", value(3)))
    bus.do(m.Set("b", value(4)))
    entries = reading.to_the_end().engine.keyspace.entries
    assert {key: entry[0] for key, entry in entries.items()} == {"a": value(1), "b": value(3)}


def test_a_record_that_is_half_there(bus: Bus, tmp_path: Path) -> None:
    bus.do(m.Set("a", value(1)))
    bus.do(m.Set("a", value(2)))
    bus.do(m.Set("a", value(3)))
    (segment,) = segments(bus.path)
    whole = segment.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    growing = other / segment.name
    replica = Replica(str(other))
    steps = replica.follow()
    seen = []
    with growing.open("wb", buffering=0) as file:
        for byte in whole:
            file.write(bytes([byte]))
            while not next(steps):  # a step that took its time is followed by another
                pass
            entry = replica.engine.keyspace.entries.get("a")
            if entry is not None and entry[0] not in seen:
                seen.append(entry[0])
    assert seen == [value(1), value(2)]


def test_what_is_read_is_not_read_again(bus: Bus) -> None:
    """Neither the database nor the segments in front: they could as well be gone."""
    reading = Reading(bus)
    for number in range(3):
        bus.do(m.Set(f"a/{number}", value(number)))
        bus.restart()
    fold(str(bus.path))
    for number in range(3):
        bus.do(m.Set(f"b/{number}", value(number)))
        bus.restart()
    reading.to_the_end()
    before = bus.state()
    for segment in segments(bus.path)[:-1]:
        segment.unlink()
    os.unlink(bus.path / "state.db")
    assert reading.take_over() == before


def test_what_is_only_half_loaded_is_nothing_to_go_on_with(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bus.do(m.Set(f"a/{number}", value(number)))
    bus.restart()
    fold(str(bus.path))
    monkeypatch.setattr(replica_module, "STEP_ENTRIES", 1)
    reader = Reader(str(bus.path))
    for _ in range(2):
        reader.step()
    assert reader.end() is None
    reader = Reader(str(bus.path))
    while not reader.ready:
        reader.step()
    assert reader.end() is not None


def test_only_what_was_read_is_folded(bus: Bus) -> None:
    positions = []
    for number in range(4):
        bus.do(m.Set("a", value(number)))
        bus.restart()
        positions.append(bus.journal.position)
    before = len(segments(bus.path))
    assert fold(str(bus.path), read_to=0) == 0
    begun = positions[1] - 1  # within the header of the third segment
    assert fold(str(bus.path), read_to=begun) == 2
    assert len(segments(bus.path)) == before - 2


def test_damage_is_told(bus: Bus) -> None:
    """And who takes over judges."""
    bus.do(m.Set("a", value(1)))
    bus.journal._sync_now()
    bus.do(m.Set("b", value(1)))
    bus.restart()
    (segment, _) = segments(bus.path)
    data = bytearray(segment.read_bytes())
    data[-10] ^= 1
    segment.write_bytes(data)
    reading = Reading(bus)
    with pytest.raises(JournalDamaged, match="checksum"):
        reading.to_the_end()
    with pytest.raises(JournalDamaged, match="udsbus journal check"):
        reading.take_over()
    with contextlib.closing(StateDirectory(str(bus.path))) as directory:
        repair(directory)
    bus.start()


def test_one_that_has_caught_up_pauses_between_steps_unless_it_falls_behind(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "STEP_SECONDS", -1.0)  # a step is one turn
    slept: list[float] = []
    monkeypatch.setattr(pair_module, "sleep", slept.append)
    reader = Reader(str(bus.path))

    def write(turns: int) -> None:
        for number in range(turns):
            bus.do(m.Set("a", value(number)))

    write(5)
    while not reader.ready:
        reader.step()
    assert slept == [], "nobody could take over before"
    write(5)
    for _ in range(3):
        reader.step()
    assert slept == [PAUSE_SECONDS] * len(slept) != []
    slept.clear()
    write(5)
    reader._begun -= 2 * READ_SECONDS  # so long it has been at it
    for _ in range(3):
        reader.step()
    assert slept == []

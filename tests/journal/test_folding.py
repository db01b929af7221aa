"""Closed segments become rows that people can read, and a start finds the same state as before."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.support import examples
from udsbus import messages as m
from udsbus.errors import JournalDamaged
from udsbus.journal import StateDirectory, folding
from udsbus.journal.database import path_in
from udsbus.journal.folding import Retention, fold
from udsbus.journal.repair import check, repair
from udsbus.limits import CHANGE_LOG_CHANGES
from udsbus.patterns import matcher
from udsbus.wire.values import decode, encode

from .bus import Bus, commands, segments, value
from .support import TURNS, copy, crash, opened, write


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "state")
    yield bus
    crash(bus.journal)


def rows(path: Path, query: str) -> list[Any]:
    with sqlite3.connect(path_in(str(path))) as database:
        found = database.execute(query).fetchall()
    database.close()
    return found


steps = st.lists(
    st.one_of(st.lists(commands, min_size=1, max_size=4), st.just("restart"), st.just("fold"))
)


@given(steps)
@examples(60)
def test_a_start_finds_the_same_whatever_was_folded(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    bus = Bus(tmp_path_factory.mktemp("folding") / "state")
    changes: list[Any] = []
    for step in steps:
        if step == "restart":
            before = bus.state()
            bus.restart()
            assert bus.state() == before
        elif step == "fold":
            fold(str(bus.path))
            assert len(segments(bus.path)) == 1
        else:
            bus.do(*step)
    before = bus.state()
    crash(bus.journal)
    fold(str(bus.path), all_of_it=True)
    assert segments(bus.path) == []
    bus.start()
    assert bus.state() == before
    logged = bus.engine.log.since(10, lambda key: True)
    assert logged is not None
    changes = [(change.revision, change.kind, change.key, change.value) for change in logged]
    told = rows(bus.path, "select revision, kind, key, after from changes order by rowid")
    assert told == changes
    crash(bus.journal)


def test_the_history_says_who_what_and_when(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, TURNS)
    assert fold(str(path), all_of_it=True) == 1
    found = rows(path, "select revision, key, kind, before, after, pid, uid, client from changes")
    assert found[:3] == [
        (11, "a", "created", None, b"\x01", 4321, 1000, "first"),
        (12, "b/ü", "created", None, b"\xa5hello", 4322, 1000, None),
        (12, "a", "deleted", b"\x01", None, 4322, 1000, None),
    ]
    assert found[4] == (14, "b/ü", "deleted", b"\xc1udr" * 5, None, None, None, None)
    assert rows(path, "select session, lane, msgid from answers") == [("session", 3, 7)] * 3
    (times,) = rows(path, "select min(time), max(time) from changes")
    assert 1.7e9 < times[0] <= times[1]


def test_values_can_be_read(bus: Bus) -> None:
    odd = encode([1, b"xx", Decimal("1.50"), datetime.date(2026, 5, 4)])
    bus.do(
        m.Set("number", value(7)), m.Set("list", value(["ü", None])), m.Set("odd", odd),
        m.Set("long", value("x" * 500)), m.Set("no", b"\xc1"),
    )  # fmt: skip
    bus.restart()
    fold(str(bus.path), decode=decode)
    texts = dict(rows(bus.path, "select key, text from entries"))
    assert texts["number"] == "7"
    assert texts["list"] == '["ü", null]'
    assert texts["odd"] == '[1, "2 bytes", "1.50", "2026-05-04"]'
    assert texts["no"] == "1 bytes"
    assert len(texts["long"]) == 200
    assert dict(rows(bus.path, "select key, text from changes")) == texts


def test_the_broker_s_own_segment_is_left_alone(bus: Bus) -> None:
    bus.do(m.Set("a", value(1)))
    assert fold(str(bus.path)) == 0
    bus.restart()
    bus.do(m.Set("a", value(2)))
    assert fold(str(bus.path)) == 1
    assert rows(bus.path, "select text from entries") == [("1",)]
    bus.do(m.Set("a", value(3)))
    bus.restart()
    assert bus.engine.keyspace.entries["a"][0] == value(3)


def test_an_end_between_the_commit_and_the_deletion(bus: Bus, tmp_path: Path) -> None:
    """What is in the database and in a segment too counts once."""
    bus.do(m.Set("a", value(1)), m.Set("b", value(1)))
    bus.do(m.Delete("a"))
    bus.restart()
    bus.do(m.Set("c", value(1)))
    before = bus.state()
    crash(bus.journal)
    kept = copy(bus.path, tmp_path / "kept")
    fold(str(bus.path))
    (deleted,) = {one.name for one in segments(kept)} - {one.name for one in segments(bus.path)}
    (bus.path / deleted).write_bytes((kept / deleted).read_bytes())
    bus.start()
    assert bus.state() == before
    assert fold(str(bus.path)) == 2
    assert [row[0] for row in rows(bus.path, "select count(*) from changes")] == [4]
    bus.restart()
    assert bus.state() == before


def test_a_damaged_segment_is_for_the_broker_to_stop_at(bus: Bus) -> None:
    bus.do(m.Set("a", value(1)))
    bus.restart()
    bus.do(m.Set("a", value(2)))
    bus.restart()
    bus.do(m.Set("a", value(3)))
    crash(bus.journal)
    second = segments(bus.path)[1]
    data = bytearray(second.read_bytes())
    data[-2] ^= 1
    second.write_bytes(data)
    with pytest.raises(JournalDamaged, match="nothing more is folded"):
        fold(str(bus.path))
    assert second.exists()
    assert rows(bus.path, "select text from entries") == [("1",)]
    with pytest.raises(JournalDamaged):
        bus.start()
    # For the fixture's sake.
    second.unlink()
    for one in segments(bus.path):
        one.unlink()
    bus.start()
    assert bus.engine.keyspace.entries["a"][0] == value(1)


def test_time_to_live_across_a_reboot(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of deadlines begins anew; what is left is told by the time of day."""
    now = time.monotonic()
    bus.do(m.Set("folded", value(1), 100.0), m.Set("forever", value(1)), now=now)
    bus.restart()
    bus.do(m.Set("replayed", value(1), 100.0), now=now)
    fold(str(bus.path))
    for module in ("udsbus.broker.replica", "udsbus.journal.database"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: time.monotonic() - now + 50)
    monkeypatch.setattr("udsbus.broker.replica.boot_id", lambda: "another boot")
    crash(bus.journal)
    bus.start()
    entries = bus.engine.keyspace.entries
    for key in ("folded", "replayed"):
        deadline = entries[key][2]
        assert deadline is not None
        assert 140 < deadline < 151, key
    assert entries["forever"][2] is None


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), {"a", "m/x", "m/y"}),
        (Retention(seconds=0.0), set()),
        (Retention(of_patterns=(("m/*", 0.0),)), {"a"}),
        (Retention(seconds=0.0, of_patterns=(("m/x", 1e6), ("m/*", 0.0))), {"m/x"}),
        (Retention(changes=1), {"m/y"}),
        (Retention(changes=0), set()),
    ],
)
def test_history_is_kept_as_long_as_asked(bus: Bus, retention: Retention, kept: set[str]) -> None:
    for key in ("a", "m/x", "m/y"):
        bus.do(m.Set(key, value(1)))
    bus.restart()
    fold(str(bus.path), retention)
    assert {key for (key,) in rows(bus.path, "select key from changes")} == kept
    assert len(rows(bus.path, "select * from entries")) == 3
    bus.restart()
    log = bus.engine.log
    if kept == {"a", "m/x", "m/y"}:
        assert log.since(10, matcher("**")) is not None
    else:  # a watch that resumes is not told half of what it missed
        assert log.since(10, matcher("**")) is None
        assert log.since(13, matcher("**")) == []


def test_history_has_a_bound_in_bytes(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udsbus.journal.folding.HISTORY_BYTES", 30_000)
    for number in range(40):
        bus.do(m.Set("a", value("x" * 1_000)), m.Set(f"b/{number}", value(number)))
    bus.restart()
    fold(str(bus.path))
    (size,) = rows(bus.path, "select sum(length(ifnull(before, '')) + length(after)) from changes")
    assert 25_000 < size[0] <= 30_000
    (newest,) = rows(bus.path, "select max(revision) from changes")
    assert newest == (bus.engine.revision,)
    bus.restart()
    assert bus.engine.log.since(10, matcher("**")) is None


def test_deadlines_of_several_boots(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each segment is of one boot; the database tells all deadlines on the clock of the last."""
    now = time.monotonic()
    bus.do(m.Set("old", value(1), 100.0), m.Set("forever", value(1)), now=now)
    bus.restart()
    fold(str(bus.path))
    for number in (1, 2):
        # Another boot, in which the clock begins anew.
        shift = now - 50.0 * number
        for module in ("broker.durability", "journal.database", "journal.journal"):
            monkeypatch.setattr(
                f"udsbus.{module}.monotonic", lambda shift=shift: time.monotonic() - shift
            )
        monkeypatch.setattr("udsbus.broker.replica.boot_id", lambda n=number: f"boot {n}")
        monkeypatch.setattr("udsbus.journal.journal.boot_id", lambda n=number: f"boot {n}")
        bus.restart()
        bus.do(m.Set(f"new/{number}", value(1), 100.0), now=time.monotonic() - shift)
        bus.restart()
        fold(str(bus.path))
        bus.restart()
        entries = bus.engine.keyspace.entries
        assert entries["forever"][2] is None
        for key in ("old", *(f"new/{n}" for n in range(1, number + 1))):
            deadline = entries[key][2]
            assert deadline is not None
            assert 95 < deadline - (time.monotonic() - shift) < 101, (number, key)


def test_what_a_failed_write_left_behind_is_not_folded(bus: Bus) -> None:
    """It stands beyond the place where the next segment begins."""
    bus.do(m.Set("a", value(1)))
    journal = bus.journal
    cut_at = journal.position
    bus.do(m.Set("refused", value(1)))
    # As if the write had failed and could not be cut off: another segment goes on before it.
    journal._end = cut_at
    journal._begin_segment()
    bus.engine.revision = 11
    bus.do(m.Set("acknowledged", value(1)))
    journal._begin_segment()
    fold(str(bus.path))
    assert {key for (key,) in rows(bus.path, "select key from entries")} == {"a", "acknowledged"}


def test_segments_go_as_soon_as_they_are_folded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is nearly full the next one needs the room."""
    for number in range(3):
        bus.do(m.Set("a", value(number)))
        bus.restart()
    real = folding._fold_one
    calls = 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise sqlite3.OperationalError("database or disk is full")
        real(*arguments)

    monkeypatch.setattr(folding, "_fold_one", failing)
    before = len(segments(bus.path))
    with pytest.raises(sqlite3.OperationalError):
        fold(str(bus.path))
    assert len(segments(bus.path)) == before - 1


def test_locks_do_not_displace_the_history(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the log has them, for watches that resume."""
    for module in ("journal.folding", "broker.replica"):
        monkeypatch.setattr(f"udsbus.{module}.CHANGE_LOG_CHANGES", 20)
    bus.do(m.Set("a", value(1)))
    for claim in range(50):
        bus.do(m.Acquire("lock", claim, 7), m.Release("lock", claim))
        if claim % 20 == 0:
            bus.do(m.Set("a", value(claim)))
            bus.restart()
            fold(str(bus.path))
    bus.restart()
    fold(str(bus.path))
    of_key = dict(rows(bus.path, "select key like '$sys/%', count(*) from changes group by 1"))
    assert of_key == {0: 4, 1: 19}, "the last 20 changes, and those of other keys"
    assert rows(bus.path, "select value from about where name = 'forgotten'") == [(10,)]
    bus.restart()
    log, revision = bus.engine.log, bus.engine.revision
    missed = log.since(revision - 15, matcher("$sys/locks/**"))
    assert missed is not None
    assert len(missed) == 15
    assert log.since(revision - 25, matcher("**")) is None


def test_items_of_queues_do_not_either(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udsbus.journal.folding.CHANGE_LOG_CHANGES", 5)
    for command in (m.Take("q"), m.Take("q", 1)):
        bus.do(m.Set("a", value(1)))
        bus.do(m.Put("q", value(2)), command, m.Done("q", command.claim))
    for number in range(5):
        bus.do(m.Set("a", value(number)))
    bus.restart()
    fold(str(bus.path))
    assert rows(bus.path, "select count(*) from changes where key like '$sys/%'") == [(0,)]
    assert rows(bus.path, "select count(*) from changes") == [(7,)]


def test_only_so_many_changes_are_taken_into_the_log(bus: Bus) -> None:
    for number in range(0, CHANGE_LOG_CHANGES + 100, 100):
        bus.do(m.SetMany({f"k/{number + n}": value(n) for n in range(100)}))
    bus.restart()
    fold(str(bus.path))
    bus.restart()
    log = bus.engine.log
    assert CHANGE_LOG_CHANGES - 100 <= len(log) <= CHANGE_LOG_CHANGES
    assert log.since(log.forgotten, matcher("**")) is not None
    assert log.since(log.forgotten - 1, matcher("**")) is None


def test_a_database_that_cannot_be_read(bus: Bus) -> None:
    bus.do(m.Set("a", value(1)))
    bus.restart()
    fold(str(bus.path))
    crash(bus.journal)
    place = Path(path_in(str(bus.path)))
    good = place.read_bytes()
    for bad in (b"rubbish" * 1000, good[:5000] + b"\xff" * 3000):
        place.write_bytes(bad)
        with pytest.raises(JournalDamaged, match=r"state\.db"):
            bus.start()
    place.write_bytes(good)
    with sqlite3.connect(place) as database:
        database.execute("pragma user_version = 9")
    database.close()
    with pytest.raises(JournalDamaged, match="format 9"):
        bus.start()
    place.write_bytes(good)
    bus.start()


def test_the_database_is_private(bus: Bus) -> None:
    bus.restart()
    fold(str(bus.path))
    for path in bus.path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_check_and_repair_begin_where_the_database_ends(bus: Bus) -> None:
    for number in range(3):
        bus.do(m.Set("a", value(number)), m.Set("b", value(number)))
        bus.restart()
    fold(str(bus.path))
    report = check(str(bus.path))
    assert (report.fault, report.good.changes) == (None, 0)
    bus.do(m.Set("a", value(7)))
    bus.restart()
    bus.do(m.Set("a", value(8)))
    crash(bus.journal)
    broken = segments(bus.path)[0]
    data = bytearray(broken.read_bytes())
    data[-2] ^= 1
    broken.write_bytes(data)
    directory = StateDirectory(str(bus.path))
    assert len(repair(directory, bridge=True)) == 1
    directory.close()
    bus.start()
    assert bus.engine.keyspace.entries["a"][0] == value(8)
    assert bus.engine.keyspace.entries["b"][0] == value(2)


def test_nothing_to_fold(tmp_path: Path) -> None:
    path = tmp_path / "state"
    _, journal = opened(path)
    assert fold(str(path)) == 0
    crash(journal)
    assert not Path(path_in(str(path))).exists()

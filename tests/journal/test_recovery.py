"""What is found after a crash: everything, or everything up to a torn tail, or a clear refusal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from udsbus.errors import JournalDamaged
from udsbus.journal import StateDirectory
from udsbus.journal.records import RECORDED, read_header
from udsbus.journal.repair import check, repair
from udsbus.messages import Change, Effect, Writer

from .support import TURNS, WRITERS, answers_to, copy, crash, opened, read, write

Turns = list[list[Effect]]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A journal of three segments, as after two ends of the broker."""
    path = tmp_path / "original"
    for turns in (TURNS[:3], TURNS[3:5], TURNS[5:]):
        write(path, turns)
    return path


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("journal-*.log"))


def is_prefix(some: Turns, whole: Turns) -> bool:
    return some == whole[: len(some)]


def is_subsequence(some: Turns, whole: Turns) -> bool:
    rest = iter(whole)
    return all(any(turn == other for other in rest) for turn in some)


def test_everything_is_found_again(original: Path) -> None:
    assert read(original) == TURNS
    assert not (original / "damaged").exists()


def test_who_wrote_is_found_again(original: Path) -> None:
    turns, journal = opened(original)
    crash(journal)
    writers = [dict(turn.writers) for turn in turns]
    assert writers[0] == {1: WRITERS[1]}
    assert writers[1] == {2: WRITERS[2]}
    assert writers[2] == {}
    assert writers[3] == {1: WRITERS[1]}, "each segment can be read by itself"


def test_answers_are_found_again(original: Path) -> None:
    turns, journal = opened(original)
    crash(journal)
    found = [list(turn.answers) for turn in turns]
    assert found == [answers_to(effects) for effects in TURNS]


def test_a_turn_in_parts_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it without its answers would be carried out again by who asks again."""
    monkeypatch.setattr("udsbus.journal.journal.RECORD_BYTES", 10)
    path = tmp_path / "state"
    parts: list[Effect] = [
        Change(20 + n, "created", f"k/{n}", bytes([1] * 20), None, 1) for n in range(6)
    ]
    write(path, [TURNS[0]])
    _, journal = opened(path)
    begun = journal.position
    journal.append(parts, answers_to(parts), 1.0)
    crash(journal)
    turns, journal = opened(path)
    crash(journal)
    assert [change for turn in turns[1:] for change in turn.changes] == [
        part[:RECORDED] for part in parts
    ]
    assert len(turns) > 4
    assert [len(turn.answers) for turn in turns[1:]] == [0] * (len(turns) - 2) + [6]
    segment = segments(path)[1]
    whole = segment.read_bytes()
    header = begun - check(str(path)).segments[0][1]
    for length in range(header, len(whole)):
        other = copy(path, tmp_path / "copy")
        for later in segments(other)[2:]:
            later.unlink()
        segments(other)[1].write_bytes(whole[:length])
        assert read(other) == [TURNS[0]]
        assert read(other) == [TURNS[0]]


def test_a_journal_goes_on_where_it_was(original: Path) -> None:
    before = check(str(original))
    write(original, [[Change(16, "created", "d", b"\x01", None, 1)]])
    assert read(original)[:-1] == TURNS
    assert check(str(original)).good.revision == 16
    assert len(check(str(original)).segments) == len(before.segments) + 2, "`read` is a start too"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_prefix(original: Path, tmp_path: Path, number: int) -> None:
    """A segment cut off at any byte: of the last one, the tail is torn; of one before, what was
    known to be on the disk is gone."""
    whole = segments(original)[number].read_bytes()
    first_turn = read_header(whole)[1]
    outcomes = set()
    for length in range(len(whole)):
        path = copy(original, tmp_path / "copy")
        segment = segments(path)[number]
        os.truncate(segment, length)
        if number < 2:
            # The segment after begins when all before it is on the disk.
            with pytest.raises(JournalDamaged, match=r"missing|cut off|no segment|no record"):
                read(path)
            assert segment.read_bytes() == whole[:length], "nothing is done unasked"
            outcomes.add("damaged")
            continue
        found = read(path)
        assert is_prefix(found, TURNS)
        assert len(found) == (len(TURNS) - 1)
        assert read(path) == found
        kept = list((path / "damaged").glob("*")) if (path / "damaged").exists() else []
        assert b"".join(one.read_bytes() for one in kept) == (
            whole[first_turn:length] if length >= first_turn else whole[:length]
        )
        outcomes.add("torn" if kept else "clean")
    assert outcomes == ({"damaged"} if number < 2 else {"torn", "clean"})


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_every_flip(tmp_path: Path, clean: bool) -> None:
    """Whatever byte changes: no turn is ever made up, none is lost from the middle in silence."""
    original = tmp_path / "original"
    write(original, TURNS[:3])
    write(original, TURNS[3:], clean=clean)
    reports = {"recovered": 0, "refused": 0}
    for number, segment in enumerate(segments(original)):
        whole = segment.read_bytes()
        for at in range(len(whole)):
            path = copy(original, tmp_path / "copy")
            bad = bytearray(whole)
            bad[at] ^= 0x10 + at % 7
            segments(path)[number].write_bytes(bad)
            try:
                found = read(path)
            except JournalDamaged as error:
                reports["refused"] += 1
                assert segments(path)[number].read_bytes() == bad
                refused_at = Path(error.details["file"]), error.details["offset"]
                assert refused_at[0].parent == path
            else:
                reports["recovered"] += 1
                assert number == 1, "the first segment was on the disk before the second began"
                assert is_prefix(found, TURNS)
                if clean:
                    assert found == TURNS, "what a broker has put on the disk at its end stays"
    assert reports["refused"]
    assert reports["recovered"]


def test_a_mark_of_being_on_the_disk_makes_damage_of_a_torn_tail(tmp_path: Path) -> None:
    """`synced` is the difference between what may be missing and what must not be."""
    for synced in (False, True):
        path = tmp_path / str(synced)
        _, journal = opened(path)
        journal.append(TURNS[0], [], 1.0)
        end = journal.position
        if synced:
            sync = journal.begin_sync()
            sync.run()
            journal.end_sync(sync)
        for effects in TURNS[1:]:
            journal.append(effects, [], 1.0)
        crash(journal)
        with open(segments(path)[0], "r+b") as file:
            file.seek(end - 1)
            file.write(b"\0")
        if synced:
            with pytest.raises(JournalDamaged, match="checksum"):
                read(path)
        else:
            assert read(path) == []


def test_a_torn_tail_is_told_with_its_place(
    original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment = segments(original)[-1]
    offset = read_header(segment.read_bytes())[1]
    os.truncate(segment, os.path.getsize(segment) - 3)
    with caplog.at_level(logging.WARNING, "udsbus"):
        read(original)
    (record,) = caplog.records
    assert f"{segment}, offset {offset}: a record of" in record.getMessage()
    (kept,) = (original / "damaged").iterdir()
    assert str(kept) in record.getMessage()
    assert kept.stat().st_mode & 0o777 == 0o600
    caplog.clear()
    read(original)
    assert not caplog.records


def test_what_is_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for _ in range(3):
        write(path, TURNS[:1])
        segment = segments(path)[0]
        for other in segments(path)[1:]:
            other.unlink()
        os.truncate(segment, os.path.getsize(segment) - 1)
        read(path)
        for one in segments(path):
            one.unlink()
    assert len(list((path / "damaged").iterdir())) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_is_gone(original: Path, number: int) -> None:
    segments(original)[number].unlink()
    with pytest.raises(JournalDamaged, match="bytes of the journal are missing here"):
        read(original)


def test_another_release_s_journal_is_left_alone(original: Path) -> None:
    segment = segments(original)[-1]
    data = segment.read_bytes().replace(b"journal 1\n", b"journal 9\n")
    segment.write_bytes(data)
    with pytest.raises(JournalDamaged, match=r"format version '9'.*start the release"):
        read(original)
    directory = StateDirectory(str(original))
    with pytest.raises(JournalDamaged, match="use the release"):
        repair(directory)
    directory.close()
    assert segment.read_bytes() == data
    assert check(str(original)).fault is not None


# --- repair ----------------------------------------------------------------------------------


def mended(path: Path, *, bridge: bool) -> int:
    directory = StateDirectory(str(path))
    try:
        return len(repair(directory, bridge=bridge))
    finally:
        directory.close()


@pytest.mark.parametrize("bridge", [False, True], ids=["cut", "bridge"])
def test_every_flip_can_be_mended(original: Path, tmp_path: Path, bridge: bool) -> None:
    for number, segment in enumerate(segments(original)):
        whole = segment.read_bytes()
        for at in range(0, len(whole), 3):
            path = copy(original, tmp_path / "copy")
            bad = bytearray(whole)
            bad[at] ^= 0x21
            segments(path)[number].write_bytes(bad)
            report = check(str(path))
            assert report.fault is not None
            if report.fault.foreign:
                continue
            assert mended(path, bridge=bridge) == 1
            found = read(path)
            if bridge:
                assert len(found) >= len(TURNS) - 1, (number, at)
                assert is_subsequence(found, TURNS)
                kept = report.good.changes + report.later.changes
            else:
                assert is_prefix(found, TURNS)
                kept = report.good.changes
            assert sum(map(len, found)) == kept, "as `check` had said"
            assert mended(path, bridge=bridge) == 0
            assert list((path / "damaged").iterdir())


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment_can_be_bridged(original: Path, number: int) -> None:
    segments(original)[number].unlink()
    mended(original, bridge=True)
    assert read(original) == (TURNS[3:] if number == 0 else TURNS[:3] + TURNS[5:])
    turns, journal = opened(original)
    crash(journal)
    assert turns[-1].writers == {} or turns[-1].writers[1].name == "first"


def test_a_bridge_keeps_who_wrote(original: Path) -> None:
    """Also of those who were introduced in front of the damage."""
    segment = segments(original)[1]
    data = bytearray(segment.read_bytes())
    data[read_header(bytes(data))[1] + 20] ^= 1
    segment.write_bytes(data)
    mended(original, bridge=True)
    turns, journal = opened(original)
    crash(journal)
    known: dict[int, Writer] = {}
    for turn in turns:
        known |= turn.writers
    assert known[1].name == "first"


def test_a_mended_journal_goes_on(original: Path) -> None:
    segment = segments(original)[0]
    data = bytearray(segment.read_bytes())
    data[-2] ^= 1
    segment.write_bytes(data)
    mended(original, bridge=True)
    found = read(original)
    write(original, [[Change(20, "created", "z", b"\x01", None, 1)]])
    assert read(original) == [*found, [Change(20, "created", "z", b"\x01", None, 1)]]

"""Journals to take apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from udsbus.journal import FileJournal, JournalTurn, Recovery, StateDirectory, database
from udsbus.messages import Answered, Change, DeadlineMoved, Effect, Recorded, Writer
from udsbus.terms import CREATED, DELETED, UPDATED

WRITERS = {1: Writer(4321, 1000, "first", "session", 3), 2: Writer(4322, 1000, None)}

TURNS: list[list[Effect]] = [
    [Change(11, CREATED, "a", b"\x01", None, 1)],
    [Change(12, CREATED, "b/ü", b"\xa5hello", 5000.5, 2), Change(12, DELETED, "a", None, None, 2)],
    [DeadlineMoved("b/ü", None)],
    [Change(13, UPDATED, "b/ü", b"\xc1udr" * 5, None, 1), DeadlineMoved("b/ü", 7000.0)],
    [Change(14, DELETED, "b/ü", None, None, 0)],
    [Change(15, CREATED, "c", b"\xc4\x40" + bytes(64), None, 1)],
]


def answers_to(effects: list[Effect]) -> list[Answered]:
    """What connections 1 and 2 were told."""
    return [
        Answered(change.origin, 7, b"\x94\x01\x07\xc0\x01")
        for change in effects
        if isinstance(change, Change) and change.origin
    ]


def opened(path: Path, durability: Any = "process") -> tuple[list[JournalTurn], FileJournal]:
    """What a broker would find in a state directory, and the journal that it would go on with."""
    directory = StateDirectory(str(path))
    try:
        with database.opened(str(path)) as db:
            found = None if db is None else database.about(db)
        recovery = Recovery(directory, *(found[:2] if found is not None else ()))
        turns = [turn for _, turn in recovery]
    except BaseException:
        directory.close()
        raise
    journal = FileJournal(
        directory,
        durability,
        segment=recovery.next_segment,
        position=recovery.position,
        bus=recovery.bus or "a bus",
        first_revision=recovery.first_revision or 10,
    )
    journal.writer = WRITERS.get
    return turns, journal


def crash(journal: FileJournal) -> None:
    """What the end of the process does: nothing but closing."""
    import os

    for fd in (*journal._retired, journal._fd):
        if fd >= 0:
            os.close(fd)
    journal._directory.close()


def write(path: Path, turns: list[list[Effect]], *, clean: bool = False) -> None:
    """Append to the journal in a state directory."""
    _, journal = opened(path)
    for effects in turns:
        journal.append(effects, answers_to(effects), 1.0)
    if clean:
        journal.close()
    else:
        crash(journal)


def read(path: Path) -> list[list[Effect]]:
    """The changes of each turn that a broker would find; marks without a change left out."""
    turns, journal = opened(path)
    crash(journal)
    return [
        [Change(*one) if isinstance(one, Recorded) else one for one in turn.changes]
        for turn in turns
        if turn.changes
    ]


def copy(original: Path, to: Path) -> Path:
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(original, to)
    return to

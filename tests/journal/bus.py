"""A state directory with an engine that writes to it, as a broker does; and what to write."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import strategies as st

from udsbus import messages as m
from udsbus.broker.durability import open_state
from udsbus.broker.lanes import Lanes
from udsbus.engine import Engine
from udsbus.errors import Error
from udsbus.journal import FileJournal

from .support import WRITERS, answers_to, crash


def value(of: Any) -> bytes:
    packed: bytes = msgpack.packb(of)
    return packed


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("journal-*.log"))


keys = st.sampled_from(["a", "b", "b/c", "ü"])
deletes = st.builds(m.Delete, keys, st.none(), st.none())
commands = st.one_of(
    st.builds(
        m.Set,
        keys,
        st.sampled_from([value(1), value("x")]),
        st.sampled_from([None, 5e8]),
        st.none(),
        st.booleans(),
        st.booleans(),
        st.none(),
        st.booleans(),
    ),
    deletes,
    st.builds(m.Expire, keys, st.just(6e8)),
    st.builds(m.Persist, keys),
    st.builds(m.SetMany, st.dictionaries(keys, st.just(value(2))), st.none()),
    st.builds(m.Transaction, st.just([]), st.lists(deletes, max_size=3), st.none()),
    st.builds(m.Acquire, keys, st.integers(1, 3), st.just(7), st.booleans(), st.none()),
    st.builds(m.Release, keys, st.integers(1, 3)),
    st.builds(m.Put, keys, st.just(value(3)), st.sampled_from([b"", b"a"])),
    st.builds(m.Take, keys, st.sampled_from([None, 1, 2]), st.booleans(), st.just(0.0)),
    st.builds(m.Done, keys, st.sampled_from([None, 1, 2])),
    st.builds(m.GiveBack, keys, st.integers(1, 2)),
)


class Bus:
    """A state directory with an engine that writes to it, as a broker does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lanes: Lanes
        self.engine: Engine
        self.journal: FileJournal
        self.start()

    def start(self) -> None:
        replica, self.journal = open_state(str(self.path), "process", "bus", 10)
        self.engine, self.lanes = replica.engine, replica.lanes
        self.engine.sessions[1] = "session"
        self.journal.writer = WRITERS.get

    def do(self, *commands: m.EngineCommand, now: float = 1.0) -> None:
        """One turn."""
        for command in commands:
            with contextlib.suppress(Error):
                self.engine.execute(1, command, now)
        effects = self.engine.take_effects()
        if effects:
            self.journal.append(effects, answers_to(effects), now)
        self.engine.settle()

    def restart(self) -> None:
        crash(self.journal)
        self.start()

    def state(self) -> Any:
        return state_of(self.engine)


def state_of(engine: Engine) -> Any:
    """What can be compared."""
    log = engine.log
    logged = log.since(log.forgotten, lambda key: True)
    assert logged is not None
    return (
        engine.revision,
        dict(engine.keyspace.entries),
        dict(engine.owners.sessions),
        dict(engine.locks.tokens),
        {
            name: (list(queue.items.after("")), queue.length, queue.taken, queue.in_hand)
            for name, queue in engine.queues._queues.items()
        },
        engine.keyspace.page("**", None, None, 0.0, sized=False),
        [change[:4] for change in logged],
        log.forgotten,
    )

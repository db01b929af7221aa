"""What several patterns hold, followed together, by whoever also waits for other things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import sleep
from typing import Any, NamedTuple

from ..client.followed import Change
from ..client.following import Watch
from ..client.sync import Client
from ..client.watching import CaughtUp
from ..errors import Error, UnsupportedValue
from ..terms import CREATED, DELETED, GONE, UPDATED
from ..wire.values import encode
from .naming import Held, Watched

LOOK_SECONDS = 0.02
"""How often it is looked whether all patterns are at the same revision again."""

Say = Callable[[str], None]
"""Tells people something."""


class Difference(NamedTuple):
    """What has become of a key between two moments."""

    revision: int
    """That of its value; 0 if it is gone."""
    kind: str
    key: str
    value: Any


class Following:
    """The keys that match, as they are at one revision: all watches of a client are told of what
    happens over one connection, in the order of revisions, and their backlogs are emptied while
    nobody reads it. So no two patterns are ever between the two halves of a transaction.
    """

    def __init__(self, client: Client, patterns: Sequence[str], say: Say) -> None:
        """Reads what is there. Raises like `Client.watch`."""
        self._client = client
        self._say = say
        self._watches = [client.watch(pattern, initial=True) for pattern in patterns]
        self._held: list[dict[str, Held]] = [{} for _ in patterns]
        self.whole = True
        """All patterns are at the same revision. They are not, for a moment, when a lost connection
        is taken up again, for one after the other."""
        for index, watch in enumerate(self._watches):
            while not isinstance(self._next(index, watch, None), CaughtUp):
                if watch.closed:  # refused, or so kicked that it cannot come back
                    break
        self.take()
        while not self.whole:
            sleep(LOOK_SECONDS)
            self.take()

    def ring(self, wake: Callable[[], None]) -> None:
        """Call a function whenever there is something to take; in the thread that reads it."""
        for watch in self._watches:
            watch._on_items = lambda *_: wake()
        wake()  # for what came before that

    def take(self) -> bool:
        """Take all that has come; False: nothing has."""
        came = False
        with self._client._events.standstill():
            for index, watch in enumerate(self._watches):
                while self._next(index, watch, 0) is not None:
                    came = True
            states = {watch.state for watch in self._watches} - {"closed"}
            self.whole = len(states) <= 1 and "listing" not in states
        return came

    @property
    def watched(self) -> Watched:
        """Each pattern, and what it holds now."""
        pairs = zip(self._watches, self._held, strict=True)
        return [(watch.pattern, dict(held)) for watch, held in pairs]

    def close(self) -> None:
        self._client.close()

    def _next(
        self, index: int, watch: Watch[Change | CaughtUp], timeout: float | None
    ) -> Change | CaughtUp | Error | None:
        """Note the next thing that a watch tells of."""
        try:
            told = watch.get(timeout)
            if isinstance(told, Change):
                self._note(self._held[index], told)
            return told
        except UnsupportedValue as error:
            self._say(f"a value of {watch.pattern!r} cannot be read, and is left out: {error}")
            return error
        except Error:  # refused to be taken up again, which the client's log says
            return None

    def _note(self, held: dict[str, Held], change: Change) -> None:
        if change.kind in GONE:
            held.pop(change.key, None)
        else:
            held[change.key] = Held(change.revision, change.value, encode(change.value))


def merged(watched: Watched) -> dict[str, Held]:
    """What all patterns hold; of a key of several, the newest."""
    found: dict[str, Held] = {}
    for _, held in watched:
        for key, one in held.items():
            if key not in found or found[key].revision < one.revision:
                found[key] = one
    return found


def differences(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[Difference]:
    """In the order of keys. A value that was written again is none."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if new is None:
            found.append(Difference(0, DELETED, key, None))
        elif old is None or old.encoded != new.encoded:
            kind = CREATED if old is None else UPDATED
            found.append(Difference(new.revision, kind, key, new.value))
    return found

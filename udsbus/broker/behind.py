"""What a connection is to be told that does not take what it is told.

While it is *behind*, changes are not queued for it as frames, of which there may be any number.
It is noted which keys have changed: of each the newest change, in the order of revisions. What
they hold is looked up when it is sent, so a note costs the same however large the value is. This
is *conflation*. Of messages, which have no newest one, the oldest give way, unless whoever
subscribed would rather lose the connection.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

from ..limits import BEHIND_KEY_BYTES, BEHIND_KEYS, BEHIND_MESSAGE_BYTES, CATCH_UP_BYTES
from ..messages import Change
from ..terms import GONE
from ..wire.encoding import encode_behind, encode_change, encode_part, encode_some

PIECE = 64
"""So many messages, and so many changes, are taken at once; then it is time to look at the clock.
"""
Entries = Mapping[str, tuple[bytes, int, float | None]]
"""Of the keyspace."""


class Behind:
    """Knows no socket and no clock."""

    __slots__ = (
        "_droppable", "_held", "_held_bytes", "_key_bytes", "_next_number", "_notes", "_open",
        "dropped", "left_out", "said", "unwatched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.left_out = 0
        """Changes that have given way to a newer one of the same key, and were not told of yet."""
        self.dropped = 0
        """Messages, likewise."""
        self.said = False
        """The peer knows that it is behind."""
        self.unwatched = False
        """It has ended a watch meanwhile, so what was noted for that is not to be told."""
        self._notes: OrderedDict[str, tuple[int, str, str | None]] = OrderedDict()
        """Key → revision, kind and session of its newest change, the oldest first. An ordered dict:
        a plain one is slow to take from the front."""
        self._key_bytes = 0
        self._open: int | None = None
        """The revision of which it was said that more follows."""
        self._held: OrderedDict[int, tuple[bytes, bool]] = OrderedDict()
        """Messages, whole frames, and whether they may be dropped, in order."""
        self._droppable: deque[int] = deque()
        """Those that may be, in order."""
        self._held_bytes = 0
        self._next_number = 0

    def __bool__(self) -> bool:
        """Whether there is anything left to tell."""
        return bool(self._notes or self._held)

    def note(self, key: str, revision: int, kind: str, session: str | None = None) -> bool:
        """A key has changed. False: there are more than can be noted."""
        if key in self._notes:
            self.left_out += 1
            self._notes.move_to_end(key)
        else:
            self._key_bytes += _size(key)
        self._notes[key] = revision, kind, session
        return len(self._notes) <= BEHIND_KEYS and self._key_bytes <= BEHIND_KEY_BYTES

    def pass_over(self, key: str) -> None:
        """A key has changed in a way that the peer does not want to be told of. If an earlier
        change was noted, that is not its newest any more."""
        if self._notes.pop(key, None) is not None:
            self._key_bytes -= _size(key)
            self.left_out += 1

    def hold(self, frame: bytes, droppable: bool, waited: bool) -> bool:
        """A message has come. `droppable`: it may give way to later ones. `waited`: its publisher
        has made sure that there is room, so it has its place, whatever came in the same turn.
        False: there is no room for it, nor may it be dropped."""
        droppable = droppable and not waited
        number = self._next_number
        self._next_number += 1
        self._held[number] = frame, droppable
        self._held_bytes += len(frame)
        while self._held_bytes > BEHIND_MESSAGE_BYTES and self._droppable:
            oldest, _ = self._held.pop(self._droppable.popleft())
            self._held_bytes -= len(oldest)
            self.dropped += 1
        if droppable:
            self._droppable.append(number)  # only now: one that is too large alone is kept
        fits = self._held_bytes <= BEHIND_MESSAGE_BYTES or len(self._held) == 1
        return fits or droppable or waited

    def take(
        self, entries: Entries, watched: Callable[[str], bool], detail: bool = False
    ) -> list[bytes]:
        """The next frames, some messages and then some changes, until they are enough for a while.

        `entries` are as they are after the last change that was noted. `watched`: whether a key
        still is. `detail`: with the session that made the change; the value before is not known.
        """
        frames: list[bytes] = []
        size = 0
        for _ in range(PIECE):
            if not self._held or size >= CATCH_UP_BYTES / 2:
                break
            frames.append(self._next_message())
            size += len(frames[-1])
        for _ in range(PIECE):
            if not self._notes or size >= CATCH_UP_BYTES:
                break
            change = self._next_change(entries)
            if change is not None and (not self.unwatched or watched(change.key)):
                frames += self._frames(change, detail)
                size += len(frames[-1])
        if not self._notes:
            frames += self.conclude()
        return frames

    def _frames(self, change: Change, detail: bool) -> list[bytes]:
        """A reader must not take a revision for told before all of it has come, for it may have to
        go on from there: so each of several says whether more follow."""
        revision = change.revision
        frames = [] if revision == self._open else self.conclude()
        follows = next(iter(self._notes.values()), None)
        if follows is not None and follows[0] == revision:
            self._open = revision
            frames.append(encode_some(revision, [encode_part(change, detail)], more=True))
        elif self._open is None:
            frames.append(encode_change(change, detail))
        else:
            self._open = None
            frames.append(encode_some(revision, [encode_part(change, detail)], more=False))
        return frames

    def conclude(self) -> list[bytes]:
        """Those of a revision that were to follow have given way to newer ones."""
        opened, self._open = self._open, None
        return [] if opened is None else [encode_some(opened, [], more=False)]

    def say(self, revision: int) -> bytes | None:
        """What tells the peer that it is behind, and what it cost; None: it knows."""
        if self.said and not self.left_out and not self.dropped:
            return None
        frame = encode_behind(revision, self.left_out, self.dropped)
        self.said, self.left_out, self.dropped = True, 0, 0
        return frame

    def _next_message(self) -> bytes:
        _, (frame, droppable) = self._held.popitem(last=False)
        if droppable:
            self._droppable.popleft()
        self._held_bytes -= len(frame)
        return frame

    def _next_change(self, entries: Entries) -> Change | None:
        key, (revision, kind, session) = self._notes.popitem(last=False)
        self._key_bytes -= _size(key)
        value, written, _ = entries.get(key, (None, revision, None))
        if written != revision or (value is None) != (kind in GONE):
            return None  # it has changed since, and this connection did not watch it any more
        return Change(revision, kind, key, value, session=session)


def _size(key: str) -> int:
    return len(key) if key.isascii() else len(key.encode())

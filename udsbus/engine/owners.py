"""Which keys belong to which session: they go when it ends."""

from __future__ import annotations


class Owners:
    __slots__ = ("_keys", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[str, str] = {}
        """Key → the session that it belongs to. Read it freely; write through `give`."""
        self._keys: dict[str, dict[str, None]] = {}
        """Session → its keys, the oldest first."""

    def give(self, key: str, session: str | None) -> str | None:
        """From now on the key belongs to `session`, or to nobody. Returns whose it was."""
        before = self.sessions.get(key)
        if before == session:
            return before
        if before is not None:
            del self.sessions[key]
            keys = self._keys[before]
            del keys[key]
            if not keys:
                del self._keys[before]
        if session is not None:
            self.sessions[key] = session
            self._keys.setdefault(session, {})[key] = None
        return before

    def of(self, session: str) -> dict[str, None]:
        """The keys of a session, the oldest first."""
        return self._keys.get(session, {})

    def owning(self) -> list[str]:
        """The sessions that keys belong to."""
        return list(self._keys)

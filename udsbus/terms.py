"""The words that both sides use: kinds of change, policies, and why connections end.

They stand apart from `messages` because a client needs them and no class of a command: to
make those sixty takes a good part of what a whole `udsbus get` takes.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

# --- what has become of a key -----------------------------------------------------------------

CREATED: Final = "created"
UPDATED: Final = "updated"
DELETED: Final = "deleted"
EXPIRED: Final = "expired"
RELEASED: Final = "released"
"""The session that it belonged to has ended."""
KINDS: Final = (CREATED, UPDATED, DELETED, EXPIRED, RELEASED)
GONE: Final = (DELETED, EXPIRED, RELEASED)
"""The kinds of change after which a key is not there."""

# --- what becomes of messages for one who is behind -------------------------------------------

DROP_OLDEST: Final = "drop_oldest"
DISCONNECT: Final = "disconnect"
BLOCK: Final = "block"
POLICIES: Final = (DROP_OLDEST, DISCONNECT, BLOCK)
"""What becomes of messages when a subscriber is behind: the oldest are dropped; or its connection
ends; or publishers who are ready to wait do so, and others' are dropped like the first."""

# --- why a connection ends --------------------------------------------------------------------


class CloseReason(Enum):
    """Every reason for which the broker ends a connection: in logs, counters and `closing`."""

    PEER_CLOSED = "peer_closed"
    """The other side closed it: the ordinary end."""
    PEER_RESET = "peer_reset"
    """The kernel reported an error on the socket."""
    BAD_BYTES = "bad_bytes"
    """What came in is not MessagePack-RPC."""
    TOO_LARGE = "too_large"
    """A message above `frame_bytes`."""
    WRONG_USER = "wrong_user"
    """The peer runs under another uid than the broker."""
    TOO_MANY = "too_many"
    """The broker has no descriptor left for another connection."""
    KICKED = "kicked"
    """Somebody has ended this client's session."""
    PROCESS_ENDED = "process_ended"
    """The process that opened it is dead, though another holds it open."""
    SLOW_READER = "slow_reader"
    """It is behind, and more was waiting for it than can be kept."""
    SILENT = "silent"
    """Nothing was heard of it for three heartbeats: it is stopped, or it hangs."""
    REPLACED = "replaced"
    """Another connection goes on with its lane."""
    TAKEOVER = "takeover"
    """Another broker process goes on with the bus."""
    SHUTDOWN = "shutdown"
    """The broker is stopping."""

"""Every limit and default of udsbus, written once, with its unit and its reason.

`LIMITS` lists those that a peer can run into; `info` and `hello` report it and docs/limits.md
is checked against it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Limit(NamedTuple):
    """One limit as people read it; the number itself is the module constant of that name."""

    value: int
    unit: str
    reason: str


LIMITS: dict[str, Limit] = {}


def _limit(name: str, value: int, unit: str, reason: str) -> int:
    LIMITS[name] = Limit(value, unit, reason)
    return value


KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- what a request may carry ---------------------------------------------------------------
KEY_BYTES: Final = _limit(
    "key_bytes", 1024, "bytes of UTF-8",
    "keys and topics are names; a longer one is almost always data in the wrong place",
)  # fmt: skip
KEY_SEGMENTS: Final = _limit(
    "key_segments", 32, "segments of a key, topic or pattern",
    "each is a step on the way to those who want a change, and a node to remember them by",
)  # fmt: skip
VALUE_BYTES: Final = _limit(
    "value_bytes", 32 * MIB, "encoded bytes",
    "one value is copied whole at each read; larger data belongs in a file whose path is shared",
)  # fmt: skip
FRAME_BYTES: Final = _limit(
    "frame_bytes", 65 * MIB, "bytes of one message",
    "bounds the bytes that one connection can make the broker hold before a message is complete, "
    "and holds two values of any size: that of a key, and the one before",
)  # fmt: skip
KEYS_PER_REQUEST: Final = _limit(
    "keys_per_request", 100_000, "keys or operations",
    "a request is carried out in one go; more would keep the others waiting",
)  # fmt: skip
REQUESTS_PER_BATCH: Final = _limit(
    "requests_per_batch", 512, "requests",
    "a `batch` is carried out in one go too; this many take about half a millisecond",
)  # fmt: skip
PAGE_KEYS: Final = _limit(
    "page_keys", 1_000, "keys",
    "a page of `keys` or `items` is made within one turn, some hundred microseconds",
)  # fmt: skip
PAGE_SCAN: Final = _limit(
    "page_scan", 2_000, "keys looked at",
    "a pattern that matches little still gives up its turn after this many keys",
)  # fmt: skip
PAGE_BYTES: Final = _limit(
    "page_bytes", 1 * MIB, "bytes of values",
    "a page of `items` ends here even if it has few keys",
)  # fmt: skip
PATTERNS_PER_CONNECTION: Final = _limit(
    "patterns_per_connection", 100_000, "patterns watched and subscribed to",
    "each costs the broker some hundred bytes for each of its segments that no other has",
)  # fmt: skip
WAITS_PER_CONNECTION: Final = _limit(
    "waits_per_connection", 10_000, "locks and the like waited for",
    "each is remembered for as long as it takes",
)  # fmt: skip
LINGER_SECONDS: Final = _limit(
    "linger_seconds", 60, "seconds",
    "so long a lock may stay taken after its holder was kicked, who stops what he does meanwhile",
)  # fmt: skip
ORDER_BYTES: Final = _limit(
    "order_bytes", 128, "bytes", "the order of an item in a queue is a part of its key"
)
NAME_BYTES: Final = _limit(
    "name_bytes", 256, "bytes of UTF-8", "client names are shown in one line of a table"
)
SESSION_BYTES: Final = _limit(
    "session_bytes", 64, "bytes of UTF-8", "a session's name is to be unique, not to be read"
)
METADATA_BYTES: Final = _limit(
    "metadata_bytes", 4 * KIB, "bytes of the encoding", "what a client tells of itself goes to "
    "everybody who looks who is there",
)  # fmt: skip
UNANSWERED_MOST: Final = _limit(
    "unanswered_most", 16_384, "requests",
    "so many answers are kept at most for a lane, in case that they are asked for again",
)  # fmt: skip
ANSWERS_RESTORED: Final = 1_024
"""So many answers of a lane a broker takes over from the one before it."""
SCHEMAS: Final = _limit(
    "schemas", 1_000, "patterns with a schema", "each is compiled when a broker starts"
)
SCHEMA_BYTES: Final = _limit(
    "schema_bytes", 64 * KIB, "encoded bytes",
    "it is compiled within a turn, and again when a broker starts",
)  # fmt: skip
SCHEMA_EXPRESSIONS: Final = _limit(
    "schema_expressions", 100, "regular expressions in a schema",
    "each may take a quarter of a megabyte, and is tried on each text that it is of",
)  # fmt: skip
CHECKED_BYTES: Final = _limit(
    "checked_bytes", 1 * MIB, "encoded bytes",
    "a value that has to match a schema is decoded and checked within a turn",
)  # fmt: skip
NUMBER_BYTES: Final = _limit(
    "number_bytes", 9, "encoded bytes",
    "`increment` counts in 64-bit integers and floats, which is what every client can read",
)  # fmt: skip

# --- what the broker keeps ------------------------------------------------------------------
CHANGE_LOG_CHANGES: Final = _limit(
    "change_log_changes", 16_384, "changes",
    "a watch that reconnects within about this many changes resumes without a gap",
)  # fmt: skip
CHANGE_LOG_BYTES: Final = _limit(
    "change_log_bytes",
    16 * MIB,
    "bytes of keys, values and the values before",
    "bounds the memory of the change log",
)
RESUME_SECONDS: Final = _limit(
    "resume_seconds", 60, "seconds",
    "the answers of a lane without a connection are kept for so long",
)  # fmt: skip
LANES_KEPT: Final = _limit(
    "lanes_kept", 10_000, "lanes without a connection",
    "bounds what clients leave behind that come and go",
)  # fmt: skip
OUTPUT_PAUSE_BYTES: Final = _limit(
    "output_pause_bytes", 1 * MIB, "bytes of replies not taken",
    "a connection with more than this waiting is not read until it has caught up",
)  # fmt: skip
OUTPUT_SOFT_BYTES: Final = _limit(
    "output_soft_bytes", 8 * MIB, "bytes not taken",
    "who has more than this waiting for `output_soft_seconds` does not take what comes as it comes",
)  # fmt: skip
OUTPUT_SOFT_SECONDS: Final = _limit(
    "output_soft_seconds", 10, "seconds", "a burst is taken within this; what takes longer is none"
)
OUTPUT_HARD_BYTES: Final = _limit(
    "output_hard_bytes", 32 * MIB, "bytes not taken",
    "bounds the memory that a connection can take up by not reading, however quickly that grows",
)  # fmt: skip
BEHIND_KEYS: Final = _limit(
    "behind_keys", 65_536, "keys", "of so many keys it is noted that they changed for a "
    "connection that is behind; each takes about 300 bytes",
)  # fmt: skip
BEHIND_KEY_BYTES: Final = _limit(
    "behind_key_bytes", 8 * MIB, "bytes of UTF-8", "and their names take this"
)
BEHIND_MESSAGE_BYTES: Final = _limit(
    "behind_message_bytes", 8 * MIB, "bytes of messages",
    "messages have no newest value that could stand for the others, so some are kept",
)  # fmt: skip

CHANGES_BYTES: Final = VALUE_BYTES
"""Bytes of the changes of one revision that go into one notification; more are split."""

# --- how the turn shares its time (not visible to a peer) -----------------------------------
RECEIVE_BYTES: Final = 96 * KIB
"""Bytes read from one connection in one turn: several hundred small requests, or a value of 64 KiB
with what is around it."""
LARGE_BYTES: Final = RECEIVE_BYTES
"""A value of more comes in several receives, and is not copied more often than it must be."""
LARGE_RECEIVE_BYTES: Final = 512 * KIB
"""Bytes read at once while a large value comes in."""
OUTPUT_LOW_BYTES: Final = 64 * KIB
"""A connection that is behind is told more when no more than this waits for it."""
CATCH_UP_BYTES: Final = 512 * KIB
"""And about so much at once: with that it can still ask, see OUTPUT_PAUSE_BYTES."""
REQUESTS_PER_TURN: Final = 512
"""Requests carried out for one connection in one turn, so that a flood waits for the others."""
SHARE_SECONDS: Final = 0.002
"""Into a turn, a connection that has had 4 requests carried out, or a batch, waits for the next."""
ACCEPTS_PER_TURN: Final = 64
"""Connections accepted in one turn, so that an accept storm does not stop requests."""
EXPIRIES_PER_TURN: Final = 1_000
"""Keys that expire in one turn; the rest follow in the next."""
RELEASES_PER_TURN: Final = 300
"""Keys of sessions that have ended which are removed in one turn; the rest follow in the next."""
GRANTS_PER_TURN: Final = 500
"""Locks given at once to those who waited; the rest follow in the next turn."""
GRACE_SECONDS: Final = 10.0
"""How long a client without any connection, whose process lives, may take to come back."""
HEARTBEAT_SECONDS: Final = 5.0
"""How often a broker tells a client that follows something that it lives, unless
`connect(heartbeat=...)` says otherwise."""
HEARTBEAT_LEAST: Final = 0.05
"""A shorter interval is lengthened to this: a broker that is busy, or a machine, is late by so
much now and then."""
HEARTBEAT_MOST: Final = 60.0
"""A longer one is shortened to this: who hangs shall be found out within minutes."""
BEATS_MISSED: Final = 3
"""So many intervals without a sign of life, and the other side is taken to hang."""
BEATS_PER_TURN: Final = 256
"""Connections told in one turn that the broker lives; the rest follow in the next."""
BEAT_SLACK: Final = 0.02
"""Beats that are due so soon go with those that are due: one wake-up for all of them."""
LISTEN_BACKLOG: Final = 4096
"""Asked of `listen`; the kernel cuts it to net.core.somaxconn."""
VERSION_SLOTS: Final = 65_536
"""Words of the version page that tell of changes; more keys than that share them. Half a MiB, once
for a bus."""
VERSION_RECORDS: Final = 16_384
"""Places of the version page for newest values, of 256 bytes each: 4 MiB."""
CACHE_ENTRIES: Final = 32_768
"""Keys that a client remembers at most."""
CACHE_BYTES: Final = 32 * MIB
"""What it remembers of them takes about so much at most; a value of more than an eighth of that it
does not remember."""
CACHE_OVERHEAD: Final = 300
"""Bytes that a remembered key takes besides its name and its value."""
KEPT_BYTES: Final = 1 * MIB
"""A packer keeps the buffer of the largest object that it has packed, so after a larger one than
this it is replaced."""
SPIN_SECONDS: Final = 50e-6
"""How long the broker polls before it sleeps. Waking it costs about as much."""
DOZE_SECONDS: Final = 0.01
"""How long the broker sleeps in `epoll_wait` itself before it goes back to the event loop, which
takes longer to wake up."""
CHECKPOINT_SECONDS: Final = 0.01
"""At full load the event loop (signals, timers) gets a look-in this often."""
DRAIN_SECONDS: Final = 2.0
"""At shutdown, how long peers have to take the replies that are waiting for them."""

# --- the journal ----------------------------------------------------------------------------
SEGMENT_BYTES: Final = 16 * MIB
"""A segment of the journal is closed, and the next begun, when it is longer than this."""
RECORD_BYTES: Final = 128 * MIB
"""What a turn has changed is written as several records when it is more than this; one change, or
one transaction, is never split."""
SYNC_SECONDS: Final = 1.0
"""With `durability=process`, how long after a write the journal is on the disk, unless the disk is
slower; and how often a journal that could not be written is tried again."""
BEAT_SECONDS: Final = 0.5
"""How often broker and standby tell each other that they live."""
HUNG_SECONDS: Final = 3.0
"""A broker that has said nothing for so long hangs, unless `serve` says otherwise."""
CRASH_SECONDS: Final = 1.0
"""A broker or standby that lived shorter than this has crashed at its start."""
CRASHES_FREE: Final = 5
"""So many crashes in a row are answered at once; each more doubles the wait."""
RESTART_MOST: Final = 30.0
"""Seconds that such a wait grows to."""
HISTORY_SECONDS: Final = 7 * 24 * 3600.0
"""How long the database keeps the history of changes, unless `serve` says otherwise."""
FOLD_SECONDS: Final = 5.0
"""How often a broker without a standby looks whether there is something to fold."""
HISTORY_BYTES: Final = 256 * MIB
"""And how many bytes of values, before and after."""
SNAPSHOTS_KEPT: Final = 7
"""Snapshots on schedule; those that somebody asked for stay."""
HISTORY_CHANGES: Final = 1_000_000
"""And how many changes of it."""

# --- the client -----------------------------------------------------------------------------
REQUEST_TIMEOUT: Final = 10.0
"""Seconds a request may take, unless `connect(timeout=...)` says otherwise."""
REPLY_SPIN_SECONDS: Final = 20e-6
"""How long a client polls for its reply before it sleeps. A broker that is awake answers within
half of it; one that had to be woken takes longer, and perhaps needs this very core."""
CALL_SPIN_SECONDS: Final = 50e-6
"""The same for the answer to a call: as long as it takes to wake a worker that sleeps, and for that
to answer. If it were shorter, both would find again and again that the other is not quick enough to
poll for, since each has to be woken, and would go on to sleep for each call."""
TIMEOUT_MOST: Final = 1e6
"""Seconds (11 days) that any time-out is cut to: the kernel counts in 32 bits of milliseconds."""
RECONNECT_FIRST: Final = 0.01
"""Seconds before the second attempt to reconnect; doubles, with jitter, up to the next."""
RECONNECT_MOST: Final = 1.0
WATCH_BACKLOG: Final = 65_536
"""Changes a watch holds for a consumer that does not take them; then it keeps the newest of each
key until the consumer has caught up, and counts the others as skipped."""
ASYNC_WATCH_BACKLOG: Final = 4_096
"""Changes that an async watch holds before it lets go, and comes back when half of them are taken:
a quarter of what the broker remembers, so that it seldom has to start over."""
SUBSCRIPTION_BACKLOG: Final = 65_536
"""Messages a subscription holds; then the oldest are dropped, and counted."""
START_SECONDS: Final = 10.0
"""How long a broker that we start has until it must answer."""

# --- calls ------------------------------------------------------------------------------------
CALLS_AT_ONCE: Final = 1_024
"""What one worker may carry out at once, at most: each is a byte in a pipe, which holds 4,096."""
PROCESSES_MOST: Final = 1_000
"""Processes of a pool of workers: more are a slip of the pen."""
CALLS_GRACE: Final = 10.0
"""Seconds that calls in hand have when a worker is to end, unless it is told otherwise."""

"""Keys, topics and the patterns that select them.

A key is one or more segments joined by `/`, without `*`. In a pattern the segment `*` stands for
exactly one segment and `**` for any number of them, none included: `a/**` matches `a`, `a/b` and
`a/b/c`.
Names that begin with `$` are the broker's own; as in MQTT, a wildcard in the first place does not
match them, so that `**` means "everything of ours".
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import AccessDenied, InvalidRequest, LimitExceeded
from .limits import KEY_BYTES, KEY_SEGMENTS

RESERVED = "$"
SCHEMA_KEYS = "$sys/schemas/"
"""Below this, the schemas by the patterns that they are of."""
RETAINED_KEYS = "$sys/retained/"
"""Below this, the last messages that were to be retained, by their topics."""
CLIENT_KEYS = "$sys/clients/"
"""Below this, the clients that there are, by their sessions."""
LOCK_KEYS = "$sys/locks/"
"""Below this, who holds which lock: `NAME/SESSION.CLAIM`."""
QUEUE_KEYS = "$sys/queues/"
"""Below this, the items of queues: `NAME/PLACE`."""
TAKEN_KEYS = "$sys/taken/"
"""Below this, items that come back unless they are done: `NAME/SESSION.CLAIM.PLACE`."""
IN_HAND_KEYS = "$sys/in_hand/"
"""Below this, how many other items a client has taken that are not done: `NAME/SESSION`."""
SLOW_KEYS = "$sys/slow/"
"""Below this, the connections that are behind: `SESSION.CONNECTION`."""

SERVICE_KEYS = "$sys/services/"
"""Below this, each service, with a number that is another whenever a worker has come or left."""
WORKER_KEYS = "$sys/workers/"
"""Below this, those that serve: `SERVICE/WORKER`."""


def shown(name: str) -> str:
    """In an error message: never all of a long one."""
    return repr(name) if len(name) < 100 else f"{name[:60]!r}…"


def check_name(name: str, what: str = "key") -> None:
    """Raise InvalidRequest or LimitExceeded unless `name` is a well-formed key or topic."""
    _check_segments(name, what)
    if "*" in name and not name.startswith(SCHEMA_KEYS):
        raise InvalidRequest(
            f"{what} {shown(name)} contains '*', which only patterns do; "
            "here a single name is needed"
        )


def check_writable(key: str, what: str = "key") -> None:
    """Like `check_name`, and raise AccessDenied for the broker's own names."""
    check_name(key, what)
    if key.startswith(RESERVED):
        raise AccessDenied(f"{what} {shown(key)} begins with {RESERVED!r} and is the broker's own")


def check_pattern(pattern: str) -> None:
    """Raise InvalidRequest or LimitExceeded unless `pattern` is well-formed."""
    _check_segments(pattern, "pattern")
    for segment in pattern.split("/"):
        if "*" in segment and segment not in ("*", "**"):
            raise InvalidRequest(
                f"pattern {shown(pattern)}: '*' and '**' stand for whole segments; "
                f"{shown(segment)} is mixed"
            )


def _check_segments(name: str, what: str) -> None:
    if not isinstance(name, str):
        raise InvalidRequest(f"a {what} must be a string, not {type(name).__name__}")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > KEY_BYTES:
        raise LimitExceeded(
            f"{what} of {size} bytes; the limit is {KEY_BYTES}: {shown(name)}",
            limit="key_bytes", maximum=KEY_BYTES, actual=size,
        )  # fmt: skip
    segments = name.count("/") + 1
    if segments > KEY_SEGMENTS:
        raise LimitExceeded(
            f"{what} of {segments} segments; the limit is {KEY_SEGMENTS}: {shown(name)}",
            limit="key_segments", maximum=KEY_SEGMENTS, actual=segments,
        )  # fmt: skip
    if not name:
        raise InvalidRequest(f"the {what} is empty")
    if name[0] == "/" or name[-1] == "/" or "//" in name:
        raise InvalidRequest(
            f"{what} {shown(name)} has an empty segment: something must stand on both sides of "
            "each slash"
        )


def literal_prefix(pattern: str) -> str:
    """The segments before the first wildcard, joined: every match is that key or lies below it."""
    if "*" not in pattern:
        return pattern
    segments = []
    for segment in pattern.split("/"):
        if segment in ("*", "**"):
            break
        segments.append(segment)
    return "/".join(segments)


def matcher(pattern: str) -> Callable[[str], bool]:
    """A test for `pattern`, made once and used for many names. Never backtracks exponentially."""
    if "*" not in pattern:
        return pattern.__eq__
    if pattern == "**":
        return lambda name: not name.startswith(RESERVED)
    prefix = literal_prefix(pattern)
    if prefix and pattern == prefix + "/**":
        below = prefix + "/"
        return lambda name: name.startswith(below) or name == prefix
    if prefix and pattern == prefix + "/*/**":  # what is below it, but not itself
        below = prefix + "/"
        return lambda name: name.startswith(below)
    segments = pattern.split("/")
    return lambda name: _matches(segments, name.split("/"))


def _matches(pattern: list[str], name: list[str]) -> bool:
    """Segment-wise glob matching in O(pattern x name).

    On a mismatch only the last `**` is widened by one segment: an earlier one never needs to be,
    since whatever it could swallow the later one can too.
    """
    if pattern[0] in ("*", "**") and name[0].startswith(RESERVED):
        return False
    p = n = 0
    star = resume = -1
    while n < len(name):
        if p < len(pattern) and pattern[p] == "**":
            star, resume = p, n
            p += 1
        elif p < len(pattern) and (pattern[p] == "*" or pattern[p] == name[n]):
            p += 1
            n += 1
        elif star >= 0:
            resume += 1
            p, n = star + 1, resume
        else:
            return False
    return all(segment == "**" for segment in pattern[p:])

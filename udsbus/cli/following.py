"""What `watch` and `subscribe` share: a line for each thing that comes, until it is time to end."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..client.followed import Change
from ..client.following import Subscription, Watch
from ..client.sync import Client
from ..client.watching import CaughtUp
from ..errors import UnsupportedValue
from ..limits import REQUEST_TIMEOUT
from .options import address
from .outcomes import DONE, TIMED_OUT
from .output import complain, write

LOOK_SECONDS = 1.0
"""How soon it is told that the connection was lost, when nothing comes."""
EVENTS = {
    "started_over": "changes were missed; what is there now follows",
    "interruptions": "the connection was lost; messages may have been missed meanwhile",
}
LOSSES = {
    "skipped": "{} changes have been left out for newer ones of the same keys: output is too slow",
    "dropped": "{} messages have been dropped: output is too slow",
}
"""Attribute of a watch or subscription → what is said when it grows. Losses go on for as long as
the reader is slow, so they are told of only when they have doubled."""


def client_that_tells(seconds: float | None, name: str = "udsbus command") -> Client:
    """A client of the bus that the command's options name, whose log is for people to read."""
    log = logging.getLogger("udsbus.client")
    log.addHandler(_Complaints())
    log.propagate = False
    timeout = min(seconds or REQUEST_TIMEOUT, REQUEST_TIMEOUT)
    return Client(address(), name=name, timeout=timeout)


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def follow(
    start: Callable[[Client], Watch[Any] | Subscription],
    line: Callable[[Any], str],
    *,
    count: int | None,
    seconds: float | None,
    verbose: bool,
) -> int:
    """Write the line of each item of what `start` gives, at once. Returns the exit code.

    Ends after `count` items, not counting that a watch has caught up, after `seconds`, with
    Ctrl-C, and when nobody reads any longer.
    """
    told: dict[str, int] = {}
    came = 0
    try:
        source = start(client_that_tells(seconds))
        until = None if seconds is None else monotonic() + seconds
        unread = _end_with_reader(source)
        if verbose:
            what = (source.pattern,) if isinstance(source, Watch) else source.patterns
            complain(f"following {' '.join(what)} on {address()}; Ctrl-C ends it")
        while count is None or came < count:
            left = LOOK_SECONDS if until is None else max(until - monotonic(), 0)
            try:
                item = source.get(min(left, LOOK_SECONDS))
            except UnsupportedValue as error:
                complain(f"something is left out: {error}")
                continue
            tell_gaps(source, told)
            if item is None:
                if source.refusal is not None:
                    raise source.refusal
                if unread.is_set():
                    raise BrokenPipeError
                if not source.closed and (until is None or left > LOOK_SECONDS):
                    continue
                break
            write(line(item) + "\n", flush=True)
            came += not isinstance(item, CaughtUp)
    except KeyboardInterrupt:
        if count is not None:
            raise
        return DONE
    if came >= (count or 1):
        return DONE
    complain(f"timed out after {seconds:g} s: {came} came" + (f" of {count}" if count else ""))
    return TIMED_OUT


def wait_for(
    key: str, is_it: Callable[[Change | None], bool], seconds: float | None
) -> tuple[int, Change | None]:
    """Wait until `is_it` says so of the newest change of a key, None while it is not there. Returns
    the exit code and that change."""
    client = client_that_tells(seconds)
    until = None if seconds is None else monotonic() + seconds
    with client.watch(key, initial=True) as watch:
        entry = client.entry(key)
        if entry is None and is_it(None):
            return DONE, None
        while True:
            left = LOOK_SECONDS if until is None else max(until - monotonic(), 0)
            change = watch.get(min(left, LOOK_SECONDS))
            if isinstance(change, Change) and is_it(change):
                return DONE, change
            if change is None and until is not None and left <= 0:
                complain(f"timed out after {seconds:g} s")
                return TIMED_OUT, None


def tell_gaps(source: Watch[Any] | Subscription, told: dict[str, int]) -> None:
    """Say what has grown; `told` remembers how far that was said."""
    for name, text in EVENTS.items():
        if getattr(source, name, 0) > told.get(name, 0):
            told[name] = getattr(source, name)
            complain(text)
    for name, text in LOSSES.items():
        number = getattr(source, name, 0)
        if number > 2 * told.get(name, 0):
            told[name] = number
            complain(text.format(number))


def _end_with_reader(source: Watch[Any] | Subscription) -> threading.Event:
    """Close `source`, and say so, when whoever reads our output has gone. Otherwise only the next
    line would find out, which may be never: `udsbus watch … | head -1` would stay."""
    unread = threading.Event()
    if sys.stdout is None:
        return unread
    output = sys.stdout.fileno()
    mode = os.fstat(output).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return unread
    poll = select.poll()
    poll.register(output, 0)  # POLLERR and POLLHUP come unasked

    def wait() -> None:
        poll.poll()
        unread.set()
        source.close()

    threading.Thread(target=wait, daemon=True).start()
    return unread

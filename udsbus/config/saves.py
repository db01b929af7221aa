"""Which files have been saved, whatever a save is: written in place, or renamed over the old one,
or removed and made again, or a link that leads elsewhere now.

The directories are watched and not the files, which may be others after a save. What the system
tells of them is a hint; what counts is what can be seen of the files themselves, so that nothing
is missed where it tells nothing (a watch that has just begun, a directory that was moved away, a
network file system). It needs the extra `config`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from time import sleep

from .reading import missing

TICK_SECONDS = 1.0
"""So often the files are looked at when the system tells nothing."""
QUIET_SECONDS = 0.05
"""A save is over when nothing has happened for so long."""
QUIET_MOST_SECONDS = 1.6
"""But it is not waited longer than this for that."""

Seen = tuple[int, ...] | None
"""What tells one save of a file from the next; None: it is not there."""


def saves(paths: Sequence[str]) -> Generator[set[str], None, None]:
    """The files that were saved together, or are gone: at first all of them, then each time that it
    happens, and about once a second none.

    Raises MissingExtra; KeyboardInterrupt at Ctrl-C.
    """
    try:
        import watchfiles  # noqa: F401  (not only at the second step)
    except ImportError:
        raise missing("--watch", "watchfiles") from None
    seen = {path: _seen(path) for path in paths}
    yield set(paths)
    while True:
        places = _places(paths)
        with closing(_happenings(places)) as happenings:
            for names in happenings:
                now = {path: _seen(path) for path in paths}
                saved = {path for path in paths if now[path] != seen[path]}
                saved |= {path for path in paths if now[path] and names & _names(path)}
                seen = now
                yield saved
                if _places(paths) != places:
                    break


def _happenings(places: dict[str, Seen]) -> Generator[set[str], None, None]:
    """The names in these directories to which something has happened; none about once a second."""
    import watchfiles

    yield set()  # what has happened before
    directories = [place for place, there in places.items() if there]
    if not directories:
        sleep(TICK_SECONDS)
        return
    try:
        for changes in watchfiles.watch(
            *directories,
            watch_filter=None,
            debounce=int(QUIET_MOST_SECONDS * 1000),
            step=int(QUIET_SECONDS * 1000),
            rust_timeout=int(TICK_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
        ):
            yield {path for _, path in changes}
    except FileNotFoundError:  # one of them has just gone
        sleep(TICK_SECONDS)


def _places(paths: Sequence[str]) -> dict[str, Seen]:
    """The directories in which a save can be seen, and which directories these are now."""
    names = {name for path in paths for name in _names(path)}
    places: dict[str, Seen] = {}
    for directory in sorted({os.path.dirname(name) for name in names}):
        try:
            status = os.stat(directory)
            places[directory] = (status.st_dev, status.st_ino)
        except OSError:
            places[directory] = None
    return places


def _names(path: str) -> set[str]:
    """Its own, and that of what a link leads to."""
    return {os.path.abspath(path), os.path.realpath(path)}


def _seen(path: str) -> Seen:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

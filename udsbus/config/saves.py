"""Which files have been saved, whatever a save is: written in place, or renamed over the old one,
or removed and made again, or a link that leads elsewhere now.

The directories are watched and not the files, which may be others after a save. What the system
tells of them is a hint; what counts is what can be seen of the files themselves, so that nothing
is missed where it tells nothing (a watch that has just begun, a directory that was moved away, a
network file system). But a file that is just being written is not looked at before it is closed,
which only `inotify.py` knows; elsewhere the extra `config` is needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

from .inotify import QUIET_MOST_SECONDS, QUIET_SECONDS, Inotify
from .reading import missing

TICK_SECONDS = 1.0
"""So often the files are looked at when the system tells nothing."""

Seen = tuple[int, ...] | None
"""What tells one save of a file from the next; None: it is not there."""


class Saved(NamedTuple):
    files: set[str]
    """Those that were saved together, or are gone."""
    writing: set[str]
    """Those that somebody is just writing, so that nobody should read them yet."""


class Notices(Protocol):
    """What the system tells of directories."""

    @property
    def writing(self) -> set[str]: ...
    def watch(self, directories: Iterable[str]) -> None: ...
    def wait(self, seconds: float) -> set[str]: ...
    def close(self) -> None: ...


class Nothing:
    """It tells nothing: there is no room for another watch."""

    @property
    def writing(self) -> set[str]:
        return set()

    def watch(self, directories: Iterable[str]) -> None:
        pass

    def wait(self, seconds: float) -> set[str]:
        sleep(seconds)
        return set()

    def close(self) -> None:
        pass


class Watchfiles(Nothing):
    """What that package tells, where there is no inotify."""

    def __init__(self) -> None:
        """Raises MissingExtra."""
        try:
            import watchfiles  # noqa: F401
        except ImportError:
            raise missing("--watch", "watchfiles") from None
        self._changes: Iterator[set[tuple[Any, str]]] = iter(())

    def watch(self, directories: Iterable[str]) -> None:
        import watchfiles

        self.close()
        self._changes = watchfiles.watch(
            *directories,
            watch_filter=None,
            debounce=int(QUIET_MOST_SECONDS * 1000),
            step=int(QUIET_SECONDS * 1000),
            rust_timeout=int(TICK_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
        )

    def wait(self, seconds: float) -> set[str]:
        if seconds < TICK_SECONDS:
            return super().wait(seconds)
        with contextlib.suppress(FileNotFoundError, StopIteration):  # one of them has just gone
            return {path for _, path in next(self._changes)}
        return super().wait(seconds)

    def close(self) -> None:
        if isinstance(self._changes, Generator):
            self._changes.close()


def saves(
    paths: Sequence[str], say: Callable[[str], None], notices: Notices | None = None
) -> Generator[Saved, None, None]:
    """What was saved: at first all of the files, then each time that it happens, and about once a
    second nothing. `say`: told once that the system has no room for another watch. `notices`: other
    than those that are the best on this system.

    Raises MissingExtra; KeyboardInterrupt at Ctrl-C.
    """
    if notices is None:
        notices = Nothing() if sys.platform == "linux" else Watchfiles()
    has_said = False
    places: dict[str, Seen] | None = None
    seen = {path: _seen(path) for path in paths}
    yield Saved(set(paths), set())
    try:
        while True:
            before, places = places, _places(paths)
            anew = places != before
            if anew or type(notices) is Nothing:
                try:
                    if type(notices) is Nothing:
                        notices, anew = Inotify(), True
                    notices.watch(place for place, there in places.items() if there)
                except OSError as error:
                    notices.close()
                    notices, anew = Nothing(), before is None
                    if not has_said:
                        has_said = True
                        say(
                            "inotify has no room for another watch "
                            f"({error.strerror or error}): the files are looked at once a second"
                        )
            # What has happened before the watch began is looked for at once.
            names = notices.wait(0 if anew else TICK_SECONDS)
            now = {path: _seen(path) for path in paths}
            names |= notices.wait(0)  # or it may be in the midst of a write that it has changed by
            if any(now[path] != seen[path] and not names & _names(path) for path in paths):
                names |= _until_quiet(notices, now)
            writing = {path for path in paths if now[path] and notices.writing & _names(path)}
            saved = {path for path in paths if now[path] != seen[path]}
            saved |= {path for path in paths if now[path] and names & _names(path)}
            seen |= {path: now[path] for path in paths if path not in writing}
            yield Saved(saved - writing, writing)
    finally:
        notices.close()


def _until_quiet(notices: Notices, now: dict[str, Seen]) -> set[str]:
    """Look at files that have changed until they do not any longer; return what is told of now.
    A change can be seen a moment before it is told of."""
    names: set[str] = set()
    until = monotonic() + QUIET_MOST_SECONDS
    while monotonic() < until:
        before = dict(now)
        names |= notices.wait(QUIET_SECONDS)
        now |= {path: _seen(path) for path in now}
        if now == before:
            break
    return names


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

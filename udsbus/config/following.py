"""`udsbus config push --watch`: the bus follows the files, at every save."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BrokerUnavailable, Error, MissingExtra, RequestTimeout, StorageFailed
from .differences import KeyChange
from .files import Source
from .formats import BlankFile
from .pushing import push
from .saves import saves

if TYPE_CHECKING:
    from ..client.sync import Client

AGAIN = (BrokerUnavailable, RequestTimeout, StorageFailed)
"""What is over some time, without a save."""


class Told(NamedTuple):
    """What has become of a save."""

    changes: list[KeyChange]
    """What was written; nothing if the bus held it already."""
    failure: str | None = None
    """Why nothing was written, and what happens next."""


class Follower:
    """Files that are pushed when they are saved.

    Those that were saved and could not be pushed stay due, and go with the next save: so what was
    saved together is pushed together, and one that is broken holds up what was saved with it. One
    that is just being written is left alone until it is closed, and holds up nothing.
    """

    def __init__(self, client: Client, files: Sequence[Source], say: Callable[[str], None]) -> None:
        """`say` tells people something."""
        self._client = client
        self._say = say
        self._files = {file.path: file for file in files}
        self._due = set(self._files)
        self._fails = False
        """There is no broker, say: the next attempt is made without a save."""
        self._has_begun = False
        self._watches = [client.on_change(f"{file.key}/**", lambda change: None) for file in files]
        """They tell whether the bus is another one."""
        self._started_over = 0

    def follow(self) -> Iterator[Told]:
        """Push all of them, and then what is saved, until Ctrl-C.

        Raises MissingExtra, and BrokerUnavailable if there is no broker at the beginning.
        """
        for saved, writing in saves(list(self._files), self._say):
            again = self._fails
            try:
                self._due |= saved
                saved |= self._lost()
                self._due |= saved
                if (saved or again) and (told := self._attempt(writing)) is not None:
                    yield told
            except AGAIN as error:
                if isinstance(error, BrokerUnavailable) and not self._has_begun:
                    raise
                self._fails = True
                if saved or not again:
                    yield Told([], f"{error}; it is tried again")
            except MissingExtra:
                raise
            except Error as error:
                self._fails = False
                yield Told([], f"{error}; nothing was pushed, and what was there stays")
            self._has_begun = True

    def _attempt(self, writing: set[str]) -> Told | None:
        """Push what is due, but for those that somebody is writing. None: nobody needs to know."""
        due = self._due - writing
        if not due:
            return None
        left, files = [], []
        values: dict[str, Any] = {}
        for file in self._files.values():
            if file.path not in due:
                continue
            if not os.path.exists(file.path):
                left.append(f"{file.path} is gone")
                continue
            try:
                values |= file.values(unless_blank=True)
                files.append(file)
            except BlankFile as blank:
                left.append(str(blank))
        changes = push(self._client, files, values)
        tells = bool(changes) or self._fails or not self._has_begun
        self._fails = False
        self._due -= due
        failure = f"{', '.join(left)}; what was there stays" if left else None
        return Told(changes, failure) if tells or failure else None

    def _lost(self) -> set[str]:
        """The files whose keys are not in the bus, if it is another one than before."""
        started_over = sum(watch.started_over for watch in self._watches)
        if started_over == self._started_over:
            return set()
        lost = {path for path, file in self._files.items() if not self._client.count(file.pattern)}
        self._started_over = started_over
        return lost

"""What a client remembers of keys, and how it sees without asking that it is still so.

A key is remembered with a word of the broker's version page and what that said when the broker
answered. While it says the same, and the word for the broker's life does, the value is the truth
(broker/versionpage.py says why). In this order: a broker that lives now lived when the first was
compared. If the word says something else, the newest value may stand in the page too (records.py).

What is remembered belongs to one page. Another broker has another page, and then all begins anew
with another `Cache`; so nobody can compare what one broker has said with the page of another.

It is bounded by generations: when the newer one is full it becomes the older one, and what was the
older one is forgotten; what is used of it comes into the newer one. That keeps what was used last,
like a list in order of use would, without any work when the same keys are read again and again (it
is the hashlru of Dominic Tarr, and CLOCK with whole generations).

Threads share it without a lock. Each step on a dict is whole, and what two of them do at once can
only have something forgotten, or counted not quite right.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from ..limits import CACHE_BYTES, CACHE_ENTRIES, CACHE_OVERHEAD
from ..records import RECORD_BYTES, read_record
from ..wire.values import decode
from . import requests
from .requests import Call, Entry

log = logging.getLogger("udsbus.client")


SCALARS = frozenset((str, bytes, int, float, bool, type(None)))
CONTAINERS = frozenset((dict, list, set))
SMALL = 64
"""Bytes of a tuple, a datetime and the like that is kept as it is, and not only its bytes."""

Broker = tuple[str, int, int]
"""The bus, the epoch and the pid of a broker: no two that live at once have the same."""


def who_greets(greeting: dict[str, Any]) -> Broker:
    """Which broker has answered `hello`."""
    return greeting["bus"], greeting["epoch"], greeting.get("pid", 0)


class CacheInfo(NamedTuple):
    """What a client's cache has done, and holds now."""

    hits: int
    """Keys that were read without asking, and revisions."""
    misses: int
    """Keys that had to be asked for, though there is a page: they were new, or had changed, or
    `fresh` was wished."""
    entries: int
    """Keys that are remembered, absent ones among them."""
    bytes: int
    """About how much memory they take."""
    active: bool
    """The broker has a version page; without one, each read asks."""


class Remembered(NamedTuple):
    """One key."""

    word: int
    """The word of the page that is compared."""
    number: int
    """What it must say."""
    data: bytes | None
    """The encoded value; None: there is none, or it was not asked for."""
    revision: int
    """0: the key is absent."""
    deadline: float | None
    """On this process's clock."""
    size: int
    """About how many bytes it takes, here."""

    def decoded(self, default: Any = None) -> Any:
        """The value, made anew each time, so that nobody changes what is remembered."""
        return default if self.data is None else decode(self.data)

    def entry(self) -> Entry | None:
        if not self.revision:
            return None
        left = None if self.deadline is None else max(0.0, self.deadline - monotonic())
        return Entry(self.decoded(), self.revision, left)


_new: Any = tuple.__new__
"""Makes a named tuple without its Python-level `__new__`, in half the time."""


def _remembered(
    key: str, word: int, number: int, data: bytes | None, revision: int, deadline: float | None
) -> Remembered:
    size = CACHE_OVERHEAD + 2 * len(key)
    if data is not None:
        size += 2 * len(data)
    found: Remembered = _new(Remembered, (word, number, data, revision, deadline, size))
    return found


class Looked(NamedTuple):
    """Several keys that were looked for."""

    values: dict[str, Any]
    """Of those that are known, and there."""
    compared: list[Any]
    """Of all that are known, whether they are there or not: `Remembered`, or the first two of its
    fields and the value."""
    missing: list[str]
    """The others."""


class Page:
    """A version page, mapped for reading."""

    __slots__ = ("_first", "_memory", "_records", "_records_at", "alive", "life", "words")

    def __init__(self, descriptor: int, about: dict[str, Any]) -> None:
        """`about` is what the broker says of it.

        Raises OSError, ValueError, TypeError or KeyError for a file that could be cut short under
        us, or is too short, and for what nobody would say of a page.
        """
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError("it is not sealed")
        self._memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self.words: Sequence[int] = memoryview(self._memory).cast("Q")
        self.life, self.alive = about["life"]
        """The word that changes when the broker ends, and what it says until then."""
        self._first, words = about["words"]
        self._records_at, self._records = about["records"]
        end = max(8 * (self._first + words), self._records_at + self._records * RECORD_BYTES)
        numbers = self.life, self._first, words, self._records_at, self._records
        if any(type(each) is not int or each < 0 for each in numbers) or not self._records:
            raise ValueError(f"it is said to be {about}")
        if max(end, 8 * self.life + 8) > len(self._memory):
            raise ValueError(f"it has {len(self._memory)} bytes")

    def record(self, word: int, key: str) -> tuple[int, bytes | None, int] | None:
        """What the word of `key` says, and the value and revision that are noted for that."""
        number = self.words[word]
        at = self._records_at + (word - self._first) % self._records * RECORD_BYTES
        noted = read_record(self._memory, at, number, key.encode())
        if noted is None or self.words[self.life] != self.alive:
            return None
        return number, *noted


class _NoPage(Page):
    """Says of each broker that it is dead."""

    def __init__(self) -> None:
        self.words = (0, 1)  # and that it pays to poll for answers
        self.life, self.alive = 0, 1

    def record(self, word: int, key: str) -> None:
        return None


NO_PAGE: Page = _NoPage()


def mapped(about: Any, descriptors: list[int]) -> Page:
    """The page that came with the answer to `hello`, or none; closes the descriptors."""
    if about is None:
        for descriptor in descriptors:
            os.close(descriptor)
        return NO_PAGE
    try:
        if not descriptors:
            raise ValueError("its descriptor did not come; this process may have no room for more")
        return Page(descriptors[0], about)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = str(error)  # for the error holds what was mapped
        log.warning("each read asks the broker: its version page cannot be used: %s", why)
        return NO_PAGE
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


class Cache:
    """What is remembered of one page. `Client.get` reads `constants` and `words` by itself: it has
    no time for a call."""

    __slots__ = (
        "_bytes", "_older", "_older_bytes", "_page", "_recent", "alive", "broker", "constants",
        "hits", "life", "misses", "words",
    )  # fmt: skip

    def __init__(
        self, page: Page, before: Cache | None = None, broker: Broker | None = None
    ) -> None:
        """`before` is what there was before it, which counts on; `broker` whose page it is."""
        self._page = page
        self.broker = broker
        self.words = page.words
        self.life = page.life
        self.alive = page.alive
        self._recent: dict[str, Remembered] = {}
        """The newer generation."""
        self.constants: dict[str, tuple[int, int, Any]] = {}
        """(word, number, value) of those in it that need nothing but to be compared: nobody can
        change the value, so it can be shared, and it has no deadline."""
        self._older: dict[str, Remembered] = {}
        self._bytes = self._older_bytes = 0
        """What each of them takes."""
        self.hits: int = 0 if before is None else before.hits
        self.misses: int = 0 if before is None else before.misses

    def emptied(self) -> Cache:
        """Another of the same page."""
        return Cache(self._page, self, self.broker)

    @property
    def active(self) -> bool:
        """The broker of this page lives."""
        return bool(self.words[self.life] == self.alive)

    def revision(self) -> int | None:
        """That of the bus; None: it has to be asked for."""
        revision = self.words[0]
        if not self.active:
            return None
        self.hits += 1
        return revision

    def info(self) -> CacheInfo:
        entries = len(self._recent.keys() | self._older.keys())
        return CacheInfo(
            self.hits, self.misses, entries, self._bytes + self._older_bytes, self.active
        )

    # --- what is remembered -------------------------------------------------------------------

    def look(self, key: str, *, for_value: bool = True) -> Remembered | None:
        """What is known of `key`, if that is still so; and its value, if that is wanted."""
        try:
            found = self._recent.get(key) or self._refreshed(key)
        except TypeError:  # it is no text, as the broker will say
            return None
        if found is not None and not self.holds(found):
            found = self._renewed(key, found.word)
        if found is None or (for_value and found.data is None and found.revision):
            return None
        self.hits += 1
        return found

    def _renewed(self, key: str, word: int) -> Remembered | None:
        """What it is now, if the page has it."""
        record = self._page.record(word, key)
        if record is None:
            return None
        number, data, revision = record
        found = _remembered(key, word, number, data, revision, None)
        self._keep(key, found)
        return found

    def note(self, key: str, found: Remembered, value: Any) -> None:
        """What the value of `key` is: if nobody can change it, it needs not be decoded again."""
        word, number, data, _, deadline, _ = found
        if data is None or deadline is not None:
            return
        # What is made of many parts takes much more memory than its bytes.
        if type(value) in SCALARS or (len(data) <= SMALL and _is_constant(value)):
            self.constants[key] = word, number, value

    def look_for(self, keys: list[str]) -> Looked:
        """What is known of several keys, and which have to be asked for."""
        values: dict[str, Any] = {}
        compared: list[tuple[Any, ...]] = []
        if len(keys) > CACHE_ENTRIES // 2:  # it would forget them at once
            return Looked(values, compared, keys)
        missing: list[str] = []
        words, constants, hits = self.words, self.constants, 0
        for key in keys:
            constant = constants.get(key) if type(key) is str else None
            if constant is not None and words[constant[0]] == constant[1]:
                values[key] = constant[2]
                compared.append(constant)
                hits += 1
                continue
            found = self.look(key)
            if found is None:
                missing.append(key)
                continue
            compared.append(found)
            if found.revision:
                values[key] = value = found.decoded()
                self.note(key, found, value)
        self.hits += hits
        return Looked(values, compared, missing)

    def still_so(self, looked: Looked) -> bool:
        """Whether all that was known is so still: then it was all so at one moment, when the last
        of it had been looked at."""
        words = self.words
        for each in looked.compared:
            if words[each[0]] != each[1] or (len(each) > 3 and not self.holds(each)):
                return False
        return self.active

    def holds(self, found: Remembered) -> bool:
        """Whether it is still so."""
        word, number, _, _, deadline, _ = found
        same: bool = self.words[word] == number and self.words[self.life] == self.alive
        return same and (deadline is None or monotonic() < deadline)

    def _refreshed(self, key: str) -> Remembered | None:
        """What the older generation knows; it was used, so it comes into the newer one."""
        found = self._older.pop(key, None)
        if found is not None:
            self._older_bytes -= found.size
            self._keep(key, found)
        return found

    def _keep(self, key: str, found: Remembered) -> None:
        recent, size = self._recent, found[5]
        before = recent.get(key)
        if before is not None:
            self._bytes -= before[5]
            self.constants.pop(key, None)
        elif len(recent) >= CACHE_ENTRIES // 2:
            self._begin_another()
        if self._bytes + size > CACHE_BYTES // 2:
            self._begin_another()
        self._recent[key] = found
        self._bytes += size

    def _begin_another(self) -> None:
        """Another generation."""
        self._older, self._older_bytes = self._recent, self._bytes
        self._recent, self.constants, self._bytes = {}, {}, 0

    def _remember(self, key: str, answer: Sequence[Any], asked: float) -> tuple[int, Any]:
        """The revision and the value that the broker has answered to `read`, when it was asked at
        that time."""
        word, number = answer[:2]
        if len(answer) == 2:
            found = _remembered(key, word, number, None, 0, None)
            value = None
        else:
            data, revision = answer[2:4]
            value = None if data is None else decode(data)
            deadline = asked + answer[4] if len(answer) > 4 else None
            found = _remembered(key, word, number, data, revision, deadline)
        known = type(word) is int and 0 <= word < len(self.words)
        if known and found.size <= CACHE_BYTES // 8:
            self._keep(key, found)
            self.note(key, found, value)
        return found.revision, value

    # --- what to ask --------------------------------------------------------------------------

    def get(self, key: str, default: Any) -> Call[Any]:
        """Ask for a value, and remember it."""
        if not self.active:
            return requests.get(key, default)
        asked = monotonic()
        self.misses += 1

        def read(answer: Any) -> Any:
            revision, value = self._remember(key, answer, asked)
            return value if revision else default

        return Call("read", (key,), read)

    def entry(self, key: str) -> Call[Entry | None]:
        """Ask for an entry, and remember it."""
        if not self.active:
            return requests.entry(key)
        asked = monotonic()
        self.misses += 1

        def read(answer: Any) -> Entry | None:
            revision, value = self._remember(key, answer, asked)
            return Entry(value, revision, *answer[4:] or (None,)) if revision else None

        return Call("read", (key,), read)

    def exists(self, key: str) -> Call[bool]:
        """Ask whether a key is there, but not for its value, and remember that."""
        if not self.active:
            return requests.exists(key)
        asked = monotonic()
        self.misses += 1

        def read(answer: Any) -> bool:
            before = self._recent.get(key)
            if before is None or list(before[:2]) != answer[:2]:  # else its value is known too
                self._remember(key, answer, asked)
            return len(answer) > 2

        return Call("read", (key, {"bare": True}), read)

    def get_many(self, keys: list[str]) -> Call[dict[str, Any]]:
        """Ask for several values, all at one revision, and remember them."""
        if not self.active or len(keys) > CACHE_ENTRIES // 2:  # it would forget them at once
            return requests.get_many(keys)
        asked = monotonic()
        self.misses += len(keys)

        def read(answers: Any) -> dict[str, Any]:
            values: dict[str, Any] = {}
            for key, answer in zip(keys, answers, strict=True):
                revision, value = self._remember(key, answer, asked)
                if revision:
                    values[key] = value
            return values

        return Call("read_many", (keys,), read)


def _is_constant(value: Any) -> bool:
    """Whether nobody can change it: of what `decode` makes, that is what can be hashed."""
    if type(value) in CONTAINERS:  # quicker than to find it out
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True

"""The version page: memory of the broker that its clients map, and see by it whether what they
remember is still so. One comparison in the place of a request.

It is an array of 64-bit words: a few for the broker itself, then VERSION_SLOTS of them for the
keys, each of which many keys may share. A key's word counts its changes. `read` tells a client the
value of a key together with its word and what that says *now*. As long as it says the same, and the
broker lives, the value is what the broker would answer.

**Why that is the truth** (linearizable, Herlihy and Wing 1990). The broker is one thread. A turn
carries out requests, then bumps the words of all keys that it has changed (`expose`), and only then
sends anything: replies, events, answers to other clients' reads. So whoever knows of a change, from
whomever, knows it after the bumps. Let all changes of a turn count as happening at the last of its
bumps.

- A read from memory compares the word and finds what `read` has told. Then no change of the key was
  bumped between the turn of that `read` and the comparison: the value is that of the moment in
  which it was compared. A change that was carried out before the `read` in the same turn, or after
  it, bumps the word at the end of that turn: then the client asks once more than it needs to, and
  is never wrong.
- A read that asks is answered after the bumps of its turn. So nobody sees a change by asking, and
  then its absence by comparing.
- The bumps of a transaction are not one step. But who finds one of them asks, and is answered after
  the last; and `get_many` compares each word twice, the second time after it has compared all of
  them once: all were as remembered at the moment between.
- The deadline of a key with a time to live travels too, counted from before the request was sent,
  so it is never later than the broker's.

**The end of a broker.** Its successor writes to a page of its own, so this one must be known to be
dead before the successor accepts a write. Nobody who was killed can say so; the kernel does. One
word of the page is a robust lock (`pthread_mutexattr_setrobust`, the kernel's robust futexes),
which the thread of the turn holds for life: when it ends, the kernel marks that word, before it
closes any descriptor of the process, so before the locks on address and state are free, and before
a pidfd or a socket tells of the death. A broker that ends in order unlocks it first. The reader
compares the word of the key first and this one after it: if the broker lived then, it did when the
first was compared. A broker that is stopped or hangs changes nothing, so its page is true for as
long as it lives. One case is known in which the mark may fail: a kernel before 5.18 that is out of
memory may take the memory of a killed process before it has looked for its locks. So a client also
looks at its connection now and then (`Session._give_way`).

**Order of memory.** The bump and what is sent after it are a store and a system call; receiving is
a system call and the comparison a load. The locks of the socket's queue order them, on x86 and on
ARM alike, and so does whatever else can tell one process what another has seen. The two loads of a
reader might change places on ARM, but no core puts a load off for the milliseconds that a takeover
takes. A word that is torn (it is not: it is aligned) would differ from the one before in each byte
that is new, so it would not be taken for it.

**Records.** A key that others write all the time is read from memory too. When a client has asked
for a key, its next changes are written into the page whole, if they are small: a record at a place
that belongs to its word, with the number that the word says (records.py). A client that finds the
word changed looks there first. A record of its key and of this number is the newest value, for
nothing has come after it; otherwise (the place is shared, too) the client asks. All words of a turn
are bumped before the first record is written: who has seen a new value in a record can take no
older one of another key for true, so a transaction is seen whole.

**No file.** The page is a memfd, handed over with the answer to `hello`. A file beside the socket
could be truncated by mistake, which kills each process that has it mapped, or removed, so that old
clients look at one and the new broker writes another. The memfd is sealed: it neither shrinks nor
grows, and nobody can map it for writing any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from ..engine.keyspace import Entry
from ..engine.rules import check_reply
from ..limits import REPLY_SPIN_SECONDS, VERSION_RECORDS, VERSION_SLOTS
from ..messages import Change, Command, DeadlineMoved, Effect, Read, ReadMany
from ..patterns import check_name
from ..records import ORDERED, RECORD_BYTES, ROOM, fence, write_record

log = logging.getLogger("udsbus.broker")

REVISION = 0
"""The word that holds the revision of the bus."""
ADVICE = 1
"""The word that says for how many nanoseconds a client should poll for its answer; 0: it should
sleep at once."""
LOCK_AT = 64
"""Where the lock is, in bytes."""
LOCK_BYTES = 64
"""Room for it: it has 40 bytes on x86-64, 48 on ARM."""
MASK = VERSION_SLOTS - 1
"""Which of the words is a key's; their number is a power of two."""
FIRST = RECORD_BYTES // 8
"""The first word of keys: there are so many that the records behind them are aligned."""
RECORDS_AT = 8 * (FIRST + VERSION_SLOTS)
"""Where the records begin, in bytes."""
BYTES = RECORDS_AT + VERSION_RECORDS * RECORD_BYTES
F_SEAL_FUTURE_WRITE = 0x10
"""Since Linux 5.1; Python has no name for it before 3.13."""
PROCESS_SHARED = ROBUST = 1
ADVISED_NANOSECONDS = round(REPLY_SPIN_SECONDS * 1e9)

NOWHERE = -1
"""The word of a key where there is no page."""
RECORDS_AHEAD = 256
"""After somebody has asked for a key, so many changes of it get a record. To write one costs less
than a tenth of a request, and nobody tells when he reads it."""


class VersionPage:
    """The broker's side. To be made, and retired, by the thread that serves."""

    def __init__(self, revision: int) -> None:
        """Raises OSError if the system has not what it takes."""
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd")
        fd = os.memfd_create("udsbus versions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, BYTES)  # now: later it would kill who touches it
            self._memory = mmap.mmap(fd, BYTES)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            with contextlib.suppress(OSError):  # an older kernel; then all of it could be written
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            self.words = memoryview(self._memory).cast("Q")
            self._unlock, self._let_go = _hold_robust_lock(self._memory)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.words[REVISION] = revision
        self.advise_polling(True)
        # The first 32 bits with the number of the thread are those that the kernel knows of.
        halves = memoryview(self._memory).cast("I")
        of_lock = range(LOCK_AT // 4, (LOCK_AT + LOCK_BYTES) // 4)
        thread = threading.get_native_id()
        self.life = next(at for at in of_lock if halves[at] == thread) // 2
        """The word that changes when this broker ends."""
        self.alive = self.words[self.life]
        """What it is until then."""
        self._read: dict[str, int] = {}
        """Keys that clients have asked for → how many changes more get a record."""

    def about(self) -> dict[str, tuple[int, int]]:
        """What a client must know of it."""
        return {
            "life": (self.life, self.alive),
            "words": (FIRST, VERSION_SLOTS),
            "records": (RECORDS_AT, VERSION_RECORDS),
        }

    def advise_polling(self, pays: bool) -> None:
        """Tell clients whether it pays to poll for an answer."""
        self.words[ADVICE] = ADVISED_NANOSECONDS if pays else 0

    def wanted(self, keys: Iterable[str]) -> None:
        """A client has asked for them, and may want to see from memory what comes next."""
        self._read.update(dict.fromkeys(keys, RECORDS_AHEAD))
        if len(self._read) > VERSION_RECORDS:
            self._read.clear()  # who still wants them asks again

    def expose(self, effects: list[Effect], revision: int) -> None:
        """What has changed is in the journal, and nothing of it was sent yet."""
        words, read = self.words, self._read
        newest: dict[str, Change] = {}
        for effect in effects:
            if type(effect) is Change:
                key = effect[2]  # by `word_of`, and by name, it would take twice as long
                words[FIRST + (hash(key) & MASK)] += 1
                if key in read:
                    newest[key] = effect
            elif type(effect) is DeadlineMoved:
                words[word_of(effect.key)] += 1
                newest.pop(effect.key, None)
        if not ORDERED:
            fence()
        words[REVISION] = revision
        if newest:
            for change in newest.values():
                self._record(change)

    def _record(self, change: Change) -> None:
        """Write what a key is now for those who have asked for it."""
        key, value = change.key, change.value
        left = self._read.pop(key) - 1
        name = key.encode()
        if change.deadline is None and len(name) + len(value or b"") <= ROOM:
            word = word_of(key)
            at = RECORDS_AT + (word - FIRST) % VERSION_RECORDS * RECORD_BYTES
            write_record(self._memory, at, self.words[word], name, value, change.revision)
            if left:
                self._read[key] = left

    def retire(self) -> None:
        """Nothing that clients remember is true any more."""
        self._unlock()

    def close(self) -> None:
        """After `retire`, when no `hello` can be on its way out that hands the descriptor over."""
        os.close(self.fd)
        self._let_go()


def version_page(revision: int) -> VersionPage | None:
    """A new one; None where the system has not what it takes: then clients ask for each read."""
    try:
        return VersionPage(revision)
    except OSError as error:
        why = str(error)  # for the error holds what was mapped
        log.warning("there is no version page, so clients ask for each read: %s", why)
        return None


class VersionedReads:
    """Carries out `Read` and `ReadMany`."""

    def __init__(self, entries: Mapping[str, Entry], page: VersionPage | None) -> None:
        """`entries` are those of the engine. Without a page, each word is told to be NOWHERE."""
        self._entries = entries
        self._words = memoryview(bytes(8)).cast("Q") if page is None else page.words
        self._page = page
        self.handlers: dict[type[Command], Callable[..., Any]] = {
            Read: self._read,
            ReadMany: self._read_many,
        }

    def _read(self, number: int, now: float, key: str, bare: bool = False) -> tuple[Any, ...]:
        if self._page is not None:
            self._page.wanted((key,))
        return self._found(key, now, bare)

    def _read_many(self, number: int, now: float, keys: list[str]) -> list[tuple[Any, ...]]:
        if self._page is not None:
            self._page.wanted(keys)
        found = [self._found(key, now) for key in keys]
        check_reply([each[2] for each in found if len(each) > 2])
        return found

    def _found(self, key: str, now: float, bare: bool = False) -> tuple[Any, ...]:
        word = NOWHERE if self._page is None else word_of(key)
        says = self._words[word]
        entry = self._entries.get(key)
        if entry is None:
            check_name(key)
            return word, says
        revision, deadline = entry[1], entry[2]
        value = None if bare else entry[0]
        if deadline is None:
            return word, says, value, revision
        if deadline <= now:
            return word, says
        # The turn may have begun before this was asked, and the client counts from when it asked.
        return word, says, value, revision, max(0.0, deadline - monotonic())


def word_of(key: str) -> int:
    """The word that tells of the changes of a key."""
    return FIRST + (hash(key) & MASK)


Step = Callable[[], object]


def _hold_robust_lock(memory: mmap.mmap) -> tuple[Step, Step]:
    """Let this thread hold a lock of the C library's in its place of `memory`. Returns what unlocks
    it, and what lets `memory` go after that."""
    import ctypes  # for this alone

    library = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_char * LOCK_BYTES)()
    lock = (ctypes.c_char * LOCK_BYTES).from_buffer(memory, LOCK_AT)
    try:
        failed = (
            library.pthread_mutexattr_init(attributes)
            or library.pthread_mutexattr_setpshared(attributes, PROCESS_SHARED)
            or library.pthread_mutexattr_setrobust(attributes, ROBUST)
            or library.pthread_mutex_init(lock, attributes)
            or library.pthread_mutex_lock(lock)
        )
    except AttributeError as error:
        raise OSError(f"this system has no robust locks: {error}") from None
    if failed:
        raise OSError(failed, os.strerror(failed))
    # It must stay also when an interpreter that ends lets go of all it has: the kernel could not
    # mark a word in memory that is not there any more.
    held = ctypes.py_object(memory)
    ctypes.pythonapi.Py_IncRef(held)
    return partial(library.pthread_mutex_unlock, lock), partial(ctypes.pythonapi.Py_DecRef, held)

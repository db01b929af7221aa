"""The pair: a broker and its standby, which guard each other.

The standby is a process that the broker starts. It inherits the listening socket and the locks, so
none of them ever goes: clients that connect while a broker dies wait in the listen queue. It reads
the journal behind the broker, so that it has the state ready, lets closed segments be folded, and
watches:

- the *link*, a socket between the two. Its end means that the other is dead, at once. Each sends a
  beat now and then; without one for some seconds the other hangs, stopped processes too.
- When the broker is dead or hangs, the standby kills it by its pidfd, which nobody else's process
  can be meant by, waits until it is gone, reads the journal's last moment, and then serves in its
  place, with a new standby. What the broker acknowledged is in the journal.
- When the standby is dead or hangs, the broker starts another. No client notices.

A broker that stops on purpose ends its standby first. One that hands over (`udsbus takeover`)
starts a new standby, from the program as it is now on the disk, and then ends for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from typing import NamedTuple

import anyio
import anyio.abc

from ..bursts import PAUSE_SECONDS
from ..errors import Error
from ..interpreter import environment
from ..journal.folding import Retention
from ..limits import (
    BEAT_SECONDS,
    CRASH_SECONDS,
    CRASHES_FREE,
    DRAIN_SECONDS,
    RESTART_MOST,
    START_SECONDS,
)
from .folder import AGAIN_SECONDS, Folder
from .replica import Replica

log = logging.getLogger("udsbus.broker")

BEAT = b"."
READY = b"r"
"""The standby to the broker: it could take over now."""
READ_SECONDS = 0.25
"""How long a standby rests that has read all there is of the journal. A takeover has to read what
came meanwhile. It is not less because on a machine with no core to spare each rest ends at the cost
of somebody else."""
CLOSE_SECONDS = 0.1
"""A standby that has read on in less than this is close behind its broker."""
PASSES = 3
"""After so many it will not come closer: the broker writes faster than it can read."""
OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)
GO = b"g"
"""The broker to the standby: it ends on purpose, and the other shall serve."""


class Inherited(NamedTuple):
    """What a standby has from its broker: descriptors, and what it must know."""

    listener: int
    ours: bool
    """Whether the socket's file is to be removed at the end."""
    address_lock: int
    state_lock: int
    link: int
    pid: int
    """Of the broker."""
    started: float
    """When it began to serve, on the monotonic clock."""
    crashes: int
    """How many brokers before it died soon after they began."""

    @classmethod
    def from_text(cls, text: str) -> Inherited:
        return cls(**json.loads(text))

    def as_text(self) -> str:
        return json.dumps(self._asdict())


# --- the broker's half ------------------------------------------------------------------------


class Guard:
    """Runs beside the turn: keeps a standby alive, and tells it that the broker is."""

    def __init__(
        self,
        command: Sequence[str],
        listener: int,
        ours: bool,
        address_lock: int,
        state_lock: int,
        crashes: int,
        hung_seconds: float,
        also: Sequence[int] = (),
    ) -> None:
        """`command` starts a standby; what it inherits is added as one more argument. `also` are
        descriptors that it shall have too."""
        self.pid: int | None = None
        """Of the standby, while there is one."""
        self.ready = anyio.Event()
        """It could take over now."""
        self._command = command
        # Of our own: a standby may have to be started when the broker has closed its.
        listener, address_lock, state_lock = map(os.dup, (listener, address_lock, state_lock))
        self._left = (listener, ours, address_lock, state_lock)
        self._descriptors = (listener, address_lock, state_lock, *also)
        self._crashes = crashes
        self._started = monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._deaths = 0
        self._got_ready = False
        self._hung_seconds = hung_seconds
        self._candidate: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    @property
    def ready_pid(self) -> int | None:
        """Of the standby, if it could take over now."""
        return self.pid if self.ready.is_set() else None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """For ever; it counts as started when there is a standby, or could not be."""
        first = True
        while True:
            begun, self._got_ready = monotonic(), False
            try:
                self._start()
            except OSError as error:
                log.error("no standby could be started: %s", error)
            if first:
                first = False
                task_status.started()
            if self._process is not None:
                await self._keep_company()
            # One that never got ready has crashed at its start, however slow the machine is.
            crashed = not self._got_ready or monotonic() - begun < CRASH_SECONDS
            self._deaths = self._deaths + 1 if crashed else 0
            delay = backoff(self._deaths)
            if delay:
                log.error(
                    "the standby died %d times soon after its start; the next one in %g s",
                    self._deaths, delay,
                )  # fmt: skip
                await anyio.sleep(delay)

    def _start(self) -> None:
        self._process, self._link = self._launch()
        self.pid = self._process.pid
        self.ready = anyio.Event()

    def _launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Another standby, and the link to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            inherited = Inherited(
                *self._left, theirs.fileno(), os.getpid(), self._started, self._crashes
            )
            try:
                process = subprocess.Popen(
                    [*self._command, inherited.as_text()],
                    env=environment(),
                    pass_fds=[*self._descriptors, theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return process, ours

    async def _keep_company(self) -> None:
        """Until the standby is dead."""
        assert self._link is not None
        heard = monotonic()
        next_beat = 0.0
        while True:
            if (now := monotonic()) >= next_beat:
                next_beat = now + BEAT_SECONDS
                with contextlib.suppress(OSError):
                    self._link.send(BEAT)
            with anyio.move_on_after(next_beat - now):
                await anyio.wait_readable(self._link)
            said = _received(self._link)
            if said is None:
                log.warning("the standby, pid %s, is dead; starting another", self.pid)
                break
            if READY in said:
                self.ready.set()
                self._got_ready = True
            if said:
                heard = monotonic()
            elif monotonic() - heard > self._hung_seconds:
                log.warning("the standby, pid %s, hangs; starting another", self.pid)
                break
        self.dismiss()

    async def renew(self) -> None:
        """Start another standby, from the program as it is now on the disk, for it to take over.

        The one that is there stays until the new one is ready. Raises TimeoutError if that does not
        come to be, and nothing has changed.
        """
        process, link = self._launch()
        try:
            with anyio.fail_after(START_SECONDS):
                said: bytes | None = b""
                while said is not None and READY not in said:
                    await anyio.wait_readable(link)
                    said = _received(link)
                if said is None:
                    raise TimeoutError
        except BaseException:
            process.kill()
            process.wait()
            link.close()
            raise
        self._candidate = process, link

    def hand_over(self) -> None:
        """The standby that `renew` has started shall serve as soon as this process is gone."""
        assert self._candidate is not None
        self.dismiss()
        self._process, self._link = self._candidate
        with contextlib.suppress(OSError):
            self._link.send(GO)

    def make_sure(self) -> None:
        """After `hand_over`, last of all: if the standby has died meanwhile, start another."""
        if self._process is not None and self._process.poll() is not None:
            self._process, self._link = self._launch()
            with contextlib.suppress(OSError):
                self._link.send(GO)

    def close(self) -> None:
        """Let go of what a standby would have inherited, the locks among it."""
        listener, _, address_lock, state_lock = self._left
        for descriptor in (listener, address_lock, state_lock):
            os.close(descriptor)

    def dismiss(self) -> None:
        """Kill the standby, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._link is not None:
            self._link.close()
        self._process = self._link = self.pid = None
        self.ready = anyio.Event()


def backoff(crashes: int) -> float:
    """How many seconds to wait after so many short lives in a row."""
    if crashes <= CRASHES_FREE:
        return 0.0
    return float(min(0.1 * 2 ** (crashes - CRASHES_FREE), RESTART_MOST))


# --- the standby's half -----------------------------------------------------------------------


class StandBy:
    """Waits until it has to serve. Runs in the main thread of its process, without an event
    loop; the folding in another."""

    def __init__(
        self,
        inherited: Inherited,
        state: str,
        retention: Retention,
        hung_seconds: float,
        lifeline: int | None,
    ) -> None:
        self._hung_seconds = hung_seconds
        self._inherited = inherited
        self._link = socket.socket(fileno=inherited.link)
        self._link.setblocking(False)
        self._pidfd = _pidfd(inherited.pid, self._link)
        self._folder = Folder(state, retention, lifeline)
        self._reader = Reader(state)

    def wait(self) -> tuple[int, Replica | None]:
        """Returns when this process has to serve: how many brokers have died soon after they began,
        one after the other; and the state, as far as it has been read."""
        give_way(True)
        # A terminal sends these to the broker too, which then ends us. SIGTERM is for us alone.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in OF_TERMINALS}
        why = self._watch()
        begun = monotonic()
        give_way(False)
        self._kill()
        self._link.close()
        crashes = 0
        if why != "hands over":
            lived = begun - self._inherited.started
            crashes = self._inherited.crashes + 1 if lived < CRASH_SECONDS else 0
            log.warning(
                "the broker, pid %d, %s; this process, pid %d, takes over",
                self._inherited.pid, why, os.getpid(),
            )  # fmt: skip
            delay = backoff(crashes)
            if delay:
                log.error(
                    "%d brokers died soon after their start; waiting %g s before the next",
                    crashes, delay,
                )  # fmt: skip
                sleep(delay)
        for number, handler in before.items():
            signal.signal(number, handler)
        return crashes, self._reader.end()

    def _watch(self) -> str:
        """What the broker has done that makes us serve."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        heard = before = next_beat = monotonic()
        going = ready = False
        reader = self._reader
        while True:
            until = min(next_beat, reader.next_step)
            poll.poll(max(0.0, until - monotonic()) * 1000)
            now = monotonic()
            if now >= reader.next_step:
                reader.step()
                if reader.ready and not ready:
                    ready = True
                    self._say(READY)
            if now >= next_beat:
                next_beat = now + BEAT_SECONDS
                self._say(BEAT)
                if not going:
                    self._folder.look(reader.position)
            if now - before > 2 * BEAT_SECONDS:
                heard = now  # it was us who had no processor, or the whole machine
            before = now
            said = _received(self._link)
            if said is None:
                return "hands over" if going else "is dead"
            going = going or GO in said
            if said:
                heard = now
            elif now - heard > self._hung_seconds + (going and DRAIN_SECONDS):
                return f"has said nothing for {now - heard:.1f} s"

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._link.send(word)

    def _kill(self) -> None:
        """Make sure that the broker is dead, whatever it was doing."""
        if self._pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()  # until it is gone
        os.close(self._pidfd)


class Reader:
    """Keeps a replica of the broker's state."""

    def __init__(self, state: str) -> None:
        self.ready = False
        """It is as good as the broker's, or cannot be had, and will be read when it has to be."""
        self.next_step = 0.0
        self._state = state
        self._replica: Replica | None = None
        self._steps: Iterator[bool] = iter(())
        self._begun = monotonic()
        self._passes = 0

    @property
    def position(self) -> int | None:
        """How far it has read; None: there is nothing that it would have to read."""
        return None if self._replica is None else self._replica.position

    def step(self) -> None:
        """Read for about a millisecond. One that has caught up pauses then: see `bursts.py`."""
        try:
            if self._replica is None:
                self._replica = Replica(self._state)
                self._steps = self._replica.follow()
            at_end = next(self._steps)
        except (OSError, sqlite3.Error, Error) as error:
            # Whatever it is, who takes over looks at it, and judges.
            log.warning("the standby cannot read %s: %s", self._state, error)
            self._replica = None
            self.ready = True
            self.next_step = monotonic() + AGAIN_SECONDS
            return
        self.next_step = now = monotonic()
        if not at_end and self.ready and now - self._begun < READ_SECONDS:
            sleep(PAUSE_SECONDS)  # unless it falls behind
        if at_end:
            # A long pass leaves much for the next: what has been written meanwhile.
            self._passes += 1
            self.ready = self.ready or now - self._begun < CLOSE_SECONDS or self._passes >= PASSES
            self.next_step += READ_SECONDS
            self._begun = self.next_step

    def end(self) -> Replica | None:
        """What there is, for the one who takes over."""
        self._steps = iter(())  # which closes what they had open
        return self._replica if self._replica is not None and self._replica.loaded else None


def give_way(much: bool) -> None:
    """Whether to wake up in the place of others that run, the broker's clients among them."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            policy = os.SCHED_BATCH if much else os.SCHED_OTHER
            os.sched_setscheduler(0, policy, os.sched_param(0))


def _pidfd(pid: int, link: socket.socket) -> int | None:
    """A descriptor of the broker's process; None: it is dead already.

    That it is the broker's and not one that has the pid after it, the link tells: it still has its
    other end.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    poll = select.poll()
    poll.register(link, 0)
    if poll.poll(0):  # hung up
        os.close(pidfd)
        return None
    return pidfd


def _received(link: socket.socket) -> bytes | None:
    """All that the other side has said; None: it is dead."""
    said = b""
    while True:
        try:
            word = link.recv(64)
        except BlockingIOError:
            return said
        except OSError:
            return None
        if not word:
            return said or None
        said += word


def can_pair() -> bool:
    """Whether this system has what it takes."""
    return hasattr(os, "pidfd_open") and sys.platform == "linux"

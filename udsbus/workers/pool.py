"""The pool: so many processes that serve, each watched, and started again when it ends.

    wait → read what they tell → see who has ended, hangs, or is too old → start, end, kill

One thread does that. Whoever asks the pool something over the bus does so in another, and leaves
what is to be done in a list.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from ..errors import InvalidRequest
from ..hub import READ, best_hub
from ..limits import PROCESSES_MOST
from .logs import Log
from .member import Member
from .printing import Printer
from .program import NO_BROKER, NOT_LOADED, RENEW, Configuration
from .restarting import STEADY_SECONDS, Restarting

log = logging.getLogger("udsbus.workers")

TICK_SECONDS = 0.25
"""So often the pool looks at all of them, though nothing has happened."""
KILL_SECONDS = 1.0
"""So much longer than the grace that it was told a worker has until it is killed."""
LATE_SECONDS = 1.0
"""If the pool looks so much later than it should, it was held up itself, and the workers too."""
AT_ONCE = max(4, 2 * (os.cpu_count() or 1))
"""So many workers begin at a time; the others wait for them."""
BROKER_SECONDS = 1.0
"""Until a worker is started again that has found no broker."""
RENEWAL_SECONDS = 1.0
"""At least, after a worker that was to take the place of another has ended before it was ready."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the pool treats its workers."""

    hang_seconds: float
    """A call that takes longer hangs."""
    max_seconds: float | None
    """So old a worker may be."""
    ready_seconds: float
    """So long a worker may take until it serves."""


class Place:
    """One of the places in the pool; its processes come and go."""

    def __init__(self, number: int, log: Log) -> None:
        self.number = number
        self.restarting = Restarting()
        self.log = log
        self.member: Member | None = None
        self.start_at: float | None = 0.0
        """When to start one; None: there is one."""
        self.last = ""
        """How the last one ended that was not asked to."""
        self.waits_for: Member | None = None
        """The one that goes on until `member`, which is to take its place, is ready."""


class Pool:
    def __init__(
        self, name: str, processes: int, configuration: Configuration, rules: Rules,
        directory: Path | None, printer: Printer,
    ) -> None:  # fmt: skip
        """`directory`: for a log of each place; None: they are printed.

        Raises OSError when there can be no logs there.
        """
        self.name = name
        self.failed: str | None = None
        """Why it could not begin."""
        self._configuration = configuration
        self._rules = rules
        self._directory = directory
        self._printer = printer
        self._places: list[Place] = []
        self._leaving: dict[Member, Place] = {}
        """Those that are to end, and whose place another has."""
        self._hub = best_hub()
        self._by_fd: dict[int, Member] = {}
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub.add(self._woken, READ)
        self._to_do: deque[Callable[[], None]] = deque()
        self._rolling: deque[Place] = deque()
        """Places whose process is to be replaced, one after the other."""
        self._roll_at = 0.0
        """When the next may be replaced."""
        self._looked = monotonic()
        """When the pool looked at all last."""
        self._resumed = 0.0
        """When it went on, after it was held up itself."""
        self._stopping = False
        self._began = False
        """One of them was ready once."""
        self._grow(processes)

    # --- for other threads, and signals -------------------------------------------------------

    def stop(self) -> None:
        """End all, when they have finished what they have in hand; told again, at once."""
        self._do(self._stop)

    def restart(self) -> None:
        """Replace all, one after the other, each when the new one is ready."""
        self._do(self._restart)

    def scale(self, processes: int) -> int:
        """From now on have so many. Returns how many there were."""
        if type(processes) is not int or not 0 <= processes <= PROCESSES_MOST:
            raise InvalidRequest(f"a pool has 0 to {PROCESSES_MOST} processes, not {processes!r}")
        before = len(self._places)
        self._do(lambda: self._resize(processes))
        return before

    def status(self) -> list[dict[str, Any]]:
        """One map for each process."""
        now = monotonic()
        places = [each for each in self._places if each.member or not self._stopping]
        found = [self._about(place, place.member, now) for place in places]
        others = [(place.waits_for, place) for place in list(self._places)]
        others += list(self._leaving.items())
        found += [self._about(place, member, now) for member, place in others if member is not None]
        return found

    def _about(self, place: Place, member: Member | None, now: float) -> dict[str, Any]:
        state: str = "waiting" if member is None else member.state
        if member is None or member is place.member:
            if place.restarting.flapping and state in ("waiting", "starting"):
                state = "flapping"
            last = place.last
        else:
            last = member.why or "another is to take its place"
        return {
            "place": place.number,
            "pid": None if member is None else member.pid,
            "state": state,
            "seconds": 0.0 if member is None else round(now - member.since, 1),
            "restarts": place.restarting.restarts,
            "last": last,
        }

    def _do(self, what: Callable[[], None]) -> None:
        self._to_do.append(what)
        with contextlib.suppress(OSError):
            os.write(self._wake, b".")

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until all have ended, after `stop`."""
        try:
            while not self._stopping or self._leaving or self._members():
                for fd, _ in self._hub.poll(self._patience()):
                    self._read(fd)
                while self._to_do:
                    try:
                        self._to_do.popleft()()
                    except Exception:
                        log.exception("%s: this could not be done", self.name)
                now = monotonic()
                if now - self._looked > TICK_SECONDS + LATE_SECONDS:
                    self._resumed = now
                self._looked = now
                self._look(now)
            log.info("%s: has ended", self.name)
        finally:
            for member in [*self._members(), *self._leaving]:
                member.kill()
            for place in self._places:
                place.log.close()
            self._hub.close()
            os.close(self._woken)
            os.close(self._wake)

    def _members(self) -> list[Member]:
        found = [place.member for place in self._places]
        found += [place.waits_for for place in self._places]
        return [member for member in found if member is not None]

    def _patience(self) -> float:
        now = monotonic()
        dues = [place.start_at - now for place in self._places if place.start_at is not None]
        return TICK_SECONDS if self._stopping else max(0.0, min([TICK_SECONDS, *dues]))

    def _read(self, fd: int) -> None:
        if fd == self._woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            return
        member = self._by_fd.get(fd)
        if member is None:
            return
        if fd == member.lines.fd:
            if not member.lines.read():
                self._forget(fd)
        elif fd == member.pidfd:
            self._forget(fd)  # `_look` sees to it
        else:
            told = list(member.told())
            for line in told:
                self._told(member, line)
            if not told:
                self._forget(fd)

    def _told(self, member: Member, line: str) -> None:
        place = next((p for p in self._places if member in (p.member, p.waits_for)), None)
        word, _, rest = line.partition(" ")
        if word == "ready" and member.state == "starting":
            member.state = "ready"
            self._began = True
            log.info("%s: worker %d is ready", self.name, member.pid)
            if place is not None and place.waits_for is not None:
                self._retire(place, place.waits_for, "another takes its place")
                place.waits_for = None
        elif word == "renew" and place is not None:
            log.info("%s: worker %d is replaced: %s", self.name, member.pid, rest)
            if place not in self._rolling:
                self._rolling.append(place)

    def _retire(self, place: Place, member: Member, why: str) -> None:
        self._leaving[member] = place
        member.leave(why, self._configuration.grace + KILL_SECONDS)

    def _look(self, now: float) -> None:
        """See to all of them."""
        for member in list(self._leaving):
            if member.ended():
                del self._leaving[member]
                self._bury(member)
            elif member.kill_at is not None and now > member.kill_at:
                log.warning("%s: worker %d does not end; it is killed", self.name, member.pid)
                member.kill_at = None
                member.kill()
        for place in self._places:
            if place.waits_for is not None:
                self._kill_if_it_hangs(place.waits_for, now)
                if place.waits_for.ended():
                    self._bury(place.waits_for)
                    place.waits_for = None
            if place.member is not None:
                self._look_at(place, place.member, now)
        if not self._stopping:
            self._roll()
            beginning = sum(member.state == "starting" for member in self._members())
            for place in self._places:
                if place.start_at is not None and now >= place.start_at and beginning < AT_ONCE:
                    self._start(place)
                    beginning += 1

    def _look_at(self, place: Place, member: Member, now: float) -> None:
        age = now - member.since
        if member.ended():
            place.member = None
            self._bury(member)
            self._ended(place, member, age)
            return
        if member.state == "ready":
            if age > STEADY_SECONDS:
                place.restarting.steady()
            most = self._rules.max_seconds
            if most is not None and age > most and place not in self._rolling:
                log.info("%s: worker %d is %.0f s old; it is replaced", self.name, member.pid, age)
                self._rolling.append(place)
        self._kill_if_it_hangs(member, now)

    def _kill_if_it_hangs(self, member: Member, now: float) -> None:
        if member.state == "ready":
            hang = self._rules.hang_seconds
            why = member.beats.hangs(now, hang, max(hang, 5.0), self._resumed)
        else:
            most = self._rules.ready_seconds
            slow = now - max(member.since, self._resumed) > most
            why = f"it does not serve after {most:g} s" if slow else None
        if why is not None and member.killed_for is None:
            log.warning("%s: worker %d hangs: %s; it is killed", self.name, member.pid, why)
            member.killed_for = why
            member.kill()

    def _ended(self, place: Place, member: Member, age: float) -> None:
        """One has ended that was not asked to."""
        place.last = member.how()
        code = member.process.returncode
        if code == NOT_LOADED and not self._began:
            self.failed = "the workers have nothing to serve; what they printed says why"
            self._stop()
            return
        if place.waits_for is not None:  # what was to be replaced goes on
            place.member, place.waits_for = place.waits_for, None
            self._rolling.clear()
            wait = max(RENEWAL_SECONDS, place.restarting.ended(age))
            self._roll_at = monotonic() + wait
            log.error(
                "%s: worker %d %s before it was ready; those before it go on, and none is renewed "
                "for %.1f s", self.name, member.pid, place.last, wait,
            )  # fmt: skip
            return
        if code in (RENEW, NO_BROKER):
            wait = BROKER_SECONDS if code == NO_BROKER else 0.0
            place.start_at = monotonic() + wait
            why = "there is no broker" if wait else "it was to be renewed"
            log.warning("%s: worker %d has ended: %s", self.name, member.pid, why)
            return
        wait = place.restarting.ended(age)
        place.start_at = monotonic() + wait
        flapping = "; it is flapping" if place.restarting.flapping else ""
        log.warning(
            "%s: worker %d %s after %.1f s; another is started in %.1f s%s",
            self.name, member.pid, place.last, age, wait, flapping,
        )  # fmt: skip

    def _roll(self) -> None:
        """Replace the next one, when no other is being replaced."""
        if any(place.waits_for is not None for place in self._places):
            return
        if monotonic() < self._roll_at:
            return
        while self._rolling:
            place = self._rolling.popleft()
            if place in self._places and place.member is not None:
                place.waits_for, place.member = place.member, None
                self._start(place)
                return

    def _start(self, place: Place) -> None:
        number = f"{self.name} {place.number}"
        try:
            member = Member(replace(self._configuration, name=number), place.log)
        except OSError as error:
            place.start_at = monotonic() + place.restarting.ended(0.0)
            place.last = f"could not be started: {error.strerror or error}"
            log.error("%s: a worker %s", self.name, place.last)
            return
        place.member, place.start_at = member, None
        for fd in (member.control.fileno(), member.lines.fd, member.pidfd):
            if fd >= 0:
                self._by_fd[fd] = member
                self._hub.add(fd, READ)

    def _bury(self, member: Member) -> None:
        """It has ended. What it has printed last is shown."""
        member.lines.read_last()
        for fd in (member.control.fileno(), member.lines.fd, member.pidfd):
            self._forget(fd)
        member.close()

    def _forget(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._hub.remove(fd)

    def _restart(self) -> None:
        log.info("%s: all workers are to be renewed", self.name)
        self._rolling.extend(place for place in self._places if place not in self._rolling)

    def _grow(self, processes: int) -> None:
        while len(self._places) < processes:
            number = len(self._places) + 1
            self._places.append(
                Place(number, Log(f"{self.name}.{number}", self._directory, self._printer))
            )

    def _resize(self, processes: int) -> None:
        log.info("%s: from %d to %d processes", self.name, len(self._places), processes)
        if self._stopping:
            return
        try:
            self._grow(processes)
        except OSError as error:
            log.error(
                "%s: there are no more than %d processes: cannot write the log of the next: %s",
                self.name, len(self._places), error,
            )  # fmt: skip
        while len(self._places) > processes:
            place = self._places.pop()
            for member in (place.member, place.waits_for):
                if member is not None:
                    self._retire(place, member, "the pool is made smaller")

    def _stop(self) -> None:
        if self._stopping:
            log.warning("%s: told again to end; those that are left are killed", self.name)
            for leaving in self._leaving:
                leaving.kill()
            return
        log.info(
            "%s: ends, when its %d workers have done what they have in hand, in %.3g s at most",
            self.name, len(self._members()) + len(self._leaving), self._configuration.grace,
        )  # fmt: skip
        self._stopping = True
        self._rolling.clear()
        for place in self._places:
            place.start_at = None
            for member in (place.member, place.waits_for):
                if member is not None:
                    self._retire(place, member, "the pool ends")
            place.member = place.waits_for = None

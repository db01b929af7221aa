"""A command, or copies of it, that run while keys of the bus say how: `udsbus run`.

One thread waits for everything: signals, the ends of processes, and a ring of the thread that reads
changes, all of which come over one pipe. What takes long (a process that has to end, a new one that
has to prove itself) is written as it happens, one step after the other, and waits in `_once`. That
does what cannot wait: signals are passed on, and when a copy ends by itself it is `_Over`, wherever
that happens.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

from ..terms import DELETED
from .debounce import Debounce
from .following import LOOK_SECONDS, Difference, Following, Say, differences, merged
from .launching import adopt_orphans
from .naming import Unusable
from .plan import Plan, Prepared, prepare
from .processes import CannotStart, Process, Processes
from .programs import OF_TERMINALS, PASSED_ON, exit_code, has_terminal
from .rendering import put

RING = 0
"""In the pipe, among the numbers of signals: there are changes."""
JOB_CONTROL = ("SIGTSTP", "SIGCONT")
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Whoever gets these is about to end: changes do not matter any more."""
FOR_COMMANDS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
"""They may mean something to the command, and would end a hook that knows nothing of them."""
TICK_SECONDS = 0.05
"""How often it is looked whether all of a group is gone, whose last end may not be told."""
KILL_SECONDS = 5.0
"""How long a process may take to be gone after SIGKILL: one that waits for a disk takes long."""
STAYS_DOWN = "it stays down, and the others stay as they are, until something changes again"
KEYS_TOLD = 3
CHANGED_BYTES = 64 * 1024
"""What a hook finds in UDSBUS_CHANGED; all of it is on its stdin."""


class _Over(Exception):
    """A copy has ended by itself."""

    def __init__(self, ended: int) -> None:
        self.ended = ended


class _Copy:
    """One of the copies; `process` is None while there is none."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.must_run = False
        """Its end is the end of all."""

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.ended is None


class Supervisor:
    def __init__(
        self,
        plan: Plan,
        following: Following,
        address: str,
        to_json: Callable[[Any], str],
        say: Say,
        tell: Say = lambda message: None,
    ) -> None:
        """`say` tells what goes wrong, `tell` what is done, to whoever wants to know that."""
        self._plan = plan
        self._following = following
        self._address = address
        self._to_json = to_json
        self._say = say
        self._tell = tell
        self._awake, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._rung = False
        self._stdin = os.open(os.devnull, os.O_RDONLY) if os.isatty(0) else None
        """For the command: from the background of a terminal nobody can read."""
        self._processes = Processes()
        self._copies = [_Copy(number) for number in range(plan.copies)]
        self._hook: Process | None = None
        self._debounce = Debounce(plan.debounce)
        self._acted = merged(following.watched)
        """What was there when the command, or the last reaction, was begun."""
        self._ending = False

    def run(self) -> int:
        """Run the command to its end. Returns its exit code, as a shell tells it.

        Raises Unusable for values that it cannot be given at the beginning, and KeyboardInterrupt
        if it died of that.
        """
        prepared = prepare(self._plan, self._following.watched, self._to_json)
        for file, content in prepared.files:
            put(file, content)
        if not self._acted:
            self._tell(f"no key matches {' or '.join(self._plan.patterns)} yet")
        adopt_orphans()
        with self._signals():
            self._following.ring(self._ring)
            try:
                for copy in self._copies:
                    self._start(copy, prepared)
                    copy.must_run = True
                while True:
                    due = None if self._ending else self._debounce.due
                    if due is None or due > monotonic():
                        self._once(due)
                    elif self._is_whole():
                        self._react()
                    else:
                        self._once(monotonic() + LOOK_SECONDS)
            except CannotStart as error:
                self._say(str(error))
                code = error.code
                self._finish()
            except _Over as over:
                self._finish()
                code = exit_code(over.ended)
            except BaseException:
                self._finish()
                raise
        return code

    # --- what happens -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        names = (*PASSED_ON, *OF_TERMINALS, *(JOB_CONTROL if has_terminal() else ()))
        numbers = [getattr(signal, name) for name in names]
        heeded = [one for one in numbers if signal.getsignal(one) != signal.SIG_IGN]  # by `nohup`
        before = {
            number: signal.signal(number, lambda *_: None) for number in (signal.SIGCHLD, *heeded)
        }
        woken = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ring(self) -> None:
        """In the thread that reads changes."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                os.write(self._wakes, bytes([RING]))

    def _once(self, until: float | None) -> None:
        """Wait for what happens, until then at most, and do what cannot wait. Raises _Over."""
        left = None if until is None else max(0.0, until - monotonic())
        if select.select([self._awake], [], [], left)[0]:
            for number in os.read(self._awake, 4096):
                self._happened(number)
        for copy in self._copies:
            if copy.must_run and copy.process is not None and copy.process.ended is not None:
                raise _Over(copy.process.ended)

    def _happened(self, number: int) -> None:
        if number == RING:
            self._rung = False
            if self._following.take():
                self._debounce.changed(monotonic())
        elif number == signal.SIGCHLD:
            self._processes.collect()
        elif number == signal.SIGTSTP:
            self._pass_on(number)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._ending |= number in ENDING
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """To the command; to a hook only what ends it, or holds it up."""
        for process in self._all():
            if process is not self._hook or number not in FOR_COMMANDS:
                process.signal_group(number)

    def _all(self) -> list[Process]:
        every = [*(copy.process for copy in self._copies), self._hook]
        return [process for process in every if process is not None and not process.gone]

    def _is_whole(self) -> bool:
        self._following.take()
        return self._following.whole

    # --- what is done -----------------------------------------------------------------------

    def _react(self) -> None:
        self._debounce.done()
        watched = self._following.watched
        state = merged(watched)
        changes = differences(self._acted, state)
        if not changes:
            return
        try:
            prepared = prepare(self._plan, watched, self._to_json)
            for file, content in prepared.files:
                put(file, content)
        except Unusable as error:
            self._say(f"{error}; until that has changed, the command goes on with what it had")
            return
        self._acted = state
        reaction = self._plan.reaction
        self._tell(f"{_told_of(changes)}: {reaction.kind}")
        if reaction.kind == "restart":
            self._roll(prepared)
        elif reaction.kind == "signal":
            for copy in self._copies:
                if copy.process is not None:
                    copy.process.signal(reaction.number)
        elif reaction.kind == "hook":
            self._run_hook(prepared, changes)

    def _start(self, copy: _Copy, prepared: Prepared) -> None:
        environ = {
            b"UDSBUS_SOCKET": os.fsencode(self._address),
            b"UDSBUS_COPY": b"%d" % copy.number,
        }
        copy.process = self._processes.start(
            self._plan.command, prepared.environ | environ, self._stdin
        )

    def _roll(self, prepared: Prepared) -> None:
        """Stop and start the copies, one after the other; those first that do not run anyway."""
        for copy in sorted(self._copies, key=lambda copy: copy.runs):
            copy.must_run = False
            if copy.process is not None:
                self._stop([copy.process])
            if self._ending:
                self._over_if_nobody_runs(copy)
                return
            try:
                self._start(copy, prepared)
            except CannotStart as error:
                if not any(each.runs for each in self._copies):
                    raise
                self._say(f"copy {copy.number}: {error}; {STAYS_DOWN}")
                return
            if len(self._copies) > 1 and not self._settles(copy):
                self._over_if_nobody_runs(copy)
                return
            copy.must_run = True

    def _settles(self, copy: _Copy) -> bool:
        """Wait whether a new copy runs on. False: it has ended."""
        until = monotonic() + self._plan.settle
        while copy.runs and monotonic() < until:
            self._once(until)
        process = copy.process
        if process is None or process.ended is None:
            return True
        if not self._ending:
            self._say(
                f"copy {copy.number} ended within {self._plan.settle:g} s of its restart "
                f"({_told(process.ended)}): {STAYS_DOWN}"
            )
        self._stop([process])
        return False

    def _over_if_nobody_runs(self, last: _Copy) -> None:
        """Raise _Over if all copies have ended, though none of them is one that must not."""
        if last.process is not None and not any(copy.runs for copy in self._copies):
            raise _Over(last.process.ended or 0)

    def _run_hook(self, prepared: Prepared, changes: Sequence[Difference]) -> None:
        """Run it to its end. Meanwhile nothing else is reacted to."""
        hook = self._plan.reaction.hook
        environ = {b"UDSBUS_SOCKET": os.fsencode(self._address), b"UDSBUS_CHANGED": _keys(changes)}
        with tempfile.TemporaryFile() as lines:  # not a pipe, which nobody may read
            for change in changes:
                fields = change._asdict()
                if change.kind == DELETED:
                    del fields["value"], fields["revision"]
                lines.write(self._to_json(fields).encode() + b"\n")
            lines.seek(0)
            try:
                process = self._processes.start(hook, prepared.environ | environ, lines.fileno())
            except CannotStart as error:
                self._say(f"the hook cannot be run: {error}")
                return
        self._hook = process
        while process.ended is None:
            self._once(None)
        self._hook = None  # what it has left running is its own affair
        if process.ended:
            self._say(f"the hook {hook[0]} failed ({_told(process.ended)})")

    def _stop(self, processes: Sequence[Process]) -> None:
        """End processes with all of their groups: SIGTERM, and after the grace SIGKILL."""
        for process in processes:
            if not process.gone:
                process.ask_to_end()
        until = monotonic() + self._plan.grace
        killed = False
        while left := [process for process in processes if not process.gone]:
            if monotonic() >= until:
                if killed:
                    return
                for process in left:
                    process.signal_group(signal.SIGKILL)
                killed, until = True, monotonic() + KILL_SECONDS
            self._once(min(until, monotonic() + TICK_SECONDS))

    def _finish(self) -> None:
        """End all that is left."""
        for copy in self._copies:
            copy.must_run = False
        self._stop(self._all())


def _told_of(changes: Sequence[Difference]) -> str:
    few = ", ".join(change.key for change in changes[:KEYS_TOLD])
    if len(changes) > KEYS_TOLD:
        return f"{few} and {len(changes) - KEYS_TOLD} more have changed"
    return f"{few} {'has' if len(changes) == 1 else 'have'} changed"


def _keys(changes: Sequence[Difference]) -> bytes:
    """The keys that have changed, one a line, as many as an environment should hold."""
    lines: list[bytes] = []
    size = 0
    for change in changes:
        line = change.key.encode().replace(b"\0", b"")
        size += len(line) + 1
        if size > CHANGED_BYTES:
            break
        lines.append(line)
    return b"\n".join(lines)


def _told(ended: int) -> str:
    return f"killed by signal {-ended}" if ended < 0 else f"exit code {ended}"

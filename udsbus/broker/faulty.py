"""Carrying out the faults that a test has asked for, at the seams of the turn.

`Faults` stands between the turn and what it calls: the commands' handlers, the journal and the hub.
A broker without faults has nothing of this.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterable, Mapping
from time import sleep
from typing import Any

from ..errors import StorageFailed
from ..faults import Fault, Step
from ..journal import Journal
from ..messages import Answered, Change, Command, DeadlineMoved, Effect
from ..patterns import matcher
from .answering import Handler
from .connection import Connection
from .hub import Hub

log = logging.getLogger("udsbus.broker")

FOR_EVER = 1e6
"""Seconds."""


class _Waiting:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._times = fault.nth
        self._matches = matcher(fault.key)

    def comes(self, step: Step, names: list[str]) -> bool:
        """Whether its time has come. Counts the times that it nearly has."""
        if self.fault.before == step and any(map(self._matches, names)):
            self._times -= 1
        return not self._times


class Faults:
    """The faults that are still to come."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.connections: Mapping[int, Connection] = {}
        """The turn's."""
        self._left = [_Waiting(fault) for fault in faults]
        self._told: list[tuple[Fault, set[int]]] = []
        """Those that strike when all of this turn have been told."""

    def handlers(self, handlers: dict[type[Command], Handler]) -> dict[type[Command], Handler]:
        """The same, but faulty."""
        return {command: self._handler(handler) for command, handler in handlers.items()}

    def _handler(self, handler: Handler) -> Handler:
        def faulty(number: int, now: float, *fields: Any) -> Any:
            names = _names(fields)
            for fault in self._due("execute", names):
                self._strike(fault, {number})
                if fault.action == "cut":
                    # This is the refusal that is not kept: when it is asked again, it is done.
                    raise StorageFailed("a fault has cut this connection", reason="cut")
            return handler(number, now, *fields)

        return faulty

    def journal(self, journal: Journal) -> Journal:
        """The same, but faulty."""
        return _FaultyJournal(self, journal)

    def hub(self, hub: Hub) -> Hub:
        """The same, but faulty."""
        poll = hub.poll

        def faulty_poll(timeout: float) -> list[tuple[int, int]]:
            told, self._told = self._told, []
            for fault, origins in told:
                self._strike(fault, origins)
            return poll(timeout)

        hub.poll = faulty_poll  # type: ignore[method-assign]
        return hub

    def about_to(self, step: Step, effects: list[Effect], answers: list[Answered]) -> None:
        """Of the steps that are about changes and messages."""
        names = [
            effect.key if isinstance(effect, Change | DeadlineMoved) else effect.topic
            for effect in effects
        ]
        origins = {effect.origin for effect in effects if isinstance(effect, Change)}
        origins |= {answer.origin for answer in answers}
        for fault in self._due(step, names):
            if step == "wait":
                self._told.append((fault, origins))
            else:
                self._strike(fault, origins)

    def _due(self, step: Step, names: list[str]) -> list[Fault]:
        """The faults whose time has come."""
        due = [waiting for waiting in self._left if waiting.comes(step, names)]
        for waiting in due:
            self._left.remove(waiting)
        return [waiting.fault for waiting in due]

    def _strike(self, fault: Fault, origins: set[int]) -> None:
        log.warning("a fault, as was asked for: %s before %s", fault.action, fault.before)
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == "stall":
            sleep(FOR_EVER if fault.seconds is None else fault.seconds)
        else:
            for number in origins & self.connections.keys():
                with socket.socket(fileno=os.dup(self.connections[number].fd)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)


class _FaultyJournal:
    def __init__(self, faults: Faults, journal: Journal) -> None:
        self.durable = journal.durable
        self.close = journal.close
        self._faults = faults
        self._journal = journal

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        self._faults.about_to("journal", effects, answers)
        kept = self._journal.append(effects, answers, now)
        self._faults.about_to("deliver", effects, answers)
        self._faults.about_to("wait", effects, answers)
        return kept


def _names(fields: tuple[Any, ...]) -> list[str]:
    """The keys, topics and patterns that a command is about: its texts, and those in its lists."""
    names: list[str] = []
    for field in fields:
        if type(field) is str:
            names.append(field)
        elif type(field) in (list, dict):
            for item in field:
                if type(item) is str:
                    names.append(item)
                elif isinstance(item, tuple):
                    names += [part for part in item if type(part) is str]
    return names

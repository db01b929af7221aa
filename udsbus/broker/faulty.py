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

from ..faults import SECONDS_MOST, Fault, Step
from ..hub import Hub
from ..journal import Journal
from ..messages import Answered, Change, Command, Effect, Message
from ..patterns import SCHEMA_KEYS, matcher
from .answering import Handler
from .connection import Connection

log = logging.getLogger("udsbus.broker")


class _Waiting:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._times = fault.nth
        self._matches = matcher(fault.key)

    def concerns(self, step: Step, name: str) -> bool:
        return self.fault.before == step and self._matches(name)

    def comes(self, times: int) -> bool:
        """Whether its time has come, now that it was so many times about to."""
        self._times -= times
        return self._times <= 0


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
            for waiting in self._left[:]:
                if any(waiting.concerns("execute", name) for name in names) and waiting.comes(1):
                    self._left.remove(waiting)
                    self._strike(waiting.fault, set())
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
        named = [(_name(effect), effect) for effect in effects]
        for waiting in self._left[:]:
            concerned = [effect for name, effect in named if waiting.concerns(step, name)]
            if not concerned or not waiting.comes(len(concerned)):
                continue
            self._left.remove(waiting)
            changes = [effect for effect in concerned if isinstance(effect, Change)]
            origins = {change.origin for change in changes}
            if len(changes) < len(concerned):  # who else asked is known by the answers only
                origins |= {answer.origin for answer in answers}
            if step == "wait":
                self._told.append((waiting.fault, origins))
            else:
                self._strike(waiting.fault, origins)

    def _strike(self, fault: Fault, origins: set[int]) -> None:
        log.warning("a fault, as was asked for: %s before %s", fault.action, fault.before)
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == "stall":
            sleep(SECONDS_MOST if fault.seconds is None else fault.seconds)
        else:
            for number in origins & self.connections.keys():
                with socket.socket(fileno=os.dup(self.connections[number].fd)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)


class _FaultyJournal:
    def __init__(self, faults: Faults, journal: Journal) -> None:
        self.durable = journal.durable
        self.wants_answers = True
        self.close = journal.close
        self._faults = faults
        self._journal = journal

    def append(self, effects: list[Effect], answers: list[Answered], now: float) -> bool:
        self._faults.about_to("journal", effects, answers)
        kept = self._journal.append(effects, answers, now)
        self._faults.about_to("deliver", effects, answers)
        self._faults.about_to("wait", effects, answers)
        return kept


def _name(effect: Effect) -> str:
    name = effect.topic if isinstance(effect, Message) else effect.key
    return name.removeprefix(SCHEMA_KEYS)  # a schema is asked for by its pattern


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

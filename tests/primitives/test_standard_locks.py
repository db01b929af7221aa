"""The tests that CPython has for its locks, events and the like, with ours in their place.

docs/locks.md and docs/primitives.md list what is not as in `threading`.
"""

from __future__ import annotations

import itertools
import os
import unittest
from typing import Any

import pytest

import udsbus
from udsbus import LocalBroker

try:
    from test import lock_tests  # type: ignore[import-not-found]
except ImportError:  # Debian has it in a package of its own
    if os.environ.get("CI") == "true":
        raise
    pytest.skip(
        "this Python comes without its own tests (Debian: apt install libpython3-testsuite)",
        allow_module_level=True,
    )


class OnABus(unittest.TestCase):
    """Each object that a test makes has a name of its own."""

    broker: LocalBroker
    client: udsbus.Client
    names = itertools.count()

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = LocalBroker()
        cls.broker.__enter__()
        cls.client = cls.broker.connect()
        with cls.client.lock("first"):  # starts a thread, which the tests would take for a leak
            pass

    @classmethod
    def tearDownClass(cls) -> None:
        cls.client.close()
        cls.broker.__exit__(None, None, None)

    @classmethod
    def name(cls) -> str:
        return f"{cls.__name__}/{next(cls.names)}"

    # Not as in `threading`. `repr` asks nobody, so it does not tell whether a lock is held; and a
    # child after a fork is a client of its own, so there is nothing to set right in it.
    test_repr = test_locked_repr = test_at_fork_reinit = None


class TestLock(OnABus, lock_tests.LockTests):  # type: ignore[misc]
    def locktype(self) -> udsbus.Lock:
        return self.client.lock(self.name())


class TestRLock(OnABus, lock_tests.RLockTests):  # type: ignore[misc]
    def locktype(self) -> udsbus.RLock:
        return self.client.rlock(self.name())


class TestSemaphore(OnABus, lock_tests.SemaphoreTests):  # type: ignore[misc]
    def semtype(self, value: int = 1) -> udsbus.Semaphore:
        return self.client.semaphore(self.name(), value)


class TestBoundedSemaphore(OnABus, lock_tests.BoundedSemaphoreTests):  # type: ignore[misc]
    def semtype(self, value: int = 1) -> udsbus.BoundedSemaphore:
        return self.client.bounded_semaphore(self.name(), value)


class TestEvent(OnABus, lock_tests.EventTests):  # type: ignore[misc]
    # It has no lock inside that could be set right.
    test_reset_internal_locks = None

    def eventtype(self) -> udsbus.Event:
        return self.client.event(self.name())


class TestCondition(OnABus, lock_tests.ConditionTests):  # type: ignore[misc]
    # The lock is one of the bus.
    test_acquire = None

    def condtype(self, lock: udsbus.Lock | None = None) -> udsbus.Condition:
        return self.client.condition(self.name(), lock)


class TestBarrier(OnABus, lock_tests.BarrierTests):  # type: ignore[misc]
    def barriertype(self, *arguments: Any, **more: Any) -> udsbus.Barrier:
        return self.client.barrier(self.name(), *arguments, **more)

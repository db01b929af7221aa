"""The tests that CPython has for its locks, events and the like, with ours in their place.

docs/locks.md and docs/primitives.md list what is not as in `threading`.
"""

from __future__ import annotations

from typing import Any

import udsbus

from .standard import OnABus, of_cpython

lock_tests: Any = of_cpython("lock_tests")


class OfThreading(OnABus):
    # Not as in `threading`. `repr` asks nobody, so it does not tell whether a lock is held; and a
    # child after a fork is a client of its own, so there is nothing to set right in it.
    test_repr = test_locked_repr = test_at_fork_reinit = None


class TestLock(OfThreading, lock_tests.LockTests):  # type: ignore[misc]
    def locktype(self) -> udsbus.Lock:
        return self.client.lock(self.name())


class TestRLock(OfThreading, lock_tests.RLockTests):  # type: ignore[misc]
    def locktype(self) -> udsbus.RLock:
        return self.client.rlock(self.name())


class TestSemaphore(OfThreading, lock_tests.SemaphoreTests):  # type: ignore[misc]
    def semtype(self, value: int = 1) -> udsbus.Semaphore:
        return self.client.semaphore(self.name(), value)


class TestBoundedSemaphore(OfThreading, lock_tests.BoundedSemaphoreTests):  # type: ignore[misc]
    def semtype(self, value: int = 1) -> udsbus.BoundedSemaphore:
        return self.client.bounded_semaphore(self.name(), value)


class TestEvent(OfThreading, lock_tests.EventTests):  # type: ignore[misc]
    # It has no lock inside that could be set right.
    test_reset_internal_locks = None

    def eventtype(self) -> udsbus.Event:
        return self.client.event(self.name())


class TestCondition(OfThreading, lock_tests.ConditionTests):  # type: ignore[misc]
    # The lock is one of the bus.
    test_acquire = None

    def condtype(self, lock: udsbus.Lock | None = None) -> udsbus.Condition:
        return self.client.condition(self.name(), lock)


class TestBarrier(OfThreading, lock_tests.BarrierTests):  # type: ignore[misc]
    def barriertype(self, *arguments: Any, **more: Any) -> udsbus.Barrier:
        return self.client.barrier(self.name(), *arguments, **more)

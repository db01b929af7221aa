"""Signals in the middle of anything: Ctrl-C, and handlers that use the client themselves."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable

import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until
from udsbus import Client

from .support import PATIENCE, Ticks, in_child

KEYS = 50


class Interrupts:
    """KeyboardInterrupt at random moments, from a timer; once, or in quick succession."""

    def __init__(self, seed: int, salvo: int = 1, within: float = 0.002) -> None:
        self.number = 0
        self._random = random.Random(seed)
        self._salvo = salvo
        self._within = within
        self._left = 0
        signal.signal(signal.SIGALRM, self._strike)

    def _strike(self, *_: object) -> None:
        if self._left > 0:
            self._left -= 1
            self.number += 1
            raise KeyboardInterrupt

    def during(self, action: Callable[[], None]) -> None:
        """Carry `action` out again and again until it is struck. (It may not see it: Python drops
        an exception in a destructor.)"""
        try:
            try:
                self._left = self._salvo
                interval = self._random.uniform(1e-5, 1e-4) if self._salvo > 1 else 0
                signal.setitimer(
                    signal.ITIMER_REAL, self._random.uniform(1e-6, self._within), interval
                )
                while self._left:
                    action()
            finally:
                self._left = 0
        except KeyboardInterrupt:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def ask_everything(client: Client) -> None:
    """Ask what has but one right answer, in every way that there is."""
    number = random.randrange(KEYS)
    key = f"a/{number}"
    assert client.get(key) == number
    assert client.exists(key) is True
    assert client.get_many([f"a/{number}", "none"]) == {f"a/{number}": number}
    assert client.publish(key, number) == 0
    with client.pipeline() as p:
        several = [p.get(f"a/{each}") for each in range(number % 7, KEYS, 7)]
    assert [result.value for result in several] == list(range(number % 7, KEYS, 7))
    with client.transaction() as t:
        other = t.get("a/7")
    assert other.value == 7
    entry = client.entry(f"a/{KEYS - 1}")
    assert entry is not None
    assert entry.value == KEYS - 1


@pytest.fixture
def filled(client: Client) -> Client:
    client.set_many({f"a/{number}": number for number in range(KEYS)})
    return client


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("salvo", [1, 3])
def test_interrupts_mix_no_answers_up(bus: BrokerProcess, salvo: int) -> None:
    """And leave nothing behind: no descriptor, no connection that is not used any more."""

    def work() -> int:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            ask_everything(client)
            gc.collect()  # what the parent left behind
            descriptors = len(os.listdir("/proc/self/fd"))
            interrupts = Interrupts(salvo, salvo)
            for _ in range(600):
                interrupts.during(lambda: ask_everything(client))
            ask_everything(client)
            accepted = client.info()["counters"]["accepted"]
            ask_everything(client)
            assert client.info()["counters"]["accepted"] == accepted, "no connection is kept"
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) <= descriptors, "none is left behind"
            return interrupts.number

    assert in_child(work) >= 600


def test_an_interrupted_write_happens_once_or_not_at_all(bus: BrokerProcess) -> None:
    def work() -> tuple[int, int, int]:
        begun = done = 0

        def increment() -> None:
            nonlocal begun, done
            begun += 1
            client.increment("n")
            done += 1

        with udsbus.connect(bus.address, timeout=PATIENCE) as client:
            interrupts = Interrupts(5, within=0.0005)
            for _ in range(600):
                interrupts.during(increment)
            found = client.get("n")
            client.delete("n")
            return done, found, begun

    done, found, begun = in_child(work)
    assert done <= found <= begun
    assert begun > done


def test_an_interrupted_watch_leaves_nothing_behind(bus: BrokerProcess) -> None:
    """Nobody has got it, so nobody could close it."""

    def work() -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client, client.watch("other"):
            interrupts = Interrupts(5, within=0.0005)

            def watch() -> None:
                client.subscribe("topic").close()
                client.watch("a/*").close()

            watches = client.info()["watches"]
            for _ in range(300):
                interrupts.during(watch)
            watch()  # whatever was not told yet is told with this
            wait_until(lambda: client.info()["watches"] == watches, "the watches to end")
            wait_until(lambda: client.publish("topic", 1) == 0, "the subscriptions to end")

    in_child(work)


def test_handlers_may_use_the_client_in_the_middle_of_a_request(
    filled: Client, bus: BrokerProcess
) -> None:
    def work() -> tuple[int, int]:
        with udsbus.connect(bus.address, timeout=PATIENCE) as client:

            def handle(number: int) -> None:
                assert client.increment("handled") == number
                ask_everything(client)

            with Ticks(0.005, 100_000, handle) as ticks:
                while ticks.number < 150:
                    ask_everything(client)
            return ticks.number, client.get("handled")

    handled, counted = in_child(work)
    assert handled == counted >= 150
    filled.ping()


def test_a_handler_may_close_the_client_of_a_busy_watch(bus: BrokerProcess) -> None:
    """What a handler of SIGTERM does. The loop over the changes ends, whatever it was doing."""

    def work() -> None:
        for seed in range(40):
            with udsbus.connect(bus.address, timeout=PATIENCE) as client:
                watch = client.watch("busy")
                with client.pipeline() as p:
                    for number in range(1_000):
                        p.set("busy", number)
                delay = random.Random(seed).uniform(1e-4, 2e-3)
                with Ticks(delay, 1_000, lambda number, client=client: client.close()):  # type: ignore[misc]
                    for change in watch:
                        assert change.key == "busy"

    in_child(work)
    with udsbus.connect(bus.address) as client:
        client.delete("busy")


def test_an_interrupt_in_the_midst_of_a_fork(client: Client, bus: BrokerProcess) -> None:
    """Python drops it where it comes in a function that is called at a fork. The child has
    connections of its own all the same, and the parent can fork and watch as before."""

    def work() -> int:
        parent, chance = os.getpid(), random.Random(9)

        def strike(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, strike)
        sys.unraisablehook = lambda _: None  # what was dropped is told on stderr
        with udsbus.connect(bus.address, timeout=PATIENCE) as own, own.watch("a") as watch:
            for turn in range(300):
                accepted = own.info()["counters"]["accepted"]
                child = 0
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 4e-4))
                    child = os.fork()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    pass
                if os.getpid() != parent:
                    os._exit(own.info()["counters"]["accepted"] > accepted)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if child:
                    assert os.waitpid(child, 0)[1] >> 8 == 1, "it has used its parent's connection"
                own.set("a", turn)
                change = watch.get(timeout=PATIENCE)
                assert change is not None
                assert change.value == turn
        return turn

    assert in_child(work) == 299

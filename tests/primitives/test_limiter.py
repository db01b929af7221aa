"""A token bucket that processes share."""

from __future__ import annotations

import signal
from time import monotonic
from typing import Any

import pytest

import udsbus
from tests.client.support import PATIENCE, Child, in_child
from tests.harness import BrokerProcess
from udsbus import Client, InvalidRequest

HOUR = 1 / 3600
"""So slow that nothing comes during a test."""


def test_no_more_than_there_are(client: Client, bus: BrokerProcess) -> None:
    """Whoever takes them, and however many do at once."""

    def take() -> int:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            limiter = mine.rate_limiter("shared", HOUR, burst=50)
            return sum(limiter.try_acquire() for _ in range(40))

    children = [Child(take) for _ in range(4)]
    assert sum(child.result() for child in children) == 50
    assert client.rate_limiter("shared", HOUR, burst=50).available() < 1


def test_who_takes_too_many_waits(client: Client) -> None:
    limiter = client.rate_limiter("a", 100, burst=1)
    began = monotonic()
    for _ in range(4):
        assert limiter.acquire()
    with limiter:
        assert monotonic() - began > 4 / 100 - 0.001, "the first at once, each other 10 ms later"


def test_a_bucket_fills_again(client: Client) -> None:
    limiter = client.rate_limiter("b", 200, burst=2)
    assert limiter.available() == 2
    assert limiter.acquire(2)
    assert not client.exists("rates/b") or limiter.available() < 2
    assert limiter.acquire(2), "that waits for it"
    assert client.ttl("rates/b") or limiter.available() == 2, "what is full needs no key"


def test_longer_than_one_would_wait(client: Client) -> None:
    limiter = client.rate_limiter("c", HOUR, burst=2)
    assert limiter.acquire(timeout=0)
    assert limiter.acquire(timeout=0)
    before = limiter.available()
    began = monotonic()
    assert limiter.acquire(timeout=3_000) is False
    assert monotonic() - began < 1_000, "at once"
    assert limiter.available() == pytest.approx(before, abs=0.1), "and has taken none"


def test_who_is_interrupted_takes_none(bus: BrokerProcess) -> None:
    def work() -> list[float]:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            limiter = mine.rate_limiter("d", HOUR, burst=1)
            limiter.acquire()
            left = [limiter.available()]
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                    limiter.acquire()
                left.append(limiter.available())
            return left

    assert in_child(work) == pytest.approx([0] * 4, abs=0.1)


def test_a_clock_that_began_anew(client: Client) -> None:
    """The machine was started again, and what is kept tells of a time that is not yet."""
    limiter = client.rate_limiter("e", 1, burst=5)
    client.set("rates/e", monotonic() + 1e6, ttl=3)
    assert 2 <= limiter.available() < 5
    client.set("rates/e", 0.5, ttl=3)
    assert limiter.available() == 5


def test_wrong_arguments(client: Client) -> None:
    wrong: list[Any] = [0, -1, float("inf"), float("nan"), "1", None, True]
    for rate in wrong:
        with pytest.raises(InvalidRequest, match="rate must be"):
            client.rate_limiter("x", rate)
    for burst in (0, 0.5, -1, float("nan"), "1"):
        with pytest.raises(InvalidRequest, match="burst must be"):
            client.rate_limiter("x", 1, burst)  # type: ignore[arg-type]
    limiter = client.rate_limiter("x", 5)
    for n in (0, -1, 5.1, "1", float("nan")):
        with pytest.raises(InvalidRequest, match="n must be"):
            limiter.acquire(n)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="timeout must be"):
        limiter.acquire(timeout=-1)
    assert client.keys("rates/x") == []

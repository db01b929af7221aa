"""A number that processes count on together."""

from __future__ import annotations

import pytest

import udsbus
from tests.client.support import PATIENCE, Child
from tests.harness import BrokerProcess
from udsbus import Client, InvalidRequest


def test_counting(client: Client) -> None:
    counter = client.counter("jobs")
    assert (counter.value, client.exists("counters/jobs")) == (0, False)
    assert counter.increment() == 1
    assert counter.decrement(3) == -2
    assert counter.increment(0.5) == -1.5
    same = counter
    counter += 2
    counter -= 1
    assert same is counter
    assert (counter.value, int(counter), float(counter)) == (-0.5, 0, -0.5)
    assert client.get("counters/jobs") == -0.5
    counter.reset()
    assert client.counter("jobs").value == 0


def test_none_is_lost(bus: BrokerProcess, client: Client) -> None:
    """As it is with `value += 1` of a `multiprocessing.Value`, or of an attribute of a Manager's
    Namespace."""

    def count() -> None:
        with udsbus.connect(bus.address, timeout=PATIENCE) as mine:
            counter = mine.counter("n")
            for _ in range(500):
                counter += 1

    children = [Child(count) for _ in range(4)]
    for child in children:
        child.result()
    assert client.counter("n").value == 2_000


def test_what_is_wrong(client: Client) -> None:
    counter = client.counter("wrong")
    for wrong in ("1", None, [1]):
        for method in (counter.increment, counter.decrement, counter.reset):
            with pytest.raises(InvalidRequest, match="must be an int or a float"):
                method(wrong)  # type: ignore[arg-type]
    client.set("counters/wrong", "text")
    with pytest.raises(InvalidRequest, match="does not hold a number"):
        counter.increment()
    with pytest.raises(InvalidRequest, match="does not hold a number"):
        counter.value  # noqa: B018
    with pytest.raises(InvalidRequest, match="empty segment"):
        client.counter("").increment()

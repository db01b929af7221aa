"""How long a request may take: as the client says, or the block that it is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import udsbus
from udsbus import Client, InvalidRequest, RequestTimeout

from .support import PATIENCE, FakeBroker, Silence, in_child, in_threads

SHORT = 0.05


def never(method: str, params: list[Any]) -> Any:
    raise Silence


@pytest.fixture
def patient(address: str) -> Iterator[Client]:
    """A client of a broker that never answers."""
    with FakeBroker(address, never), udsbus.connect(address, timeout=PATIENCE) as client:
        yield client
        client.timeout = SHORT  # for the goodbye


def within(client: Client, ask: Callable[[Client], object]) -> str:
    began = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        ask(client)
    assert time.monotonic() - began < PATIENCE / 2
    return str(caught.value)


REQUESTS: dict[str, Callable[[Client], object]] = {
    "get": lambda c: c.get("a"),
    "set": lambda c: c.set("a", 1),
    "update": lambda c: c.update("a", lambda value: value),
    "keys": lambda c: c.keys(),
    "lock": lambda c: c.lock("a").acquire(timeout=SHORT),
    "pipeline": lambda c: ask_together(c),
    "watch": lambda c: c.watch("a"),
    "subscribe": lambda c: c.subscribe("a"),
}


def ask_together(client: Client) -> None:
    with client.pipeline() as p:
        p.get("a")


@pytest.mark.parametrize("name", REQUESTS)
def test_each_request_in_the_block_obeys(patient: Client, name: str) -> None:
    with patient.timeout_of(SHORT):
        assert "within 0." in within(patient, REQUESTS[name])


def test_blocks_stand_in_one_another_and_end_with_an_exception(patient: Client) -> None:
    patient.timeout = 0.3
    with pytest.raises(ZeroDivisionError), patient.timeout_of(0.2):
        with patient.timeout_of(0.1):
            assert "within 0.1 s" in within(patient, REQUESTS["get"])
        assert "within 0.2 s" in within(patient, REQUESTS["get"])
        raise ZeroDivisionError
    assert "within 0.3 s" in within(patient, REQUESTS["get"])


def test_it_is_of_this_thread_alone(patient: Client) -> None:
    patient.timeout = 0.3
    with patient.timeout_of(0.1):
        (message,) = in_threads(lambda: within(patient, REQUESTS["get"]))
        assert "within 0.3 s" in message
        assert "within 0.1 s" in in_child(lambda: within(patient, REQUESTS["get"]))

    def after_the_block() -> str:
        return within(patient, REQUESTS["get"])

    assert "within 0.3 s" in in_child(after_the_block)


def test_it_may_be_longer_too(address: str) -> None:
    def slow(method: str, params: list[Any]) -> Any:
        time.sleep(4 * SHORT)
        return True

    with FakeBroker(address, slow), udsbus.connect(address, timeout=SHORT) as client:
        with client.timeout_of(PATIENCE):
            assert client.exists("a")
        within(client, REQUESTS["get"])


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "5", None, True])
def test_what_is_no_time(client: Client, seconds: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds above 0"):
        with client.timeout_of(seconds):
            pass

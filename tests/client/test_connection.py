"""Requests whose answer comes late, or never, or from another broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import msgpack
import pytest

import udsbus
from tests.harness import BrokerProcess, running_broker, wait_until
from udsbus import BrokerUnavailable, Client, InvalidRequest, ProtocolError, RequestTimeout

from .support import (
    PATIENCE,
    FakeBroker,
    Hangup,
    Silence,
    Task,
    Ticks,
    in_child,
    notification,
    stopped,
)

SHORT = 0.2


def pipelined(client: Client) -> Any:
    with client.pipeline() as p:
        result = p.get("a")
    return result.value


def transacted(client: Client) -> Any:
    with client.transaction() as t:
        result = t.get("a")
    return result.value


ATTEMPTS: dict[str, Callable[[Client], Any]] = {
    "get": lambda c: c.get("a"),
    "set": lambda c: c.set("a", 1),
    "a set of much": lambda c: c.set("a", bytes(20_000_000)),
    "pipeline": pipelined,
    "transaction": transacted,
    "watch": lambda c: c.watch("a"),
    "initial watch": lambda c: c.watch("a", initial=True),
    "on_change": lambda c: c.on_change("a", print),
    "subscribe": lambda c: c.subscribe("a"),
    "connect": lambda c: udsbus.connect(c.address, timeout=c.timeout),
}


@pytest.fixture(params=ATTEMPTS)
def attempt(request: pytest.FixtureRequest) -> Callable[[Client], Any]:
    return ATTEMPTS[request.param]


# --- no answer in time --------------------------------------------------------------------------


@pytest.fixture
def hasty(bus: BrokerProcess) -> Iterator[Client]:
    """A client that does not wait for long."""
    with udsbus.connect(bus.address, timeout=SHORT) as client, client.watch("warmed/up"):
        yield client
        client.timeout = PATIENCE
        for key in client.keys():
            client.delete(key)


def test_a_broker_that_stands_still(
    hasty: Client, bus: BrokerProcess, attempt: Callable[[Client], Any]
) -> None:
    """The attempt times out, and when the broker goes on no stale answer turns up."""
    with stopped(bus.pid), pytest.raises(RequestTimeout, match=r"within 0\.2 s|since 0\.2 s"):
        attempt(hasty)
    hasty.timeout = PATIENCE
    for number in range(20):
        hasty.set(f"b/{number}", number)
        assert hasty.get(f"b/{number}") == number
    assert hasty.get("absent", "nothing") == "nothing"


def test_a_watch_that_timed_out_is_forgotten(hasty: Client, bus: BrokerProcess) -> None:
    """The broker carries it out when it goes on. Nobody shall be told for nobody."""
    hasty.timeout = PATIENCE
    watches = hasty.info()["watches"]
    hasty.timeout = SHORT
    for start in (hasty.watch, hasty.subscribe):
        with stopped(bus.pid), pytest.raises(RequestTimeout):
            start("b")
    hasty.timeout = PATIENCE
    with hasty.watch("in/order"), hasty.subscribe("in/order"):
        assert hasty.publish("b", 1) == 0
        assert hasty.info()["watches"] == watches + 1


@pytest.mark.parametrize("way", ["get", "pipeline", "watch"])
def test_signals_do_not_put_the_time_out_off(address: str, way: str) -> None:
    """Each interrupts the system call that waits; it must not begin to wait anew."""

    def wait() -> int:
        with Ticks(0.1, most=100) as ticks, pytest.raises(RequestTimeout):
            ATTEMPTS[way](client)
        return ticks.number

    with (
        FakeBroker(address, lambda *_: (_ for _ in ()).throw(Silence())),
        udsbus.connect(address, timeout=1.0) as client,
    ):
        assert in_child(wait) >= 3


def test_an_answer_that_trickles_in_is_not_in_time(address: str) -> None:
    """The time-out is for the request, not for each part of its answer."""
    parts = 0

    def answer(method: str, params: list[Any]) -> Any:
        return b"\x94\x01\x02\xc0\xc4\xff"  # the head of a response with 255 bytes

    def trickle() -> None:
        nonlocal parts
        while not enough.wait(SHORT / 4):
            parts += 1
            broker.send(b"\x00")
            assert parts < 200, "it waits for ever"

    enough = threading.Event()
    with FakeBroker(address, answer) as broker, udsbus.connect(address, timeout=SHORT) as client:
        task = Task(trickle)
        with pytest.raises(RequestTimeout):
            client.get("a")
        enough.set()
        task.result()
    assert parts < 30


def test_an_answer_whose_rest_does_not_come(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up just when the first part has been received."""
    answered = threading.Event()
    asked = False

    def clock() -> float:
        nonlocal asked
        began, asked = not asked, True
        return monotonic() + (PATIENCE * 2 if answered.is_set() and not began else 0)

    def answer(method: str, params: list[Any]) -> Any:
        answered.set()
        return b"\x94\x01\x02\xc0\xc4\xff"  # the head of a response with 255 bytes

    with FakeBroker(address, answer), udsbus.connect(address, timeout=PATIENCE) as client:
        monkeypatch.setattr("udsbus.client.connection.monotonic", clock)
        with pytest.raises(RequestTimeout):
            client.get("a")


# --- the broker comes back ----------------------------------------------------------------------


def test_an_idle_client_reconnects_at_the_next_use(
    address: str, attempt: Callable[[Client], Any]
) -> None:
    """Also for a write: none of it has left."""
    with running_broker(address):
        client = udsbus.connect(address)
        client.set("a", 1)
    with client, running_broker(address) as second:
        attempt(client)
        assert client.info()["pid"] == second.pid


def test_a_killed_broker_is_found_again_by_every_thread(address: str) -> None:
    broker = BrokerProcess(address)
    killed = threading.Barrier(9)

    def work() -> int:
        client.ping()
        killed.wait(PATIENCE)
        killed.wait(PATIENCE)
        return client.increment("a")

    with udsbus.connect(address) as client:
        tasks = [Task(work) for _ in range(8)]
        killed.wait(PATIENCE)
        broker.kill()
        with running_broker(address):
            killed.wait(PATIENCE)
            assert sorted(task.result() for task in tasks) == list(range(1, 9))


def test_a_read_waits_for_the_broker_to_come_back(address: str) -> None:
    """Asked while nobody is there, it goes on until the time-out."""
    with running_broker(address):
        client = udsbus.connect(address, timeout=PATIENCE)
    with client:
        task = Task(lambda: client.get("a", "nothing"))
        with running_broker(address):
            assert task.result() == "nothing"


def test_without_a_broker_it_gives_up_after_the_time_out(
    address: str, attempt: Callable[[Client], Any]
) -> None:
    with running_broker(address):
        client = udsbus.connect(address, timeout=SHORT)
    with client, pytest.raises(BrokerUnavailable, match="there is no such socket"):
        attempt(client)


# --- the connection ends in the middle of a request -----------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda c: c.get("a"),
        lambda c: c.entry("a"),
        lambda c: c.exists("a"),
        lambda c: c.ttl("a"),
        lambda c: c.revision(),
    ],
)
def test_a_read_is_asked_again(address: str, read: Callable[[Client], Any]) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        if len(broker.requests) < 3:
            raise Hangup
        return None

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        assert read(client) is None
        assert len(broker.requests) == 3
        assert len(set(broker.requests)) == 1


def test_a_read_is_not_asked_for_ever(address: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        raise Hangup

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match="the connection was lost 5 times"):
            client.get("a")
        assert broker.requests == ["get"] * 5


@pytest.mark.parametrize(
    "write",
    [
        lambda c: c.set("a", 1),
        lambda c: c.set_many({"a": 1}),
        lambda c: c.delete("a"),
        lambda c: c.increment("a"),
        lambda c: c.expire("a", 1),
        lambda c: c.persist("a"),
        lambda c: c.publish("a", 1),
        pipelined,
        transacted,
    ],
)
def test_a_write_whose_fate_is_unknown_is_not_sent_again(
    address: str, write: Callable[[Client], Any]
) -> None:
    """The broker that comes back knows nothing of it: it keeps its state in memory."""

    def answer(method: str, params: list[Any]) -> Any:
        broker.bus = "another"
        raise Hangup

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match="nobody knows whether") as caught:
            write(client)
        assert "not sent again, since it is another broker" in str(caught.value)
        assert len(broker.requests) == 1
        broker.answer = lambda *_: 5
        assert client.revision() == 5, "the client is usable afterwards"


def test_what_the_broker_says_of_the_end_is_passed_on(address: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        broker.send(notification("closing", "shutdown", "the broker is stopping"))
        broker.bus += "!"
        raise Hangup

    with FakeBroker(address, answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(BrokerUnavailable, match="the broker is stopping before it answered"):
            client.set("a", 1)
        with pytest.raises(BrokerUnavailable, match="lost 5 times: the broker is stopping"):
            client.get("a")


# --- a broker that is none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP"),
        pytest.param(b"\xc1", id="no MessagePack"),
        pytest.param(msgpack.packb([1, 99, None, 1]), id="answer to another request"),
        pytest.param(msgpack.packb([7, 1]), id="no message"),
    ],
)
@pytest.mark.parametrize("ask", [lambda c: c.get("a"), pipelined])
def test_an_answer_that_is_none(address: str, answer: bytes, ask: Callable[[Client], Any]) -> None:
    with FakeBroker(address, lambda *_: answer) as broker, udsbus.connect(address) as client:
        with pytest.raises(ProtocolError):
            ask(client)
        broker.answer = lambda *_: None
        assert ask(client) is None, "the client is usable afterwards"


def test_a_server_that_is_no_broker(address: str) -> None:
    """It says something else before it is asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()

        def greet() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"220 ready\r\n")
                sock.recv(1_000)

        task = Task(greet)
        with pytest.raises(ProtocolError, match="the broker sent something else"):
            udsbus.connect(address)
        task.result()


def test_another_protocol_version_is_named(address: str) -> None:
    def answer(method: str, params: list[Any]) -> Any:
        raise AssertionError("asked something after a refused hello")

    with FakeBroker(address, answer) as broker:
        broker.hello = msgpack.packb([1, 1, [8, "speaks version 2, not 1"], {"version": 2}])
        with pytest.raises(ProtocolError, match="speaks version 2") as caught:
            udsbus.connect(address)
    assert caught.value.details == {"version": 2}


def test_an_unknown_error_number_is_an_error(address: str) -> None:
    """A newer broker may have more of them."""

    def answer(method: str, params: list[Any]) -> Any:
        return msgpack.packb([1, 2, [999, "too blue"], {"error": "blue", "hue": 5}])

    with FakeBroker(address, answer), udsbus.connect(address) as client:
        with pytest.raises(udsbus.Error, match="too blue") as caught:
            client.get("a")
    assert type(caught.value) is udsbus.Error
    assert caught.value.details == {"hue": 5}


def test_interrupt_of_a_request_in_another_thread(address: str) -> None:
    asked = threading.Event()

    def answer(method: str, params: list[Any]) -> Any:
        asked.set()
        raise Silence

    with FakeBroker(address, answer):
        client = udsbus.connect(address, timeout=PATIENCE)
        task = Task(lambda: client.get("a"))
        assert asked.wait(PATIENCE)
        client.close()
        with pytest.raises(InvalidRequest, match="this client is closed"):
            task.result(PATIENCE / 3)


def test_a_broker_that_dies_while_it_greets(address: str) -> None:
    """Who connects at that very moment is let in by the next one."""
    with FakeBroker(address, lambda method, params: 7) as broker:
        broker.hello = b""
        connecting = Task(lambda: udsbus.connect(address, timeout=PATIENCE))
        wait_until(lambda: broker.sent, "it to greet")
        broker.hello = None
        broker.hang_up()
        with connecting.result() as client:
            assert client.revision() == 7
        assert [method for _, method, _ in broker.sent] == ["hello", "hello", "ping", "goodbye"]

"""examples/gateway: real gateways in processes of their own, real WebSocket connections to them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus

from ..harness import BrokerProcess, wait_until

try:
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
    from websockets.sync.client import ClientConnection, connect
except ImportError as missing:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip(f"{missing}: pip install 'udsbus[examples]'", allow_module_level=True)

from examples.gateway.presence import PLACES, Place, Presence, places

ROOT = Path(__file__).parents[2]


class Seen:
    """What a watch on the bus has told, and so what is there. At each revision it checks what must
    hold at each."""

    def __init__(self, bus: udsbus.Client, changes: udsbus.Watch) -> None:
        self._bus = bus
        self._changes = changes
        self._revision = 0
        self.there: dict[str, Any] = {}
        self.kinds: dict[str, list[str]] = {}
        """Key → all that has happened to it."""

    def until(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            change = self._changes.get(timeout=20)
            assert change is not None, f"waited in vain for: {what}; there is {self.there}"
            if change.revision > self._revision:
                self.check()
            self._revision = change.revision
            self.kinds.setdefault(change.key, []).append(change.kind)
            if change.value is None:
                del self.there[change.key]
            else:
                self.there[change.key] = change.value

    def until_there(self, *keys: str) -> None:
        self.until(lambda: all(key in self.there for key in keys), f"{keys} to be there")

    def until_now(self) -> None:
        """All that has happened by now, and maybe more."""
        now = f"now/{self._bus.increment('times')}"
        self._bus.set(now, True)
        self.until_there(now)

    def until_gone(self, *keys: str) -> None:
        self.until_now()  # they may not even have been seen to come
        self.until(lambda: not any(key in self.there for key in keys), f"{keys} to be gone")

    def until_all_gone(self) -> None:
        """Until nobody is connected, now that nobody connects any more."""
        self.until_now()
        self.until(lambda: not self.users(), "all users to be gone")
        self.check()
        assert self._bus.items("users/**") + self._bus.items("seats/**") == []

    def users(self) -> list[str]:
        return [key for key in self.there if key.startswith("users/")]

    def check(self) -> None:
        held: dict[str, str] = {}
        for key in self.users():
            _, user, *place = key.split("/")
            if place:
                assert int(place[0]) in range(1, PLACES + 1)
                assert f"users/{user}" in self.there, f"{user} is connected, but gone"
            else:
                held |= dict.fromkeys(self.there[key], user)
        seats = {key: user for key, user in self.there.items() if key.startswith("seats/")}
        assert seats == held


class Gateway:
    """One in a process of its own, as somebody would start it. Not ready at once: see `url`."""

    def __init__(self, name: str, address: str, log: Path) -> None:
        self._log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "examples.gateway.server", name],
                cwd=ROOT, env={**os.environ, "UDSBUS_SOCKET": address}, stdout=file, stderr=file,
            )  # fmt: skip
        self.url = ""

    def end(self, number: int) -> int:
        """End it by a signal; returns how it has."""
        self.process.send_signal(number)
        wait_until(lambda: self.process.poll() is not None, "the end of the gateway")
        return self.process.wait()

    def log(self) -> str:
        return self._log.read_text()


class World:
    """A bus with gateways, and whoever connects to them."""

    def __init__(self, address: str, runtime: Path, stack: contextlib.ExitStack) -> None:
        self._address = address
        self._runtime = runtime
        self._stack = stack
        self.bus = stack.enter_context(udsbus.connect(address, name="test"))
        self.seen = Seen(self.bus, stack.enter_context(self.bus.watch("**")))

    def start(self, name: str) -> Gateway:
        gateway = Gateway(name, self._address, self._runtime / f"{name}.log")
        self._stack.callback(gateway.process.wait)
        self._stack.callback(gateway.process.kill)
        self.seen.until_there(f"gateways/{name}")
        gateway.url = self.seen.there[f"gateways/{name}"]
        return gateway

    def user(self, name: str, gateway: Gateway) -> ClientConnection:
        """A connection that has been welcomed. Raises ConnectionClosed if it is refused."""
        connection = self._stack.enter_context(connect(f"{gateway.url}/{name}", proxy=None))
        assert str(connection.recv(timeout=20)).startswith("welcome")
        return connection


@pytest.fixture
def world(broker: BrokerProcess, runtime: Path) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(broker.address, runtime, stack)


@pytest.fixture
def a(world: World) -> Gateway:
    return world.start("A")


@pytest.fixture
def b(world: World) -> Gateway:
    return world.start("B")


def ask(connection: ClientConnection, wish: str) -> str:
    connection.send(wish)
    return str(connection.recv(timeout=20))


# --- through real gateways --------------------------------------------------------------------


def test_the_fourth_connection_is_refused(world: World, a: Gateway, b: Gateway) -> None:
    mine = [world.user("ann", a), world.user("ann", b), world.user("ann", b)]
    for gateway in (a, b):
        with pytest.raises(ConnectionClosed) as refused:
            world.user("ann", gateway)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1008
        assert refused.value.rcvd.reason == "ann has 3 connections already"
    world.user("bob", a)
    mine[1].close()
    world.seen.until_gone("users/ann/2")
    world.user("ann", a)
    with pytest.raises(ConnectionClosed):
        world.user("ann", b)
    assert world.bus.get_many(places("ann")) == dict(zip(places("ann"), "AAB", strict=True))


@pytest.mark.parametrize("path", ["/", "", "/a/b", "/%2A", "/" + "x" * 51])
def test_who_has_no_name_is_not_let_in(world: World, a: Gateway, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(a.url + path, proxy=None):
        pass
    assert refused.value.response.status_code == 404


def test_what_a_user_holds_goes_with_her_last_connection(
    world: World, a: Gateway, b: Gateway
) -> None:
    first, second, bob = world.user("ann", a), world.user("ann", b), world.user("bob", a)
    assert ask(first, "12") == "seat 12 is yours"
    assert ask(second, "13") == "seat 13 is yours"
    assert ask(bob, "12") == "seat 12 is taken"
    assert ask(bob, "a/*") == "seats have numbers from 0 to 99"
    first.close()
    world.seen.until_gone("users/ann/1")
    assert ask(bob, "12") == "seat 12 is taken"
    second.close()
    world.seen.until_gone("users/ann")
    assert ask(bob, "12") == "seat 12 is yours"
    bob.close()
    world.seen.until_all_gone()
    kinds = world.seen.kinds
    assert kinds["users/ann"] == ["created", "updated", "updated", "deleted"]
    assert kinds["seats/13"] == ["created", "deleted"]
    assert kinds["seats/12"] == ["created", "deleted"] * 2
    assert kinds["users/bob"] == ["created", "updated", "deleted"]


def test_a_connection_that_is_cut_is_one_that_has_ended(world: World, a: Gateway) -> None:
    ann = world.user("ann", a)
    assert ask(ann, "12") == "seat 12 is yours"
    ann.socket.shutdown(socket.SHUT_RDWR)
    world.seen.until_gone("users/ann/1", "users/ann", "seats/12")
    assert a.process.poll() is None
    assert "Traceback" not in a.log()


def test_a_gateway_is_killed(world: World, a: Gateway, b: Gateway) -> None:
    ann = [world.user("ann", a), world.user("ann", a), world.user("ann", b)]
    bob, cleo = world.user("bob", a), world.user("cleo", b)
    assert [ask(ann[0], "12"), ask(bob, "7")] == ["seat 12 is yours", "seat 7 is yours"]
    assert ask(cleo, "7") == "seat 7 is taken"
    a.end(signal.SIGKILL)
    world.seen.until_gone("users/ann/1", "users/ann/2", "users/bob")
    assert ask(cleo, "7") == "seat 7 is yours"
    assert ask(cleo, "12") == "seat 12 is taken", "ann is there"
    ann += [world.user("ann", b), world.user("ann", b)]
    for connection in ann[2:]:
        connection.close()
    world.seen.until_gone("users/ann")
    assert ask(cleo, "12") == "seat 12 is yours"
    cleo.close()
    world.seen.until_all_gone()
    kinds = world.seen.kinds
    assert kinds["users/ann"] == ["created", "updated", "deleted"]
    assert kinds["users/bob"] == ["created", "updated", "deleted"]
    assert kinds["users/ann/1"] == ["created", "released", "created", "deleted"]


def test_a_gateway_that_is_kicked_dies(world: World, a: Gateway, b: Gateway) -> None:
    ann = world.user("ann", a)
    assert ask(ann, "12") == "seat 12 is yours"
    (session,) = [one.session for one in world.bus.clients() if one.name == "gateway A"]
    world.bus.kick(session)
    world.seen.until_gone("gateways/A", "users/ann", "seats/12")
    wait_until(lambda: a.process.poll() == 1, "the end of the gateway")
    with pytest.raises(ConnectionClosed):
        ann.recv(timeout=20)


def test_a_gateway_that_has_lost_what_it_had_dies(world: World, a: Gateway, b: Gateway) -> None:
    ann, bob = world.user("ann", a), world.user("bob", a)
    assert ask(bob, "7") == "seat 7 is yours"
    world.bus.delete("users/ann/1")
    ann.send("12")
    world.seen.until_gone("gateways/A", "users/ann", "users/bob", "seats/7")
    wait_until(lambda: a.process.poll() == 1, "the end of the gateway")
    assert "Conflict" in a.log()


def test_nothing_is_left_when_the_last_gateway_is_asked_to_end(world: World, a: Gateway) -> None:
    ann = world.user("ann", a)
    assert ask(ann, "12") == "seat 12 is yours"
    assert a.end(signal.SIGTERM) == 0
    assert world.bus.keys("gateways/*") == world.bus.keys("users/**") == []
    assert world.bus.keys("seats/*") == []
    with pytest.raises(ConnectionClosed) as closed:
        ann.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert "Traceback" not in a.log()


def test_what_the_last_gateway_has_left_the_next_one_releases(world: World, a: Gateway) -> None:
    ann = world.user("ann", a)
    assert ask(ann, "12") == "seat 12 is yours"
    a.end(signal.SIGKILL)
    world.seen.until_gone("users/ann/1")
    world.start("B")
    world.seen.until_gone("users/ann", "seats/12")


def test_a_gateway_that_hangs_stalls_nobody_at_another(
    world: World, a: Gateway, b: Gateway
) -> None:
    ann, bob = [world.user("ann", a), world.user("ann", b)], world.user("bob", b)
    assert ask(ann[1], "12") == "seat 12 is yours"
    os.kill(a.process.pid, signal.SIGSTOP)
    bob.close()
    world.seen.until_gone("users/bob")
    ann[1].close()
    world.seen.until_gone("users/ann/2")
    ann[1] = world.user("ann", b)
    assert ask(ann[1], "13") == "seat 13 is yours"
    a.end(signal.SIGKILL)
    world.seen.until_gone("users/ann/1")
    ann[1].close()
    world.seen.until_all_gone()
    assert world.seen.kinds["users/ann"] == ["created", "updated", "updated", "deleted"]


@pytest.mark.skipif(sys.platform != "linux", reason="the pair needs pidfds, of Linux")
def test_the_broker_is_killed_and_nobody_goes(runtime: Path) -> None:
    with udsbus.LocalBroker(state=runtime / "state") as broker, contextlib.ExitStack() as stack:
        world = World(broker.address, runtime, stack)
        a = world.start("A")
        ann = world.user("ann", a)
        assert ask(ann, "12") == "seat 12 is yours"
        wait_until(lambda: world.bus.info()["standby"] is not None, "a standby")
        os.kill(broker.pid, signal.SIGKILL)
        bob = world.user("bob", a)
        assert ask(bob, "12") == "seat 12 is taken"
        ann.close()
        world.seen.until_gone("users/ann")
        assert ask(bob, "12") == "seat 12 is yours"
        bob.close()
        world.seen.until_all_gone()
        assert world.seen.kinds["users/ann"] == ["created", "updated", "deleted"]
        assert "Traceback" not in a.log()


class Rush:
    """Threads that connect and disconnect the same few users, as fast as they can."""

    def __init__(self, gateways: list[Gateway], threads: int, times: int) -> None:
        self._gateways = gateways
        self._times = times
        self.welcomed = threading.Semaphore(0)
        self.wrong: list[tuple[Gateway, str]] = []
        """What was no visit, and not refused either."""
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Rush:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(100)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        for _ in range(self._times):
            gateway = chance.choice(self._gateways)
            user, wish = chance.choice(["ann", "ann", "bob"]), str(chance.randrange(5))
            try:
                self._visit(gateway, user, wish, cut=chance.random() < 0.3)
            except (OSError, EOFError, WebSocketException) as error:
                if "1008" not in str(error):
                    self.wrong.append((gateway, repr(error)))

    def _visit(self, gateway: Gateway, user: str, wish: str, cut: bool) -> None:
        with connect(f"{gateway.url}/{user}", proxy=None) as connection:
            connection.recv(timeout=20)
            self.welcomed.release()
            if int(wish) % 2:
                ask(connection, wish)
            if cut:
                connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_many_come_and_go_at_once(world: World, a: Gateway, b: Gateway) -> None:
    with Rush([a, b], threads=6, times=25) as rush:
        pass
    assert rush.wrong == []
    world.seen.until_all_gone()
    kinds = world.seen.kinds["users/ann"]
    assert kinds.count("created") == kinds.count("deleted")
    everyone = [world.user("ann", gateway) for gateway in (a, b, a)]
    with pytest.raises(ConnectionClosed):
        world.user("ann", b)
    assert ask(everyone[0], "1") == "seat 1 is yours"
    for gateway in (a, b):
        assert gateway.process.poll() is None
        assert "Traceback" not in gateway.log()


@pytest.mark.slow
def test_a_gateway_is_killed_while_many_come_and_go(world: World, a: Gateway, b: Gateway) -> None:
    with Rush([a, b], threads=6, times=25) as rush:
        for _ in range(20):
            assert rush.welcomed.acquire(timeout=20)
        a.process.kill()
    a.process.wait()
    assert [error for gateway, error in rush.wrong if gateway is b] == []
    world.seen.until_all_gone()
    assert [place for _ in range(PLACES) if (place := world.user("ann", b))]
    with pytest.raises(ConnectionClosed):
        world.user("ann", b)


# --- the races, one by one --------------------------------------------------------------------


class Overtaken:
    """Lets something happen after the next time that a client has looked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def by(self, act: Callable[[], object], after: str = "entry") -> None:
        look = getattr(udsbus.Client, after)

        def look_and_be_overtaken(client: udsbus.Client, at: Any) -> Any:
            found = look(client, at)
            self._patch.undo()
            act()
            return found

        self._patch.setattr(udsbus.Client, after, look_and_be_overtaken)


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Overtaken:
    return Overtaken(monkeypatch)


@pytest.fixture
def here(world: World) -> Presence:
    return Presence(world.bus, "here")


@pytest.fixture
def elsewhere(broker: BrokerProcess) -> Iterator[Presence]:
    with udsbus.connect(broker.address) as bus:
        yield Presence(bus, "elsewhere")


def entered(presence: Presence, user: str) -> Place:
    place = presence.enter(user)
    assert place is not None
    return place


def test_who_has_come_back_is_not_released(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    place = entered(here, "ann")
    assert here.hold(place, "seats/1")
    back: list[Place] = []
    overtaken.by(lambda: back.append(entered(elsewhere, "ann")))
    here.leave(place)
    assert world.bus.get_many(["users/ann", "seats/1"]) == {
        "users/ann": ["seats/1"], "seats/1": "ann",
    }  # fmt: skip
    elsewhere.leave(back[0])
    assert world.bus.keys() == []


def test_who_comes_back_too_late_begins_anew(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    place = entered(here, "ann")
    assert here.hold(place, "seats/1")
    overtaken.by(lambda: here.leave(place))
    entered(elsewhere, "ann")
    assert dict(world.bus.items()) == {"users/ann": [], "users/ann/1": "elsewhere"}


def test_who_comes_at_once_at_two_gateways_comes_once(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    overtaken.by(lambda: elsewhere.hold(entered(elsewhere, "ann"), "seats/1"))
    assert entered(here, "ann").key == "users/ann/2"
    assert world.bus.get("users/ann") == ["seats/1"]


def test_one_place_is_not_given_to_two(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    entered(elsewhere, "ann")
    overtaken.by(lambda: entered(elsewhere, "ann"), after="get_many")
    assert entered(here, "ann").key == "users/ann/3"
    assert here.enter("ann") is None
    assert world.bus.get_many(places("ann")) == dict(
        zip(places("ann"), ["elsewhere", "elsewhere", "here"], strict=True)
    )


def test_a_seat_is_not_given_to_two_and_none_is_forgotten(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    ann, too, bob = entered(here, "ann"), entered(elsewhere, "ann"), entered(elsewhere, "bob")
    overtaken.by(lambda: elsewhere.hold(bob, "seats/1"))
    assert not here.hold(ann, "seats/1")
    overtaken.by(lambda: elsewhere.hold(too, "seats/2"))
    assert here.hold(ann, "seats/3")
    assert world.bus.get("users/ann") == ["seats/2", "seats/3"]
    assert dict(world.bus.items("seats/*")) == {
        "seats/1": "bob", "seats/2": "ann", "seats/3": "ann",
    }  # fmt: skip


def test_what_was_seen_before_she_came_back_and_left_releases_nothing(
    world: World, here: Presence, elsewhere: Presence, overtaken: Overtaken
) -> None:
    def come_back_and_be_killed() -> None:
        again = entered(elsewhere, "ann")
        assert elsewhere.hold(again, "seats/2")
        world.bus.delete(again.key)

    place = entered(here, "ann")
    overtaken.by(come_back_and_be_killed)
    here.leave(place)
    assert dict(world.bus.items()) == {"users/ann": ["seats/2"], "seats/2": "ann"}
    world.start("A")
    world.seen.until_gone("users/ann", "seats/2")


def test_a_place_that_is_another_s_now_gives_no_right(
    world: World, here: Presence, elsewhere: Presence
) -> None:
    place = entered(here, "ann")
    world.bus.delete(place.key)
    assert entered(elsewhere, "ann").key == place.key
    with pytest.raises(udsbus.Conflict):
        here.hold(place, "seats/1")
    with pytest.raises(udsbus.Conflict):
        here.leave(place)
    assert dict(world.bus.items()) == {"users/ann": [], "users/ann/1": "elsewhere"}


# --- the program, and the page ----------------------------------------------------------------


def test_it_goes_as_the_page_tells() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.gateway"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    page = (ROOT / "docs" / "gateway.md").read_text()
    (told,) = re.findall(r"```\n(gateway A is.*?)```", page, re.S)

    def shape(text: str) -> str:
        return re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)

    assert shape(done.stdout) == shape(told)


def test_the_code_in_the_docs_is_the_example() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    code = (ROOT / "examples" / "gateway" / "presence.py").read_text()
    excerpts = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert excerpts
    for excerpt in excerpts:
        assert excerpt in code

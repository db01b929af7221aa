"""examples/board: real uvicorn workers, real WebSocket connections to them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import udsbus

from ..client.support import wait_for_end
from ..harness import BrokerProcess, RawClient, wait_until

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import ClientConnection, connect
except ImportError as missing:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip(f"{missing}: pip install 'udsbus[examples]'", allow_module_level=True)

from examples.board.board import CHOICES, LINES_KEPT

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
KEYS = 20
"""That are there while others come and go."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and pidfds, of Linux")


class Visitor:
    """A browser: what its page would show, and all that it has shown."""

    def __init__(self, connection: ClientConnection, name: str) -> None:
        self.connection = connection
        self.name = name
        self.key = ""
        """Of her visit."""
        self.state: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = []
        self.lines: list[list[str]] = []

    def see(self) -> None:
        """The next news. Raises ConnectionClosed, TimeoutError."""
        news = json.loads(self.connection.recv(timeout=PATIENCE))
        assert news["changes"] or news["lines"], "nothing is new"
        self.state = self.state | news["changes"]
        self.state = {key: value for key, value in self.state.items() if value is not None}
        self.states.append(self.state)
        self.lines += news["lines"]

    def until(self, condition: Callable[[Visitor], bool]) -> None:
        while not condition(self):
            self.see()

    def votes(self, choice: str) -> int:
        return int(self.state.get(f"board/votes/{choice}", 0))

    def here(self) -> list[str]:
        """The names of those who are here."""
        return sorted(v for key, v in self.state.items() if key.startswith("board/here/"))

    def send(self, wish: str) -> None:
        self.connection.send(wish)

    def until_closed(self) -> int:
        """With which code."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.see()
        return 1006 if closed.value.rcvd is None else closed.value.rcvd.code


class Site:
    """The board with its workers, as somebody would start it."""

    def __init__(self, address: str, log: Path, stack: contextlib.ExitStack, workers: int) -> None:
        self.bus = stack.enter_context(udsbus.connect(address, name="test"))
        self.workers: dict[str, int] = {}
        """Session → pid, of those that are there, who came first first."""
        self._stack = stack
        self._log = log
        self._clients = stack.enter_context(self.bus.watch("$sys/clients/*"))
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # whoever connects before the workers serve waits for them
        self.port = listening.getsockname()[1]
        # uvicorn leaves the socket that it makes of `--fd` to the collector.
        command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-m", "uvicorn"]
        command += ["examples.board.app:app", "--workers", str(workers)]
        command += ["--fd", str(listening.fileno()), "--timeout-graceful-shutdown", "1"]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "UDSBUS_SOCKET": address},
                pass_fds=[listening.fileno()], stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        stack.callback(self._kill)
        self.until(lambda: len(self.workers) == workers)
        self.first, self.second, *_ = self.workers

    def _kill(self) -> None:
        end_group(self.process)

    def log(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        """Follow which workers come and go."""
        while not condition():
            change = self._clients.get(timeout=PATIENCE)
            assert change is not None, f"waited in vain; there are {self.workers}: {self.log()}"
            session = change.key.rpartition("/")[2]
            if change.value is None:
                self.workers.pop(session, None)
            elif change.value["name"] == "board":
                self.workers[session] = change.value["pid"]

    def visitor(self, name: str, worker: str | None = None, slow: bool = False) -> Visitor:
        """Somebody who has just come, to that worker: the others are stopped meanwhile. `slow`: who
        takes nothing until she is asked to see."""
        before = self.bus.keys("board/here/*")
        others = [pid for s, pid in self.workers.items() if worker is not None and s != worker]
        for pid in others:
            stop(pid)
        try:
            sock = socket.socket()
            if slow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # not megabytes
            sock.connect(("127.0.0.1", self.port))
            url = f"ws://127.0.0.1:{self.port}/board?name={name}"
            options: dict[str, Any] = {"max_queue": 1, "compression": None} if slow else {}
            opened = connect(url, sock=sock, max_size=None, close_timeout=0.1, **options)
            visitor = Visitor(self._stack.enter_context(opened), name)
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        visitor.see()
        (visitor.key,) = visitor.state.keys() & set(self.bus.keys("board/here/*")) - set(before)
        assert worker is None or visitor.key.startswith(f"board/here/{worker}.")
        return visitor


def end_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # else its number may be another's by now
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stop(pid: int) -> None:
    """Returns when it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "a stopped worker")


@pytest.fixture
def site(broker: BrokerProcess, runtime: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(broker.address, runtime / "board.log", stack, workers=2)


class Told:
    """What the board was, one revision after the other."""

    def __init__(self, changes: udsbus.Watch, last: str) -> None:
        """Up to when the key `last` comes."""
        self.states: list[dict[str, Any]] = [{}]
        while last not in self.states[-1]:
            together = changes.get_transaction(timeout=PATIENCE)
            assert together
            state = self.states[-1] | {change.key: change.value for change in together}
            self.states.append({key: value for key, value in state.items() if value is not None})

    def check(self, seen: list[dict[str, Any]]) -> None:
        """Each was once, and in this order."""
        at = 0
        for state in seen:
            at = self.states.index(state, at)


# --- who sees what ----------------------------------------------------------------------------


@linux
def test_visitors_of_two_workers_see_the_same(site: Site) -> None:
    with site.bus.watch("board/**") as changes:
        ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
        ann.until(lambda v: v.here() == ["ann", "bob"])
        ann.send("vote tea")
        bob.until(lambda v: v.votes("tea") == 1)
        bob.send("vote tea")
        ann.until(lambda v: v.votes("tea") == 2)
        for number in range(4):
            ann.send(f"say {number}")
            bob.send(f"say {number}")
        for number in range(200):
            site.bus.increment(f"board/votes/{CHOICES[number % 3]}")
            site.bus.set_many({"board/votes/juice": number, "board/votes/milk": -number})
        site.bus.set("board/last", True)
        for visitor in (ann, bob):
            visitor.until(lambda v: "board/last" in v.state and len(v.lines) == 8)
        told = Told(changes, "board/last")
    assert ann.lines == bob.lines
    assert sorted(ann.lines) == [
        [who, str(number)] for who in ("ann", "bob") for number in range(4)
    ]
    assert ann.state == bob.state == told.states[-1] == dict(site.bus.items("board/**"))
    told.check(ann.states)
    told.check(bob.states)
    assert "Traceback" not in site.log()


@linux
def test_who_comes_late_misses_nothing(site: Site) -> None:
    """The board is never twice the same, so one who missed something would see what never was."""
    over = threading.Event()

    def write() -> None:
        for number in itertools.count(KEYS):
            if over.is_set():
                break
            site.bus.set(f"board/votes/{number}", number)
            site.bus.delete(f"board/votes/{number - KEYS}")

    with site.bus.watch("board/**") as changes:
        site.bus.set_many({f"board/votes/{number}": number for number in range(KEYS)})
        writer = threading.Thread(target=write)
        writer.start()
        try:
            late = [site.visitor(f"v{n}", (site.first, site.second)[n % 2]) for n in range(6)]
        finally:
            over.set()
            writer.join()
        site.bus.set("board/last", True)
        for visitor in late:
            visitor.until(lambda v: "board/last" in v.state)
        told = Told(changes, "board/last")
    for visitor in late:
        assert len(visitor.states[0]) > KEYS, "the first news is all that there is"
        assert visitor.state == told.states[-1]
        told.check(visitor.states)


@linux
def test_one_who_is_slow_holds_up_nobody(site: Site) -> None:
    slow, quick = site.visitor("slow", site.first, slow=True), site.visitor("quick", site.first)
    times = 400
    for number in range(times):
        site.bus.set("board/large", [number, os.urandom(20_000).hex()])
        while quick.state.get("board/large", [-1])[0] != number:
            quick.see()
    quick.send("vote tea")
    quick.until(lambda v: v.votes("tea") == 1)
    slow.until(lambda v: v.votes("tea") == 1)
    assert slow.state == quick.state
    assert len(slow.states) < times, "of what it had no room for it is sent the newest"
    numbers = [state["board/large"][0] for state in slow.states if "board/large" in state]
    assert numbers == sorted(numbers)


@linux
def test_one_who_is_slow_misses_old_lines(site: Site) -> None:
    slow, quick = site.visitor("slow", site.first, slow=True), site.visitor("quick", site.first)
    lines = [[str(number), os.urandom(20_000).hex()] for number in range(400)]
    for line in lines:
        site.bus.publish("board/lines", line)
        while quick.lines[-1:] != [line]:
            quick.see()
    slow.until(lambda v: v.lines[-1:] == [lines[-1]])
    assert LINES_KEPT < len(slow.lines) < len(lines)
    assert slow.lines == [line for line in lines if line in slow.lines], "in order"
    assert slow.lines[-LINES_KEPT:] == lines[-LINES_KEPT:]


# --- ends -------------------------------------------------------------------------------------


@linux
def test_a_visitor_goes(site: Site) -> None:
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
    cleo = site.visitor("cleo", site.second)
    cleo.until(lambda v: v.here() == ["ann", "bob", "cleo"])
    ann.connection.close()
    cleo.until(lambda v: v.here() == ["bob", "cleo"])
    bob.connection.socket.shutdown(socket.SHUT_RDWR)  # without a word
    cleo.until(lambda v: v.here() == ["cleo"])
    assert "Traceback" not in site.log()


@linux
def test_a_worker_is_killed(site: Site) -> None:
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.first)
    cleo = site.visitor("cleo", site.second)
    ann.send("vote tea")
    for visitor in (ann, bob, cleo):
        visitor.until(lambda v: v.votes("tea") == 1 and len(v.here()) == 3)
    killed = site.first
    os.kill(site.workers[killed], signal.SIGKILL)
    cleo.until(lambda v: v.here() == ["cleo"])
    assert ann.until_closed() == bob.until_closed() == 1006
    ann = site.visitor("ann")
    assert ann.votes("tea") == 1
    ann.send("vote tea")
    cleo.until(lambda v: v.votes("tea") == 2 and v.here() == ["ann", "cleo"])
    site.until(lambda: killed not in site.workers and len(site.workers) == 2)
    bob = site.visitor("bob", list(site.workers)[-1])
    assert bob.votes("tea") == 2
    cleo.until(lambda v: v.here() == ["ann", "bob", "cleo"])


@linux
def test_who_comes_again_never_sees_an_older_board(site: Site) -> None:
    """Though the worker to which she comes is behind, since it was stopped."""
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
    stop(site.workers[site.second])
    for _ in range(70):  # more than waits for it, so that it may be told of this later
        site.bus.set("board/large", "x" * 500_000)
        site.bus.increment("board/votes/tea")
    ann.until(lambda v: v.votes("tea") == 70)
    os.kill(site.workers[site.first], signal.SIGKILL)
    assert ann.until_closed() == 1006
    os.kill(site.workers[site.second], signal.SIGCONT)
    again = site.visitor("ann")
    assert again.votes("tea") == 70
    bob.until(lambda v: v.votes("tea") == 70 and v.here() == ["ann", "bob"])


@linux
def test_nothing_is_left_when_it_is_asked_to_end(site: Site) -> None:
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
    site.visitor("slow", site.second, slow=True)
    for _ in range(400):
        site.bus.set("board/large", os.urandom(20_000).hex())
    site.bus.delete("board/large")
    ann.send("vote tea")
    bob.until(lambda v: v.votes("tea") == 1)
    pids = list(site.workers.values())
    site.process.terminate()
    assert ann.until_closed() == bob.until_closed() == 1012
    for pid in [*pids, site.process.pid]:
        wait_for_end(pid)
    assert site.process.wait() == 0
    assert dict(site.bus.items("board/**")) == {"board/votes/tea": 1}
    assert [one.name for one in site.bus.clients()] == ["test"]


@linux
def test_a_visit_ends_with_its_key(site: Site) -> None:
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
    bob.until(lambda v: v.here() == ["ann", "bob"])
    assert site.bus.delete(ann.key)
    assert ann.until_closed() == 1012
    bob.until(lambda v: v.here() == ["bob"])
    site.visitor("ann", site.first)
    bob.until(lambda v: v.here() == ["ann", "bob"])


@linux
def test_the_visitors_of_a_worker_that_is_kicked_come_again(site: Site) -> None:
    ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
    assert site.bus.kick(site.first)
    assert ann.until_closed() == 1012
    bob.until(lambda v: v.here() == ["bob"])
    again = site.visitor("ann", site.first)
    again.send("vote tea")
    bob.until(lambda v: v.here() == ["ann", "bob"] and v.votes("tea") == 1)


@linux
def test_the_broker_is_killed_and_nobody_goes(runtime: Path) -> None:
    with udsbus.LocalBroker(state=runtime / "state") as broker, contextlib.ExitStack() as stack:
        site = Site(broker.address, runtime / "board.log", stack, workers=2)
        ann, bob = site.visitor("ann", site.first), site.visitor("bob", site.second)
        ann.send("vote tea")
        bob.until(lambda v: v.votes("tea") == 1)
        wait_until(lambda: site.bus.info()["standby"] is not None, "a standby")
        os.kill(broker.pid, signal.SIGKILL)
        ann.send("vote tea")
        bob.send("vote tea")
        for visitor in (ann, bob):
            visitor.until(lambda v: v.votes("tea") == 3 and v.here() == ["ann", "bob"])
        assert "Traceback" not in site.log()


def test_a_worker_that_cannot_follow_the_board_is_replaced(site: Site) -> None:
    ann = site.visitor("ann")
    before = set(site.workers)
    with RawClient(site.bus.address) as raw:
        # No MessagePack; and gone before the next worker lists what is there.
        raw.send([0, 1, "set", ["board/bad", b"\xc1"]], [0, 2, "delete", ["board/bad"]])
        raw.receive()
        raw.receive()
    assert ann.until_closed() == 1012
    site.until(lambda: len(site.workers) == 2 and not before & set(site.workers))
    assert "UnsupportedValue" in site.log()
    assert site.visitor("ann").here() == ["ann"]


# --- what visitors send -----------------------------------------------------------------------


def test_nonsense_is_answered(site: Site) -> None:
    ann = site.visitor("ann")
    for wish in ("", "vote", "vote nobody", "say ", "say " + "x" * 501, "jump", b"vote tea"):
        ann.connection.send(wish)
    ann.until(lambda v: len(v.lines) == 7)
    assert {who for who, _ in ann.lines} == {""}
    assert "vote for one of tea, coffee, water" in ann.lines[0][1]
    ann.send("say <b>hello</b>")
    ann.until(lambda v: len(v.lines) == 8)
    assert ann.lines[-1] == ["ann", "<b>hello</b>"]
    assert site.bus.keys("board/votes/*") == []
    assert "Traceback" not in site.log()


def test_what_is_no_number_cuts_nobody_off(site: Site) -> None:
    """Whatever somebody writes from a shell."""
    ann = site.visitor("ann")
    for value in ("many", b"many", {(1, 2): "many", "x": 1}, 2**64 - 1):
        site.bus.set("board/votes/tea", value)
        ann.send("vote tea")
        lines = len(ann.lines)
        ann.until(lambda v, before=lines: len(v.lines) > before)  # type: ignore[misc]
        assert ann.lines[-1] == ["", "the votes for tea are no number that one can be added to"]
        assert site.bus.get("board/votes/tea") == value
    site.bus.delete("board/votes/tea")
    ann.send("vote tea")
    ann.until(lambda v: v.votes("tea") == 1)
    assert "Traceback" not in site.log()


def test_who_has_no_name_is_not_let_in(site: Site) -> None:
    for query in ("", "?name=", "?name=a/b", "?name=**", "?name=" + "x" * 31):
        with connect(f"ws://127.0.0.1:{site.port}/board{query}", proxy=None) as connection:
            assert Visitor(connection, query).until_closed() == 1008
    assert site.bus.keys("board/**") == []


@linux
def test_who_is_too_quick_is_slowed_down_at_all_workers(site: Site) -> None:
    one, two = site.visitor("ann", site.first), site.visitor("ann", site.second)
    began = monotonic()
    for visitor in (one, two):
        for _ in range(40):
            visitor.send("vote tea")
        visitor.until(lambda v: ["", "not so fast"] in v.lines)
    votes = site.bus.get("board/votes/tea")
    assert 10 <= votes <= 10 + 5 * (monotonic() - began) + 1


# --- the program and its page -----------------------------------------------------------------


@linux
def test_the_program_runs_by_itself(runtime: Path, address: str) -> None:
    """With a broker that it starts, and which stays."""
    log = runtime / "board.log"
    with open(log, "wb") as file:
        program = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "examples.board", "0"], cwd=ROOT,
            env={**os.environ, "UDSBUS_SOCKET": address}, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: log.read_text().count("startup complete") == 4, "four workers")
        (web,) = re.findall(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())
        with urllib.request.urlopen(web) as response:
            page = response.read().decode()
        assert page == (ROOT / "examples" / "board" / "page.html").read_text()
        with connect(f"{web.replace('http', 'ws')}/board?name=ann", proxy=None) as connection:
            ann = Visitor(connection, "ann")
            ann.see()
            ann.send("vote tea")
            ann.until(lambda v: v.votes("tea") == 1)
        with udsbus.connect(address) as bus:
            workers = [one.pid for one in bus.clients() if one.name == "board"]
            assert len(workers) == 4
            os.killpg(program.pid, signal.SIGINT)
            for pid in workers:
                wait_for_end(pid)
            assert program.wait(PATIENCE) == 0
            assert bus.items("board/**") == [("board/votes/tea", 1)]
            brokers = [bus.info()["pid"]]
    finally:
        end_group(program)
    for pid in brokers:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)
    assert "Traceback" not in log.read_text()


def test_the_page_offers_the_choices_that_there_are() -> None:
    page = (ROOT / "examples" / "board" / "page.html").read_text()
    (offered,) = re.findall(r"const votes = (\[.*?\])", page)
    assert tuple(json.loads(offered)) == CHOICES


def test_the_code_in_the_docs_is_the_example() -> None:
    page = (ROOT / "docs" / "board.md").read_text()
    code = (ROOT / "examples" / "board" / "board.py").read_text()
    excerpts = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert excerpts
    for excerpt in excerpts:
        assert excerpt in code

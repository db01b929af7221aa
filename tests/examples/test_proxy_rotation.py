"""examples/proxy_rotation with the real proxy.py: its own processes, real HTTP through them."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import re
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import udsbus
from examples.proxy_rotation.rotation import (
    CURRENT,
    PREVIOUS,
    WORKERS,
    parse_address,
    roll_back,
    rotate,
)
from examples.proxy_rotation.servers import serving

from ..harness import BrokerProcess, RawClient, running_broker, wait_until

try:
    import httpx

    importlib.import_module("proxy")
except ImportError as missing:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip(f"{missing}: pip install 'udsbus[examples]'", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PLUGIN = "examples.proxy_rotation.plugin.RotatingUpstream"
WORKER_PROCESSES = 3


# --- the address, and rotating it -------------------------------------------------------------


@pytest.fixture
def bus(broker: BrokerProcess) -> Iterator[udsbus.Client]:
    with udsbus.connect(broker.address, name="rotator") as client:
        yield client


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:1", ("localhost", 1)),
        ("a-1.example:65535", ("a-1.example", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "value",
    [
        "", ":", "host", "host:", ":80", "host:0", "host:65536", "host:80 ", " host:80",
        "host:80\n", "host:+80", "host:٨٠", "ho st:80", "http://host:80", "user@host:80",
        "-host:80", b"host:80", 80, None, ("host", 80), {},
    ],
)  # fmt: skip
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_address(value)


def test_the_replaced_upstream_can_be_rolled_back_to(bus: udsbus.Client) -> None:
    with pytest.raises(LookupError):
        roll_back(bus)
    first = rotate(bus, "a:1")
    assert bus.entry(CURRENT) == udsbus.Entry("a:1", first, None)
    assert bus.get(PREVIOUS) is None
    second = rotate(bus, "b:2")
    assert second > first
    assert bus.entry(PREVIOUS) == udsbus.Entry("a:1", second, None), "one transaction"
    roll_back(bus)
    assert bus.get_many([CURRENT, PREVIOUS]) == {CURRENT: "a:1", PREVIOUS: "b:2"}
    roll_back(bus)
    assert bus.get_many([CURRENT, PREVIOUS]) == {CURRENT: "b:2", PREVIOUS: "a:1"}


def test_a_malformed_address_is_neither_written_nor_kept(bus: udsbus.Client) -> None:
    rotate(bus, "a:1")
    rotate(bus, "b:2")
    with pytest.raises(ValueError, match="not an address"):
        rotate(bus, "b:two")
    assert bus.get_many([CURRENT, PREVIOUS]) == {CURRENT: "b:2", PREVIOUS: "a:1"}
    bus.set(CURRENT, "b:two")
    rotate(bus, "c:3")
    assert bus.get_many([CURRENT, PREVIOUS]) == {CURRENT: "c:3", PREVIOUS: "a:1"}


def test_of_two_who_rotate_at_once_one_is_told(
    bus: udsbus.Client, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(bus, "a:1")
    look = udsbus.Client.entry

    def look_and_be_overtaken(client: udsbus.Client, key: str) -> udsbus.Entry | None:
        found = look(client, key)
        monkeypatch.undo()
        with udsbus.connect(broker.address) as other:
            rotate(other, "b:2")
        return found

    attempts: list[Callable[[], int]] = [lambda: rotate(bus, "c:3"), lambda: roll_back(bus)]
    for attempt in attempts:
        monkeypatch.setattr(udsbus.Client, "entry", look_and_be_overtaken)
        with pytest.raises(udsbus.Conflict):
            attempt()
        assert bus.get(CURRENT) == "b:2"


# --- through the real proxy -------------------------------------------------------------------


class RunningProxy(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]
    bus_address: str

    def client(self, *, keep_alive: bool = True) -> httpx.Client:
        limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        return httpx.Client(proxy=self.url, trust_env=False, limits=limits, timeout=20)


def environment(home: Path) -> dict[str, str]:
    """proxy.py writes to ~/.proxy: not to the one of whoever runs the tests."""
    return {**os.environ, "HOME": str(home), "PYTHONUSERBASE": str(site.getuserbase())}


@contextlib.contextmanager
def running_proxy(address: str, home: Path, plugin: str = PLUGIN) -> Iterator[RunningProxy]:
    """proxy.py from its command line, as somebody would start it beside their main program."""
    port_file = home / "port"
    with open(home / "proxy.log", "wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "proxy", "--plugins", plugin, "--log-level", "WARNING",
                "--hostname", "127.0.0.1", "--port", "0", "--port-file", port_file,
                "--num-workers", str(WORKER_PROCESSES), "--num-acceptors", "2",
                "--local-executor", "0",
            ],
            cwd=ROOT, env={**environment(home), "UDSBUS_SOCKET": address},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: (
                process.poll() is not None
                or (port_file.exists() and port_file.read_text().endswith("\n"))
            ),
            "the proxy listens",
        )
        assert process.poll() is None, (home / "proxy.log").read_text()
        yield RunningProxy(f"http://127.0.0.1:{port_file.read_text().split()[0]}", process, address)
    finally:
        process.terminate()
        try:
            process.wait(20)  # it ends when its workers have
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        print((home / "proxy.log").read_text())  # pytest shows it with a failure


@pytest.fixture(scope="module")
def proxy() -> Iterator[RunningProxy]:
    """One for several tests: it takes seconds to stop."""
    with (
        tempfile.TemporaryDirectory(prefix="udsbus-") as directory,
        running_broker(Path(directory) / "bus.sock") as broker,
        running_proxy(broker.address, Path(directory)) as running,
    ):
        yield running


def worker_pids(bus: udsbus.Client) -> list[int]:
    return sorted(int(key.rpartition("/")[2]) for key in bus.keys(f"{WORKERS}/*"))


def wake_workers(proxy: RunningProxy, bus: udsbus.Client) -> list[int]:
    """Send requests until each worker has served one. Returns the workers' pids."""
    with proxy.client(keep_alive=False) as web:
        for _ in range(1000):
            web.get("http://service.test/")
            if len(pids := worker_pids(bus)) == WORKER_PROCESSES:
                return pids
    raise AssertionError(f"only these workers serve: {pids}")


def wait_for_reports(bus: udsbus.Client, seen: Callable[[dict[str, object]], bool]) -> None:
    """Wait until the newest report of each worker is one that `seen` accepts."""
    waiting = set(bus.keys(f"{WORKERS}/*"))
    with bus.watch(f"{WORKERS}/*", initial=True) as reports:
        for _ in range(20 * WORKER_PROCESSES):  # heartbeats come each second
            report = reports.get(timeout=20)
            assert report is not None, f"the workers are silent, {waiting} too"
            if isinstance(report, udsbus.CaughtUp):
                continue
            (waiting.discard if seen(report.value or {}) else waiting.add)(report.key)
            if not waiting:
                return
    raise AssertionError(f"no such report of {waiting}")


class Rotator:
    """Rotates through servers, each with an address of its own: the server that answers a request
    tells which rotation the request has seen. The servers are named "0", "1", ..."""

    def __init__(self, bus: udsbus.Client, servers: dict[str, str]) -> None:
        self._bus = bus
        self._addresses = [servers[str(number)] for number in range(len(servers))]
        self.revisions: list[int] = []
        self.begun = -1
        """The newest rotation that a request can have seen."""
        self.acknowledged = -1
        """The oldest one that a request which begins now may see."""

    def seen_by(self, report: dict[str, object]) -> bool:
        """Whether this is the report of a worker that knows the newest upstream."""
        newest = parse_address(self._addresses[self.acknowledged])
        return report.get("upstream") == newest and report.get("trouble") is None

    def rotate(self) -> None:
        self.begun += 1
        self.revisions.append(rotate(self._bus, self._addresses[self.begun]))
        self.acknowledged = self.begun


class Traffic:
    """Threads that send requests one after the other and check who answers each."""

    def __init__(self, proxy: RunningProxy, rotator: Rotator, threads: int = 6) -> None:
        self._proxy = proxy
        self._rotator = rotator
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(threads)
        ]
        self._answered = threading.Semaphore(0)
        self._over = threading.Event()
        self.requests = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def await_requests(self, number: int) -> None:
        """Wait until so many more have been answered."""
        for _ in range(number):
            assert self._answered.acquire(timeout=20), f"no answers; {self.wrong}"
            self.requests += 1

    def _run(self, keep_alive: bool) -> None:
        with self._proxy.client(keep_alive=keep_alive) as web:
            while not self._over.is_set() and len(self.wrong) < 10:
                try:
                    ask(web, self._rotator)
                except (AssertionError, httpx.HTTPError, ValueError) as error:
                    self.wrong.append(repr(error))
                self._answered.release()


def ask(web: httpx.Client, rotator: Rotator) -> None:
    """One request, which must be answered by the server that is current when it begins, or one
    that has become so meanwhile."""
    oldest = rotator.acknowledged
    answer = web.get("http://service.test/")
    newest = rotator.begun
    assert answer.status_code == 200, answer
    assert oldest <= int(answer.text) <= newest, f"{answer.text} is not in {oldest}..{newest}"


@pytest.mark.slow
def test_no_request_goes_to_an_upstream_that_was_replaced_before_it(proxy: RunningProxy) -> None:
    rotations, requests_each = 100, 30
    with (
        serving(*map(str, range(rotations + 1))) as servers,
        udsbus.connect(proxy.bus_address, name="rotator") as bus,
        bus.watch(CURRENT) as log,
        proxy.client() as web,
    ):
        rotator = Rotator(bus, servers)
        rotator.rotate()
        pids = wake_workers(proxy, bus)
        with Traffic(proxy, rotator) as traffic:
            for _ in range(rotations):
                traffic.await_requests(requests_each)
                rotator.rotate()
                ask(web, rotator)
        assert traffic.wrong == []
        assert traffic.requests >= 3000
        wait_until(lambda: worker_pids(bus) == pids, "no worker was restarted")
        assert proxy.process.poll() is None
        changes = [log.get(timeout=20) for _ in servers]
    assert [change and change.value for change in changes] == list(servers.values())
    assert [change and change.revision for change in changes] == rotator.revisions


def test_a_plugin_that_remembers_the_address_is_noticed(
    broker: BrokerProcess, bus: udsbus.Client, runtime: Path
) -> None:
    plugin = "tests.examples.remembering_plugin.RememberingUpstream"
    with serving("0", "1") as servers, running_proxy(broker.address, runtime, plugin) as proxy:
        rotator = Rotator(bus, servers)
        rotator.rotate()
        wake_workers(proxy, bus)
        rotator.rotate()
        with proxy.client() as web, pytest.raises(AssertionError, match=r"0 is not in 1\.\.1"):
            ask(web, rotator)


def test_a_bad_value_is_refused_and_reported_and_traffic_goes_on(proxy: RunningProxy) -> None:
    bad_values: list[Callable[[], object]] = [
        lambda: bus.set(CURRENT, "127.0.0.1:eighty"),
        lambda: bus.set(CURRENT, ["127.0.0.1", 80]),
        lambda: raw.call("set", CURRENT, b"\xc1"),  # no MessagePack: from a client not ours
        lambda: bus.delete(CURRENT),
    ]
    with (
        serving(*map(str, range(len(bad_values) + 1))) as servers,
        udsbus.connect(proxy.bus_address) as bus,
        RawClient(proxy.bus_address) as raw,
    ):
        rotator = Rotator(bus, servers)
        rotator.rotate()
        wake_workers(proxy, bus)
        with Traffic(proxy, rotator) as traffic:
            for write in bad_values:
                wait_for_reports(bus, rotator.seen_by)
                write()
                traffic.await_requests(50)
                wait_for_reports(bus, lambda report: report.get("trouble") is not None)
                bus.delete(CURRENT)  # the unreadable one has no entry to compare with
                rotator.rotate()
        assert traffic.wrong == []


def test_the_proxy_runs_on_without_a_broker(address: str, runtime: Path) -> None:
    """A broker keeps its state in memory; a new one knows no upstream. The proxy stays with the
    last one until somebody rotates again."""
    with contextlib.ExitStack() as brokers:
        with (
            serving("0", "1", "2") as servers,
            running_proxy(address, runtime) as proxy,
            proxy.client() as web,
        ):
            assert web.get("http://service.test/").status_code == 503, "no broker yet"
            broker = brokers.enter_context(running_broker(address))
            assert web.get("http://service.test/").status_code == 503, "no upstream yet"
            bus = brokers.enter_context(udsbus.connect(address))
            rotator = Rotator(bus, servers)
            rotator.rotate()
            pids = wake_workers(proxy, bus)
            rotator.rotate()
            wait_for_reports(bus, rotator.seen_by)
            with Traffic(proxy, rotator) as traffic:
                traffic.await_requests(100)
                broker.kill()
                traffic.await_requests(300)
                brokers.enter_context(running_broker(address))
                traffic.await_requests(100)
                assert bus.get(CURRENT) is None
                rotator.rotate()
                traffic.await_requests(100)
            assert traffic.wrong == []
            for _ in range(30):
                ask(web, rotator)
            wait_until(lambda: worker_pids(bus) == pids, "the same workers report again")
        wait_until(lambda: worker_pids(bus) == [], "the reports of a stopped proxy expire")


def test_a_tunnel_goes_to_the_upstream_of_when_it_was_made(proxy: RunningProxy) -> None:
    with (
        serving("0", "1") as servers,
        udsbus.connect(proxy.bus_address) as bus,
        contextlib.ExitStack() as tunnels,
    ):
        made: list[http.client.HTTPConnection] = []
        for server in servers.values():
            rotate(bus, server)
            tunnel = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
            tunnel.set_tunnel("service.test", 443)
            tunnel.connect()
            tunnels.callback(tunnel.close)
            made.append(tunnel)
        for _ in range(3):
            for name, tunnel in zip(servers, made, strict=True):
                tunnel.request("GET", "/")
                assert tunnel.getresponse().read().decode() == name


# --- as people see it -------------------------------------------------------------------------


def test_the_program_runs_by_itself(runtime: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "examples.proxy_rotation"],
        cwd=ROOT, env=environment(runtime), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    for line in (
        "rotated to A: answered by AAAA",
        "rotated to B: answered by BBBB",
        "rotated to C: answered by CCCC",
        "rolled back:  answered by BBBB",
        "a mistake:    answered by BBBB",
    ):
        assert line in ran.stdout, ran.stdout
    assert len(re.findall(r"^    \[revision \d+\] proxy/upstream", ran.stdout, re.M)) == 5
    assert "refused: not an address" in ran.stdout


def test_the_code_in_the_docs_is_the_example() -> None:
    page = (ROOT / "docs" / "proxy_rotation.md").read_text()
    code = "\n".join(
        path.read_text() for path in (ROOT / "examples" / "proxy_rotation").glob("*.py")
    )
    excerpts = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert excerpts
    for excerpt in excerpts:
        assert excerpt in code

"""docs/manager.md and examples/in_place_of_manager.py: what goes wrong with the processes of a real
`multiprocessing.Manager`, and what the same functions do here."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import pytest

import udsbus
from tests.client.support import PATIENCE, wait_for_end
from tests.harness import wait_until
from udsbus import Client, LocalBroker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "manager.md").read_text()
METHODS = multiprocessing.get_all_start_methods()
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs pidfds, of Linux")
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manager(method: str) -> Iterator[SyncManager]:
    with multiprocessing.get_context(method).Manager() as manager:
        yield manager


@pytest.fixture
def client() -> Iterator[Client]:
    with LocalBroker() as broker, broker.connect(timeout=PATIENCE) as client:
        yield client


@contextlib.contextmanager
def process(method: str, function: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """A process that carries `function` out, and has done so at the end of the block."""
    make = getattr(multiprocessing.get_context(method), "Process")  # noqa: B009  (not of all contexts)
    process = make(target=function, args=arguments)
    process.start()
    try:
        yield
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


# --- the example and the page -----------------------------------------------------------------


@linux
def test_the_example_goes_as_the_page_tells(method: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "in_place_of_manager.py", method],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    interrupted = r"events of \S+ interrupted: .+"  # closed or reset, as the system sees it
    assert all(re.fullmatch(interrupted, line) for line in done.stderr.splitlines()), done.stderr
    (told,) = re.findall(r"```\n(\d+ orders are done.*?)```", PAGE, re.S)

    def shape(text: str) -> str:
        return re.sub(r"process \d+", "process N", text)

    assert shape(done.stdout) == shape(told)
    killed, now = re.findall(r"process (\d+)", done.stdout)
    assert killed != now


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_page_shows_lines_of_the_example() -> None:
    lines = (ROOT / "examples" / "in_place_of_manager.py").read_text().splitlines()
    (shown,) = [block for block in BLOCKS if "executor" in block]
    assert {line.strip() for line in shown.splitlines()} <= {line.strip() for line in lines}


def test_what_the_page_says_is_printed(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    printed = re.compile(r"^print\(.*\)  # (.*)$", re.M)
    blocks = [block for block in BLOCKS if printed.search(block)]
    assert len(blocks) == 3
    with multiprocessing.Manager() as manager:
        for block in blocks:
            exec(block, {"manager": manager, "client": client})
            assert capsys.readouterr().out.splitlines() == printed.findall(block)


# --- nested containers ------------------------------------------------------------------------


def fill(shared: Any) -> None:
    shared["a"]["b"] = 1
    shared["l"].append(1)
    shared["l"] += [2]
    shared["s"].add(1)


EMPTY: dict[str, Any] = {"a": {}, "l": [], "s": set()}
FULL: dict[str, Any] = {"a": {"b": 1}, "l": [1, 2], "s": {1}}


def test_what_is_in_a_dict_of_a_manager_is_a_copy(manager: SyncManager, method: str) -> None:
    shared = manager.dict(EMPTY)
    with process(method, fill, shared):
        pass
    # `+=` ends with an assignment, so that alone is there.
    assert shared.copy() == EMPTY | {"l": [2]}


def test_what_is_in_a_mapping_is_shared(client: Client, method: str) -> None:
    shared = client.mapping("m")
    shared.update(EMPTY)
    with process(method, fill, shared):
        pass
    assert shared.copy() == FULL


# --- everything dies with the manager process -------------------------------------------------


def look_twice(shared: Any, line: Connection) -> None:
    """Before the process that holds it is killed, and after."""
    line.send(shared["n"])
    line.recv()
    try:
        line.send(shared["n"])
        shared["n"] = "written afterwards"
    except (EOFError, OSError) as error:
        line.send(type(error).__name__)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)


def seen_before_and_after(method: str, shared: Any, strike: Callable[[], None]) -> tuple[Any, Any]:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, process(method, look_twice, shared, theirs):
        before = answer(ours)
        strike()
        ours.send(True)
        return before, answer(ours)


def answer(line: Connection) -> Any:
    assert line.poll(PATIENCE)
    return line.recv()


@linux
def test_everything_dies_with_the_process_of_a_manager(manager: SyncManager, method: str) -> None:
    shared = manager.dict(n=1)
    pid = manager._process.pid  # type: ignore[attr-defined]
    before, after = seen_before_and_after(method, shared, lambda: kill(pid))
    assert before == 1
    assert after in ("BrokenPipeError", "ConnectionResetError", "EOFError")
    with pytest.raises((EOFError, ConnectionError)):
        shared["n"]
    with pytest.raises((EOFError, ConnectionError)):
        manager.dict()


@linux
def test_nothing_dies_with_a_broker(method: str, tmp_path: Path) -> None:
    with LocalBroker(state=tmp_path) as broker, broker.connect(timeout=PATIENCE) as client:
        shared = client.mapping("m")
        shared["n"] = 1

        def strike() -> None:
            wait_until(lambda: client.info()["standby"] is not None, "a standby")
            kill(client.info()["pid"])

        assert seen_before_and_after(method, shared, strike) == (1, 1)
        assert shared["n"] == "written afterwards"
    with LocalBroker(state=tmp_path) as broker, broker.connect(timeout=PATIENCE) as client:
        assert client.mapping("m").copy() == {"n": "written afterwards"}, "it outlives the program"


# --- the race in += ---------------------------------------------------------------------------


class One:
    """1, which is added to a number when both processes have read that."""

    def __init__(self, both: Any) -> None:
        self._both = both

    def __radd__(self, number: int) -> int:
        self._both.wait(PATIENCE)
        return number + 1


def add_to_item(shared: Any, one: Any) -> None:
    shared["n"] += one


def add_to_attribute(shared: Any, one: Any) -> None:
    shared.n += one


def add_to_value(shared: Any, one: Any) -> None:
    shared.value += one


def in_two(method: str, function: Callable[..., None], *arguments: Any) -> None:
    with process(method, function, *arguments), process(method, function, *arguments):
        pass


def test_of_two_that_add_to_what_a_manager_has_one_is_lost(
    manager: SyncManager, method: str
) -> None:
    one = One(manager.Barrier(2))
    table, space, value = manager.dict(n=0), manager.Namespace(), manager.Value("i", 0)
    space.n = 0
    in_two(method, add_to_item, table, one)
    in_two(method, add_to_attribute, space, one)
    in_two(method, add_to_value, value, one)
    assert (table["n"], space.n, value.value) == (1, 1, 1)


def test_of_two_that_add_to_a_value_of_multiprocessing_one_is_lost(method: str) -> None:
    """It has a lock, but that is given back between the read and the write."""
    context = multiprocessing.get_context(method)
    value = context.Value("i", 0)
    in_two(method, add_to_value, value, One(context.Barrier(2)))
    assert value.value == 1


def test_of_two_that_add_to_an_item_of_a_mapping_one_is_lost(client: Client, method: str) -> None:
    """As of any dict, and the page says so."""
    shared = client.mapping("m")
    shared["n"] = 0
    in_two(method, add_to_item, shared, One(client.barrier("both", 2)))
    assert shared["n"] == 1


def add_in_all_ways(counter: udsbus.Counter, shared: udsbus.Mapping, inner: Any) -> None:
    def count() -> None:
        nonlocal counter
        counter += 1

    def extend() -> None:
        shared["list"] += [1]

    at_once(counter, count)
    at_once(counter, lambda: shared.increment("n"))
    at_once(counter, lambda: shared.change("changed", lambda number: number + 1))
    at_once(counter, lambda: inner.append(1))
    at_once(counter, extend)


def at_once(of: Any, add: Callable[[], object]) -> None:
    """Add, so that both processes have the answer to the first request before either sends another:
    of what reads and then writes, one would be lost."""
    client = of._client
    call = client._call

    def called(request: Any) -> Any:
        client._call = call
        answer = call(request)
        client.barrier("both", 2).wait(PATIENCE)
        return answer

    client._call = called
    add()


def test_of_two_that_add_here_none_is_lost(client: Client, method: str) -> None:
    counter, shared = client.counter("n"), client.mapping("m")
    shared.update({"changed": 0, "inner": [[]], "list": []})
    in_two(method, add_in_all_ways, counter, shared, shared["inner"][0])
    assert counter.value == 2
    assert shared.copy() == {"n": 2, "changed": 2, "inner": [[1, 1]], "list": [1, 1]}

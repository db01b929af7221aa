"""Pools when something is not as it should be: modules, logs, the broker, the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, running_broker, wait_until
from tests.pairs import is_gone
from udsbus import Client, ServiceUnavailable
from udsbus.workers.pool import AT_ONCE, TICK_SECONDS

from .conftest import PATIENCE, Pool, StartPool
from .test_pools import run

APP = "tests.workers.odd:app"


@pytest.mark.parametrize(
    ("args", "odd", "why"),
    [
        (("tests.workers.odd:NeedsArguments",), "", "missing 1 required positional argument"),
        (("tests.workers.odd:Nothing",), "", "there is nothing to call"),
        (("tests.workers.odd:HOW",), "", "is no function, class or object with methods"),
        ((APP,), "exit", "no database is configured"),
        ((APP, "--retry", "3"), "", "declares its own services"),
        ((APP, "--concurrency", "3"), "", "declares its own services"),
        (("tests.workers.no_such_module",), "", "there is no module"),
    ],
)
def test_what_cannot_be_served_ends_the_pool(
    start: StartPool, args: tuple[str, ...], odd: str, why: str
) -> None:
    pool = start(*args, ODD=odd)
    assert pool.process.wait(PATIENCE) == 3
    assert why in pool.log.read_text()
    assert "importlib" not in pool.log.read_text(), "nor anything else that only loads it"


def test_a_slip_in_the_number_is_refused(broker: BrokerProcess) -> None:
    assert run(broker, APP, "--processes", "4000").returncode == 2


def test_one_that_cannot_load_yet_is_started_again(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    pool = start(APP, "--processes", 2, ODD=f"first {tmp_path / 'marker'}")
    pool.ready(client, 2, name="odd")
    assert "the database is not there yet" in pool.log.read_text()


def test_one_that_is_not_ready_in_time_is_killed(client: Client, start: StartPool) -> None:
    pool = start(APP, "--ready-within", 0.5, ODD="slow")
    pool.told("it does not serve after 0.5 s; it is killed")
    pool.process.kill()


def test_few_begin_at_a_time(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", AT_ONCE + 3, ODD="slow")

    def begin() -> list[object]:
        served = client.services("pools/odd")
        return [each["state"] for each in pool.status(client, "odd")] if served else []

    wait_until(lambda: begin().count("starting") == AT_ONCE, "some to begin", PATIENCE)
    time.sleep(2 * TICK_SECONDS)  # in which the pool looks at all again
    assert sorted(map(str, begin())) == ["starting"] * AT_ONCE + ["waiting"] * 3
    pool.process.kill()


def test_what_a_dead_worker_has_started_ends_too(client: Client, start: StartPool) -> None:
    pool = start(APP, ODD="")
    (pid,) = pool.ready(client, name="odd")
    child = client.call("odd/spawn")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(child), "it to be killed", PATIENCE)


def test_what_is_left_to_be_done_at_the_end_is_done(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    pool = start(APP, ODD=f"atexit {ended}")
    pool.ready(client, name="odd")
    assert pool.end() == 0
    assert ended.exists()


def test_a_log_that_cannot_be_written_ends_nothing(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    pool = start(APP, "--log-dir", logs, ODD="")
    pids = pool.ready(client, name="odd")
    logs.rename(tmp_path / "before")
    logs.touch()
    client.call("pools/odd/scale", 2)
    pool.told("there are no more than 1 processes")
    assert pool.ready(client, name="odd") == pids
    assert client.call("odd/pid") == pids[0]


def test_nobody_reads_what_the_pool_prints(client: Client, broker: BrokerProcess) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "udsbus", "worker", APP, "--hang", "1"], stderr=subprocess.PIPE,
        env={**os.environ, "UDSBUS_SOCKET": broker.address, "ODD": ""},
    )  # fmt: skip
    wait_until(lambda: client.services("odd"), "the worker to be ready", PATIENCE)
    try:
        pids = {client.call("odd/print_much", timeout=PATIENCE) for _ in range(20)}
        os.kill(pids.pop(), signal.SIGKILL)
        wait_until(lambda: _pid(client) not in (None, *pids), "another worker", PATIENCE)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        assert process.stderr is not None
        process.stderr.close()


def _pid(client: Client) -> int | None:
    try:
        pid: int = client.call("odd/pid")
    except ServiceUnavailable:
        return None
    return pid


def test_nobody_is_to_blame_for_a_freeze(client: Client, start: StartPool, tmp_path: Path) -> None:
    pool = start(APP, "--hang", 2, ODD="")
    (pid,) = pool.ready(client, name="odd")
    begun = tmp_path / "begun"
    found: list[int] = []
    calling = threading.Thread(
        target=lambda: found.append(client.call("odd/sleep", 0.6, str(begun), timeout=PATIENCE))
    )
    calling.start()
    wait_until(begun.exists, "the call to begin")
    for each in (pid, pool.process.pid):
        os.kill(each, signal.SIGSTOP)
    time.sleep(3)  # as the machine, or its container
    os.kill(pool.process.pid, signal.SIGCONT)
    time.sleep(0.6)  # it looks, and the worker is not that far yet
    os.kill(pid, signal.SIGCONT)
    calling.join(PATIENCE)
    assert found == [pid]


def test_without_a_broker_workers_wait_for_one(tmp_path: Path) -> None:
    address = tmp_path / "bus.sock"
    with running_broker(address) as broker:
        pool = Pool(broker.address, tmp_path / "log", APP, ODD="")
        with Client(broker.address) as client:
            (pid,) = pool.ready(client, name="odd")
    try:
        os.kill(pid, signal.SIGKILL)
        pool.told("there is no broker")
        with running_broker(address), Client(str(address)) as client:
            pool.ready(client, name="odd")
            assert [each["restarts"] for each in pool.status(client, "odd")] == [1]
        assert "Traceback" not in pool.log.read_text()
    finally:
        assert pool.end() == 0


def test_what_the_workers_of_a_killed_pool_have_started_ends_too(
    client: Client, start: StartPool
) -> None:
    pool = start(APP, ODD="")
    pool.ready(client, name="odd")
    child = client.call("odd/spawn")
    pool.process.kill()
    wait_until(lambda: is_gone(child), "it to be killed", PATIENCE)


def test_memory_counts_while_nobody_calls(client: Client, start: StartPool) -> None:
    pool = start(APP, "--max-memory", 120, ODD="")
    pool.ready(client, name="odd")
    pid = client.call("odd/grow_later")
    wait_until(lambda: is_gone(pid), "it to be replaced", PATIENCE)
    assert "MiB of memory" in pool.log.read_text()


def test_a_limit_that_nothing_fits_into_does_not_count(client: Client, start: StartPool) -> None:
    pool = start(APP, "--max-memory", 1, ODD="")
    (pid,) = pool.ready(client, name="odd")
    assert "so it does not count" in pool.log.read_text()
    assert {client.call("odd/pid") for _ in range(5)} == {pid}


def test_told_again_it_ends_at_once(client: Client, start: StartPool, tmp_path: Path) -> None:
    pool = start(APP, "--grace", 600, "--hang", 600, ODD="")
    (pid,) = pool.ready(client, name="odd")
    begun = tmp_path / "begun"

    def call() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011
            client.call("odd/sleep", 600, str(begun), timeout=PATIENCE)

    calling = threading.Thread(target=call)
    calling.start()
    wait_until(begun.exists, "the call to begin")
    pool.process.terminate()
    pool.told("ends, when its 1 workers have done what they have in hand")
    pool.process.terminate()
    assert pool.process.wait(PATIENCE) == 0
    assert is_gone(pid)
    calling.join(PATIENCE)


def test_a_pool_that_does_not_answer_hides_no_other(
    broker: BrokerProcess, client: Client, start: StartPool
) -> None:
    silent = start(APP, "--name", "silent", ODD="")
    start(APP, "--name", "well", ODD="").ready(client, name="well")
    silent.ready(client, name="silent")
    silent.process.send_signal(signal.SIGSTOP)
    told = run(broker, "status", "--timeout", "1")
    silent.process.send_signal(signal.SIGCONT)
    assert told.returncode == 4
    assert [line.split("\t")[3] for line in told.stdout.splitlines()] == ["silent", "ready"]

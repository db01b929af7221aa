"""Pools of workers, with real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, wait_until
from tests.pairs import is_gone
from udsbus import Client, Error, ServiceUnavailable, WorkerLost

from .conftest import PATIENCE, Pool, StartPool

APP = "tests.workers.apps:app"


def test_it_serves_and_ends_with_sigterm(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 2)
    pids = pool.ready(client, 2)
    assert {client.call("work/pid") for _ in range(4)} == set(pids)
    assert [info.name for info in client.services()] == ["once", "pools/apps", "work"]
    assert pool.end() == 0
    assert all(map(is_gone, pids))
    with pytest.raises(ServiceUnavailable):
        client.call("work/pid")


def test_what_is_in_hand_at_sigterm_is_finished(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    pool = start(APP)
    (pid,) = pool.ready(client)
    found: list[int] = []
    begun = tmp_path / "begun"
    calling = threading.Thread(
        target=lambda: found.append(client.call("work/sleep", 1.0, str(begun)))
    )
    calling.start()
    wait_until(begun.exists, "the call to begin")
    assert pool.end() == 0
    calling.join(PATIENCE)
    assert found == [pid]


def test_what_takes_longer_than_the_grace_is_killed(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    pool = start(APP, "--grace", 0.2)
    (pid,) = pool.ready(client)
    begun = tmp_path / "begun"

    def call() -> None:
        with pytest.raises(Error):
            # When its worker is dead, it waits for another: it may be tried again.
            client.call("work/sleep", 60, str(begun), timeout=4)

    calling = threading.Thread(target=call)
    calling.start()
    wait_until(begun.exists, "the call to begin")
    assert pool.end() == 0
    assert is_gone(pid)
    calling.join(2 * PATIENCE)
    assert not calling.is_alive()


def test_one_dead_worker_does_not_break_the_pool(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 2)
    pids = pool.ready(client, 2)
    with pytest.raises(WorkerLost) as lost:
        client.call("once/die")
    dead = lost.value.details["worker"]
    assert client.call("work/pid") in set(pids) - {dead}
    wait_until(lambda: dead not in pool.ready(client, 2), "another in its place", PATIENCE)
    found = pool.status(client)
    assert [each["restarts"] for each in found if each["last"]] == [1]
    assert [each["last"] for each in found if each["last"]] == ["was killed by SIGKILL"]
    pool.told("was killed by SIGKILL")


def test_a_call_is_retried_by_another_worker(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 2)
    pids = pool.ready(client, 2)
    stop = threading.Event()

    def kill() -> None:
        chance = random.Random(1)
        while not stop.wait(0.05):
            found = [each["pid"] for each in pool.status(client) if each["state"] == "ready"]
            if len(found) == 2:
                os.kill(int(str(chance.choice(found))), signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with Client(client.address, timeout=PATIENCE) as caller:
            for number in range(3_000):
                assert caller.call("work/echo", number) == number
    finally:
        stop.set()
        killing.join(PATIENCE)
    assert set(pool.ready(client, 2)) != set(pids)


def test_one_that_ends_again_and_again_is_flapping(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    pool = start("tests.workers.flapping:app", FLAPPING_MARKER=str(marker))
    (pid,) = pool.ready(client, name="flapping")
    marker.touch()
    os.kill(pid, signal.SIGKILL)

    def flaps() -> bool:
        return [each["state"] for each in pool.status(client, "flapping")] == ["flapping"]

    wait_until(flaps, "it to be called flapping", PATIENCE)
    pool.told("ended with exit code 9")
    pool.told("it is flapping")
    marker.unlink()
    pool.ready(client, name="flapping")
    assert client.call("flaps/pid") > 0


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("tests.workers.nothing:app", "there is no module tests.workers.nothing"),
        ("tests.workers.apps:nothing_there", "has no nothing_there"),
        ("tests.workers.apps:nothing", "declares no service"),
    ],
)
def test_what_cannot_be_served(start: StartPool, client: Client, app: str, why: str) -> None:
    pool = start(app)
    assert pool.process.wait(PATIENCE) == 3
    assert why in pool.log.read_text()
    assert "nothing to serve" in pool.log.read_text()


def test_functions_are_served_by_their_names(client: Client, start: StartPool) -> None:
    start("tests.workers.apps:double", "--name", "doubles").ready(client, name="doubles")
    start("tests.workers.apps:later", "--service", "numbers/later").ready(
        client, name="numbers/later"
    )
    assert client.call("double", 4) == 8
    assert client.call("numbers/later", 5) == 5


def test_a_worker_that_hangs_is_killed(client: Client, start: StartPool) -> None:
    pool = start(APP, "--hang", 0.5)
    (pid,) = pool.ready(client)
    with pytest.raises(WorkerLost):
        client.call("once/sleep", 60)
    wait_until(lambda: is_gone(pid), "it to be killed", PATIENCE)
    pool.told("hangs: a call has taken")
    wait_until(lambda: pool.ready(client) != [pid], "another", PATIENCE)
    assert client.call("work/pid") != pid


def test_a_stopped_worker_is_killed(client: Client, start: StartPool) -> None:
    pool = start(APP, "--hang", 0.5)
    (pid,) = pool.ready(client)
    os.kill(pid, signal.SIGSTOP)
    pool.told("it was not seen to go on for")
    wait_until(lambda: pool.ready(client) != [pid], "another", PATIENCE)
    assert is_gone(pid)


@pytest.mark.parametrize("limit", ["--max-calls", "--max-seconds", "--max-memory"])
def test_workers_are_renewed_and_drop_nothing(client: Client, start: StartPool, limit: str) -> None:
    most = {"--max-calls": 20, "--max-seconds": 4, "--max-memory": 120}[limit]
    pool = start(APP, "--processes", 2, limit, most)
    before = set(pool.ready(client, 2))
    seen: set[int] = set()

    def others() -> bool:
        what = ("work/keep", 5_000_000) if limit == "--max-memory" else ("work/pid",)
        seen.add(client.call(*what))
        return len(seen - before) >= 2

    wait_until(others, "two others", PATIENCE)
    assert all(each["restarts"] == 0 for each in pool.status(client)), "as nobody has crashed"
    with pytest.raises(WorkerLost):  # without a second chance: nothing else was lost
        client.call("once/die")


def test_it_is_resized_while_it_runs(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 1)
    pool.ready(client, 1)
    assert client.call("pools/apps/scale", 3) == 1
    three = pool.ready(client, 3)
    assert {client.call("work/pid") for _ in range(6)} == set(three)
    assert client.call("pools/apps/scale", 1) == 3
    (one,) = pool.ready(client, 1)
    wait_until(lambda: all(is_gone(pid) for pid in three if pid != one), "the others to end")
    with pytest.raises(Error, match="0 to 1000 processes"):
        client.call("pools/apps/scale", -1)


def test_all_are_renewed_without_a_gap(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 2)
    before = set(pool.ready(client, 2))
    pool.process.send_signal(signal.SIGHUP)

    def renewed() -> bool:
        assert client.call("work/echo", 1) == 1
        found = pool.status(client)
        return len(found) == 2 and not before & {int(str(each["pid"] or 0)) for each in found}

    wait_until(renewed, "all to be others", PATIENCE)
    pool.ready(client, 2)


def test_a_renewal_that_fails_leaves_those_that_were_there(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    pool = start("tests.workers.flapping:app", FLAPPING_MARKER=str(marker))
    (pid,) = pool.ready(client, name="flapping")
    marker.touch()
    client.call("pools/flapping/restart")
    pool.told("those before it go on")
    assert client.call("flaps/pid") == pid
    assert pool.ready(client, name="flapping") == [pid]


def test_one_that_is_to_be_replaced_is_killed_too_when_it_hangs(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    pool = start("tests.workers.flapping:app", "--hang", 0.5, FLAPPING_MARKER=str(marker))
    (pid,) = pool.ready(client, name="flapping")
    marker.write_text("never ready")
    client.call("pools/flapping/restart")
    wait_until(lambda: len(pool.status(client, "flapping")) == 2, "another to be started")
    with pytest.raises(WorkerLost):
        client.call("flaps/sleep", 60)
    wait_until(lambda: is_gone(pid), "it to be killed", PATIENCE)
    pool.process.kill()


def test_what_workers_print_is_labelled(client: Client, start: StartPool, tmp_path: Path) -> None:
    pool = start(APP)
    (pid,) = pool.ready(client)
    client.call("work/say", "hello\nyou")
    for line in ("hello", "you", "HELLO", "YOU"):
        pool.told(f"[apps.1 {pid}] {line}\n")
    pool.end()
    logs = tmp_path / "logs"
    pool = start(APP, "--log-dir", logs)
    pool.ready(client)
    client.call("work/say", "x" * 200_000)
    client.call("work/say", "hello")
    pool.end()
    lines = (logs / "apps.1.log").read_text().splitlines()
    assert "hello" in lines
    assert "HELLO" in lines
    assert sum(line.count("x") for line in lines if set(line) == {"x"}) == 200_000
    assert "hello" not in pool.log.read_text()


def test_workers_end_when_their_pool_is_killed(client: Client, start: StartPool) -> None:
    pool = start(APP, "--processes", 2)
    pids = pool.ready(client, 2)
    pool.process.kill()
    wait_until(lambda: all(map(is_gone, pids)), "the workers to end", PATIENCE)


def test_a_second_pool_of_a_name_is_refused(client: Client, start: StartPool) -> None:
    start(APP).ready(client)
    other = start(APP)
    assert other.process.wait(PATIENCE) == 3
    assert "there is a pool 'apps' already" in other.log.read_text()


def test_of_two_pools_of_a_name_that_begin_at_once_one_is_refused(
    client: Client, start: StartPool
) -> None:
    with client.lock("pools/apps"):  # as the first has it before it is known
        other = start(APP)
        assert other.process.wait(PATIENCE) == 3
    assert "there is a pool 'apps' already" in other.log.read_text()


def test_without_a_broker_it_does_not_begin(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "none.sock"), tmp_path / "log", APP)
    assert pool.process.wait(PATIENCE) == 69


def run(broker: BrokerProcess, *args: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "udsbus", "worker", *args], capture_output=True, text=True,
        timeout=PATIENCE, check=False, env={**os.environ, "UDSBUS_SOCKET": broker.address},
    )  # fmt: skip


def test_the_command_sees_resizes_renews_and_ends(
    broker: BrokerProcess, client: Client, start: StartPool
) -> None:
    nothing = run(broker, "status")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    pool = start(APP, "--name", "mine")
    (pid,) = pool.ready(client, name="mine")
    fields = run(broker, "status").stdout.split("\t")
    assert (fields[:4], fields[5]) == (["mine", "1", str(pid), "ready"], "0")
    assert '"state": "ready"' in run(broker, "status", "mine", "--json").stdout
    scaled = run(broker, "scale", "mine", "2")
    assert (scaled.returncode, scaled.stdout) == (0, "1\n")
    pool.ready(client, 2, name="mine")
    assert run(broker, "restart", "mine").returncode == 0
    assert run(broker, "scale", "other", "2").returncode == 1
    assert run(broker, "scale", "mine", "0").returncode == 0
    wait_until(lambda: not pool.status(client, "mine"), "all to end", PATIENCE)
    assert run(broker, "status").stdout == "mine\t\t\tempty\t\t\t\n"
    assert run(broker, "stop", "mine").returncode == 0
    assert pool.process.wait(PATIENCE) == 0
    assert run(broker).returncode == 2
    assert run(broker, "a:b", "c").returncode == 2
    assert run(broker, "--stdio", "cat").returncode == 2
    assert "names no module" in run(broker, ":app").stderr


def test_a_worker_that_prints_for_ever_is_killed_too(client: Client, start: StartPool) -> None:
    pool = start(APP, "--hang", 1)
    (pid,) = pool.ready(client)
    with pytest.raises(Error):
        client.call("work/print_for_ever", timeout=3)
    wait_until(lambda: is_gone(pid), "it to be killed", PATIENCE)
    assert pool.end() == 0


def test_a_thread_that_hangs_is_noticed(client: Client, start: StartPool) -> None:
    pool = start("tests.workers.apps:Once", "--service", "many", "--concurrency", 2, "--hang", 1)
    (pid,) = pool.ready(client, name="many")
    with pytest.raises(WorkerLost):
        client.call("many/sleep", 60)
    wait_until(lambda: is_gone(pid), "it to be killed", PATIENCE)


@pytest.mark.parametrize("app", ["Work", "items"])
def test_a_long_stream_does_not_hang(client: Client, start: StartPool, app: str) -> None:
    pool = start(f"tests.workers.apps:{app}", "--service", "long", "--hang", 1)
    pool.ready(client, name="long")
    name = "long/items" if app == "Work" else "long"
    stream = client.call(name, 3.0)
    assert next(stream) is not None
    threading.Event().wait(2.0)  # and whoever takes it may take his time
    assert sum(1 for _ in stream) > 5


def test_a_pool_ends_though_a_call_does_not(
    client: Client, start: StartPool, tmp_path: Path
) -> None:
    pool = start(
        "tests.workers.apps:Work", "--service", "w", "--concurrency", 2, "--grace", 0.2
    )  # fmt: skip
    (pid,) = pool.ready(client, name="w")
    begun = tmp_path / "begun"

    def call() -> None:
        with pytest.raises(Error):
            client.call("w/sleep", 60, str(begun))

    calling = threading.Thread(target=call)
    calling.start()
    wait_until(begun.exists, "the call to begin")
    assert pool.end() == 0
    assert is_gone(pid)
    calling.join(PATIENCE)


def test_names_with_slashes(
    broker: BrokerProcess, client: Client, start: StartPool, tmp_path: Path
) -> None:
    pool = start("tests.workers.apps:Work", "--service", "a/b", "--log-dir", tmp_path / "logs")
    pool.ready(client, name="a/b")
    assert run(broker, "status").stdout.startswith("a/b\t1\t")
    assert (tmp_path / "logs" / "a.b.1.log").exists()

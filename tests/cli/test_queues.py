"""`udsbus queue`."""

from __future__ import annotations

import contextlib
import queue
import subprocess
from collections.abc import Iterator

import pytest

import udsbus
from tests.harness import wait_until
from udsbus.client import requests

from .support import COMMAND, PATIENCE, Command


@pytest.fixture(autouse=True)
def _emptied(client: udsbus.Client) -> Iterator[None]:
    """The tests share a bus."""
    yield
    jobs = client.queue("jobs")
    with contextlib.suppress(queue.Empty):
        while True:
            jobs.get_nowait()
            jobs.task_done()


def takers(client: udsbus.Client) -> int:
    return client._call(requests.queue("jobs"))["takers"]


def test_in_and_out(command: Command, client: udsbus.Client) -> None:
    assert command.lines("queue", "len", "jobs") == ["0"]
    for value in ("1", "two", '{"three": 3}'):
        assert command.lines("queue", "put", "jobs", value) == []
    assert command.lines("queue", "len", "jobs") == ["3"]
    assert command.lines("queue", "get", "jobs", "--last") == ['{"three": 3}']
    assert client.queue("jobs").get() == 1
    assert command("queue", "get", "jobs", "--raw") == (0, "two", "")
    assert client.queue("jobs").join(timeout=0) is False, "what this client got is not done"
    client.queue("jobs").task_done()
    assert client.queue("jobs").join(timeout=0)


def test_values_are_those_of_set(command: Command, client: udsbus.Client) -> None:
    assert command("queue", "put", "jobs", "-", stdin=b"line\n")[0] == 0
    assert command("queue", "put", "jobs", "1", "--raw")[0] == 0
    assert command("queue", "put", "jobs", "[1", "--json")[0] == 2
    assert [client.queue("jobs").get() for _ in range(2)] == ["line", "1"]


def test_by_priority(command: Command, client: udsbus.Client) -> None:
    for value in ('[2, "b"]', '[1, "a"]', '[10, "c"]'):
        assert command("queue", "put", "jobs", value, "--priority")[0] == 0
    client.priority_queue("jobs").put([0, "first"])
    assert [command.lines("queue", "get", "jobs") for _ in range(4)] == [
        ['[0, "first"]'], ['[1, "a"]'], ['[2, "b"]'], ['[10, "c"]'],
    ]  # fmt: skip
    code, out, err = command("queue", "put", "jobs", '{"no": "order"}', "--priority")
    assert (code, out) == (3, "")
    assert "put (priority, item)" in err


def test_waiting_for_an_item(command: Command, client: udsbus.Client) -> None:
    with command.running("queue", "get", "jobs") as running:
        wait_until(lambda: takers(client) == 1, "it to wait")
        client.queue("jobs").put("now")
        assert running.line("stdout") == '"now"'
        assert running.process.wait(PATIENCE) == 0
    assert client.queue("jobs").join(timeout=0)


def test_nothing_there(command: Command) -> None:
    code, out, err = command("queue", "get", "jobs", "--no-wait")
    assert (code, out, err) == (1, "", "udsbus: there is nothing in jobs\n")
    assert command("queue", "get", "jobs", "--timeout", "0.05")[0] == 4


def test_no_room(command: Command, client: udsbus.Client) -> None:
    client.queue("jobs").put(1)
    for options in (["--no-wait"], ["--timeout", "0.05"]):
        code, out, err = command("queue", "put", "jobs", "2", "--maxsize", "1", *options)
        assert (code, out, err) == (4, "", "udsbus: there is no room in jobs: --maxsize is 1\n")
    assert command("queue", "put", "jobs", "2", "--maxsize", "2")[0] == 0
    assert command("queue", "put", "jobs", "2", "--maxsize", "0")[0] == 2
    assert command.lines("queue", "len", "jobs") == ["2"]


def test_what_cannot_be_printed_stays(command: Command, client: udsbus.Client) -> None:
    """Nobody takes it from the pipe, or there is no room on the disk."""
    client.queue("jobs").put("x" * 200_000)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "queue", "get", "jobs"], stdout=full, stderr=subprocess.PIPE,
            env=command.environ, timeout=2 * PATIENCE,
        )  # fmt: skip
    assert done.returncode == 3
    wait_until(lambda: client.queue("jobs").qsize() == 1, "it to be in the queue again")
    assert len(client.queue("jobs").get()) == 200_000


def test_what_is_wrong(command: Command) -> None:
    code, _, err = command("queue")
    assert code == 2
    assert "Usage: udsbus queue" in err
    assert command("queue", "put", "jobs/", "1")[0] == 3
    for which in (["put", "jobs", "1"], ["get", "jobs"]):
        assert command("queue", *which, "--no-wait", "--timeout", "1")[0] == 2

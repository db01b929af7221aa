"""Programs in any language, asked over their stdin: echo, calculate, unknown, malformed, quit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.harness import wait_until
from udsbus import Client, InvalidRequest, ProtocolError, RemoteError, RequestTimeout, WorkerLost

from .conftest import PATIENCE, StartPool

PROGRAM = (sys.executable, "-m", "tests.workers.asked")
MSGPACK = """
import sys, msgpack
unpacker = msgpack.Unpacker(sys.stdin.buffer, read_size=1)
for request in unpacker:
    if request["method"] == "rubbish":
        sys.stdout.buffer.write(b"\\xc1 rubbish")
    else:
        sys.stdout.buffer.write(msgpack.packb({"id": request["id"], "result": request["args"]}))
    sys.stdout.buffer.flush()
"""


def test_echo_calculate_unknown_malformed_quit(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    pool.ready(client, name="tasks")
    assert client.call("tasks/echo", {"a": [1, None, "ü"]}) == {"a": [1, None, "ü"]}
    assert client.call("tasks/add", 2, 3) == 5
    assert client.call("tasks/named", x=1) == {"x": 1}
    with pytest.raises(RemoteError, match="unknown task fly"):
        client.call("tasks/fly")
    for malformed in ("stray", "other", "empty", "late"):
        with pytest.raises(ProtocolError, match="the program answered"):
            client.call(f"tasks/{malformed}", 1)
        assert client.call("tasks/add", 2, 3) == 5, f"{malformed} is an error for that call only"
    with pytest.raises(ProtocolError):
        client.call("tasks/late", 1)  # whose answer comes after what it has printed
    assert [client.call("tasks/echo", number) for number in range(5)] == list(range(5))
    assert client.call("tasks/after") == 1
    assert client.call("tasks/add", 2, 3) == 5, "what is printed after an answer is nobody's"
    with pytest.raises(InvalidRequest, match="no form in json"):
        client.call("tasks/echo", b"bytes")
    client.call("tasks/log", "to the log")
    pool.told("to the log")
    with pytest.raises(WorkerLost):
        client.call("tasks/quit", 4)
    pool.told("has ended (exit code 4)")
    wait_until(
        lambda: [each["restarts"] for each in pool.status(client, "tasks")] == [1], "a restart"
    )
    pool.ready(client, name="tasks")
    assert client.call("tasks/add", 2, 3) == 5
    assert pool.end() == 0


def test_a_time_out_gets_no_late_answer(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    pool.ready(client, name="tasks")
    with pytest.raises(RequestTimeout):
        client.call("tasks/sleep", 60, timeout=0.3)
    assert client.call("tasks/echo", "mine", timeout=PATIENCE) == "mine"


def test_messagepack(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--format", "msgpack", "--stdio", "--",
                 sys.executable, "-c", MSGPACK)  # fmt: skip
    pool.ready(client, name="tasks")
    assert client.call("tasks/echo", b"bytes", 1.5) == [b"bytes", 1.5]
    with pytest.raises(ProtocolError):
        client.call("tasks/rubbish")
    assert client.call("tasks/echo", 2) == [2]


PYTHON = """
import sys, udsbus
class Tasks:
    def add(self, a, b):
        print("a stray print")
        return a + b
    def read(self):
        return sys.stdin.read()
    def fail(self):
        raise LookupError("not there")
    def odd(self):
        return {(1, 2): object()}
udsbus.serve_stdio(Tasks, format=sys.argv[1])
"""


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_program_in_python_has_private_descriptors(
    client: Client, start: StartPool, form: str
) -> None:
    command = (sys.executable, "-c", PYTHON, form)
    pool = start("--service", "tasks", "--format", form, "--stdio", "--", *command)
    pool.ready(client, name="tasks")
    assert client.call("tasks/add", 2, 3) == 5, "a stray print cannot be taken for an answer"
    pool.told("a stray print")
    assert client.call("tasks/read") == ""
    with pytest.raises(RemoteError, match="LookupError: not there"):
        client.call("tasks/fail")
    with pytest.raises(RemoteError, match="has no form here"):
        client.call("tasks/odd")
    with pytest.raises(RemoteError, match="missing a required argument"):
        client.call("tasks/add", 2)
    with pytest.raises(RemoteError, match="has no method 'fly'"):
        client.call("tasks/fly")


def test_a_program_in_python_bears_rubbish() -> None:
    asked = b'rubbish\n[1]\n{"id": 1, "method": "add", "args": [1, 2]}\n'
    command = [sys.executable, "-c", PYTHON, "json"]
    run = subprocess.run(command, input=asked, capture_output=True, timeout=PATIENCE, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer.get("result") for answer in answers] == [None, None, 3]
    assert "no JSON" in answers[0]["error"]
    assert "is a map" in answers[1]["error"]


def test_several_programs_at_once(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--processes", 2, "--stdio", "--", *PROGRAM)
    pool.ready(client, 2, name="tasks")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.call("tasks/sleep", 0.5)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == ["slept", "slept"]


def test_there_is_no_such_program(start: StartPool, client: Client) -> None:
    pool = start("--service", "tasks", "--stdio", "--", "/there/is/no/such/program")
    assert pool.process.wait(PATIENCE) == 3
    assert "cannot start '/there/is/no/such/program'" in pool.log.read_text()


def test_a_program_that_dies_while_nobody_asks(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    (pid,) = pool.ready(client, name="tasks")
    program = client.call("tasks/pid")
    os.kill(program, signal.SIGKILL)
    wait_until(lambda: pool.ready(client, name="tasks") != [pid], "another", PATIENCE)
    assert client.call("tasks/add", 2, 3) == 5


def test_its_last_words_count(client: Client, start: StartPool) -> None:
    pool = start("--service", "tasks", "--stdio", "--", *PROGRAM)
    pool.ready(client, name="tasks")
    assert client.call("tasks/bye") == "bye"
    pool.told("has ended (exit code 0)")

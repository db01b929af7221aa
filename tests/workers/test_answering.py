"""Programs in Python that are asked over their stdin: `udsbus.serve_stdio`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import msgpack
import pytest

from udsbus import Client, RemoteError

from .conftest import PATIENCE, StartPool

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
    def exit(self):
        sys.exit("and out")
    def echo(self, value):
        return value
    def reads(self):
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file)["syscr"])
    def interrupt(self):
        raise KeyboardInterrupt
    def large(self):
        import signal
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        return "x" * 20_000_000
import atexit
atexit.register(print, "at its exit", flush=True)
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
    with pytest.raises(RemoteError) as ended:
        client.call("tasks/exit")
    assert str(ended.value) == "SystemExit: and out"
    assert client.call("tasks/add", 2, 3) == 5, "it is an error for that call only"
    before = client.call("tasks/reads")
    assert client.call("tasks/echo", "x" * 1_000_000) == "x" * 1_000_000
    assert client.call("tasks/reads") - before < 1_000, "it does not read byte by byte"
    assert client.call("tasks/large") == "x" * 20_000_000, "though signals come in between"
    assert client.call("tasks/add", 2, 3) == 5
    if form == "msgpack":
        assert client.call("tasks/echo", {1: {2: b"3"}}) == {1: {2: b"3"}}
    assert pool.end() == 0
    pool.told("at its exit")


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_several_requests_at_once_and_one_in_parts(form: str) -> None:
    def pack(request: dict[str, Any]) -> bytes:
        if form == "json":
            return json.dumps(request).encode() + b"\n"
        packed: bytes = msgpack.packb(request)
        return packed

    requests = [
        pack({"id": number, "method": "echo", "args": ["x" * size], "kwargs": {}})
        for number, size in enumerate((1, 1, 1_000_000, 1))
    ]
    asked = b"".join(requests)
    command = [sys.executable, "-c", PYTHON, form]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(asked[:20])
        process.stdin.flush()
        found, _ = process.communicate(asked[20:], PATIENCE)
    answers = (
        [json.loads(line) for line in found.splitlines()]
        if form == "json"
        else list(msgpack.Unpacker(io.BytesIO(found)))
    )
    assert [(each["id"], len(each["result"])) for each in answers] == [
        (0, 1), (1, 1), (2, 1_000_000), (3, 1),
    ]  # fmt: skip


def test_ctrl_c_ends_it() -> None:
    asked = b'{"id": 1, "method": "interrupt"}\n{"id": 2, "method": "echo", "args": [1]}\n'
    command = [sys.executable, "-c", PYTHON, "json"]
    run = subprocess.run(command, input=asked, capture_output=True, timeout=PATIENCE, check=False)
    assert run.returncode == -2
    assert run.stdout == b""


def test_whoever_asks_is_gone() -> None:
    asked = b'{"id": 1, "method": "echo", "args": [1]}\n'
    command = [sys.executable, "-c", PYTHON, "json"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(asked)
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b"at its exit\n"


def test_a_program_in_python_bears_rubbish() -> None:
    asked = b'rubbish\n[1]\n{"id": 1, "method": "add", "args": [1, 2]}\n'
    command = [sys.executable, "-c", PYTHON, "json"]
    run = subprocess.run(command, input=asked, capture_output=True, timeout=PATIENCE, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer.get("result") for answer in answers] == [None, None, 3]
    assert "no JSON" in answers[0]["error"]
    assert "is a map" in answers[1]["error"]

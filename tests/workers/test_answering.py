"""Programs in Python that are asked over their stdin: `udsbus.serve_stdio`."""

from __future__ import annotations

import json
import subprocess
import sys

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

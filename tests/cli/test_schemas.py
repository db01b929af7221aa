"""`udsbus schema`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .support import Command

PORT = {"$schema": "https://json-schema.org/draft/2020-12/schema", "required": ["port"]}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PORT))
    return str(path)


def test_from_the_first_to_the_last(command: Command, file: str) -> None:
    assert command("schema", "list").code == 1
    assert command("schema", "get", "web/*").code == 1
    command.lines("set", "web/old", "{}")
    assert command("schema", "check", "web/*", file).out == (
        'web/old\t\t"port" is a required property\n'
    )
    (revision,) = command.lines("schema", "set", "web/*", file, "--verbose")
    assert revision.isdigit()
    refused = command("set", "web/a", "{}")
    assert refused.code == 3
    assert refused.err == (
        "udsbus: 'web/a' does not match the schema of 'web/*': \"port\" is a required property\n"
    )
    command.lines("set", "web/a", '{"port": 80}')
    assert command.lines("schema", "list") == [f"web/*\t{json.dumps(PORT)}"]
    assert json.loads(command("schema", "get", "web/*").out) == PORT
    outcome = command("schema", "check", "web/*")
    assert (outcome.code, outcome.out[:7]) == (3, "web/old")
    command.lines("delete", "web/old")
    assert command("schema", "check", "web/*").code == 0
    command.lines("schema", "delete", "web/*")
    assert command("schema", "delete", "web/*").code == 1
    command.lines("set", "web/a", "{}")
    command.lines("delete", "web/a")


def test_from_stdin(command: Command) -> None:
    assert command("schema", "set", "t/*", "-", stdin=b'{"type": "null"}').code == 0
    assert command("set", "t/a", "1").code == 3
    command.lines("schema", "delete", "t/*")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("{", 2, "is not JSON"),
        ('{"type": "strin"}', 3, "no JSON Schema"),
        ('{"$ref": "file:///etc/hostname"}', 3, "must hold all that it refers to"),
        ("[]", 3, "not list"),
    ],
)
def test_what_is_no_schema(
    command: Command, tmp_path: Path, content: str, code: int, said: str
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(content)
    outcome = command("schema", "set", "t/*", str(path))
    assert outcome.code == code
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_wrong_usage(command: Command) -> None:
    assert command("schema").code == 2
    assert command("schema", "set", "t/*", "/no/such/file").code == 2
    assert command("schema", "check", "t/*").code == 1

"""completion: scripts, and keys from the broker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import udsbus

from ..harness import BrokerProcess
from .support import COMMAND, Command


def completed(command: Command, *words: str) -> list[str]:
    """What bash is offered for the last of `words`."""
    done = subprocess.run(
        COMMAND,
        capture_output=True,
        env=command.environ
        | {
            "_UDSBUS_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options(command: Command) -> None:
    assert completed(command, "udsbus", "p") == ["publish", "ping"]
    assert "--if-absent" in completed(command, "udsbus", "set", "--")


def test_keys(command: Command, client: udsbus.Client) -> None:
    client.set_many(dict.fromkeys(["config/limit", "config/name", "con", "d", "control"], 1))
    assert completed(command, "udsbus", "get", "con") == [
        "con", "config/limit", "config/name", "control",
    ]  # fmt: skip
    assert completed(command, "udsbus", "get", "config/") == ["config/limit", "config/name"]
    assert completed(command, "udsbus", "delete", "d", "config/n") == ["config/name"]
    assert completed(command, "udsbus", "watch", "d") == ["d"]
    assert completed(command, "udsbus", "get", "none") == []


def test_keys_of_another_bus(command: Command, client: udsbus.Client, lonely: Command) -> None:
    client.set("config/limit", 1)
    words = ("udsbus", "--socket", client.address, "get", "c")
    assert completed(lonely, *words) == ["config/limit"]
    words = ("udsbus", "get", "--socket", client.address, "c")
    assert completed(lonely, *words) == ["config/limit"]


def test_no_key_that_a_shell_or_terminal_would_act_upon(
    command: Command, client: udsbus.Client
) -> None:
    for key in ("k$(rm x)", "k;x", "k x", "k\x1b[31m", "k\nplain,key", "k'", "ké/1.2-3_4"):
        client.set(key, 1)
    assert completed(command, "udsbus", "get", "k") == ["ké/1.2-3_4"]


def test_at_most_a_hundred(command: Command, client: udsbus.Client) -> None:
    client.set_many({f"many/{number:04}": number for number in range(1500)})
    assert len(completed(command, "udsbus", "get", "many")) == 100
    assert len(completed(command, "udsbus", "get", "many/12")) == 100
    assert completed(command, "udsbus", "get", "many/149") == [
        f"many/149{digit}" for digit in range(10)
    ]


def test_nothing_without_a_broker(lonely: Command, broker: BrokerProcess) -> None:
    nobody = Command(lonely.address + "x")
    assert completed(nobody, "udsbus", "get", "c") == []
    assert completed(nobody, "udsbus", "--socket", "x" * 200, "get", "c") == []
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        assert completed(Command(broker.address), "udsbus", "get", "c") == []
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(command: Command, shell: str) -> None:
    script = "\n".join(command.lines("completion", shell))
    assert "_UDSBUS_COMPLETE" in script
    assert f"{shell}_complete" in script


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_in_bash(command: Command, client: udsbus.Client, runtime: Path) -> None:
    client.set("config/limit", 1)
    program = runtime / "udsbus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m udsbus "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(udsbus completion bash)"
        COMP_WORDS=(udsbus get conf) COMP_CWORD=2
        _udsbus_completion udsbus
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=command.environ | {"PATH": f"{runtime}:{os.environ['PATH']}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "config/limit\n", "")

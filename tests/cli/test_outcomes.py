"""Exit codes, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import udsbus
from udsbus.cli.main import COMMANDS
from udsbus.cli.outcomes import MEANINGS

from ..harness import BrokerProcess, wait_until
from .support import COMMAND, Command, Running, is_one_complaint


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["set", "key", "1"], 0),
        (["get", "absent"], 1),
        (["delete", "absent"], 1),
        (["publish", "nobody", "1"], 1),
        (["get"], 2),
        (["get", "a", "b"], 2),
        (["gett", "a"], 2),
        (["get", "--nope", "a"], 2),
        (["keys", "--timeout", "soon"], 2),
        (["completion", "csh"], 2),
        (["get", "a//b"], 3),
        (["set", "$sys/a", "1"], 3),
        (["set", "key", "1", "--if-revision", "0"], 3),
        (["set", "x" * 1025, "1"], 3),
        (["watch", "absent", "--timeout", "0.01"], 4),
        (["get", "key", "--socket", "/nowhere/bus.sock"], 69),
        (["get", "key", "--socket", "/etc/passwd"], 69),
        (["--socket", "x" * 200, "get", "key"], 3),
    ],
)
def test_exit_code(command: Command, client: udsbus.Client, args: list[str], code: int) -> None:
    client.set("key", 0)
    outcome = command(*args)
    assert outcome.code == code
    assert outcome.err == "" if code == 0 else is_one_complaint(outcome.err), outcome.err


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (("gte", "a"), "'get'"), (("config", "psh"), "'push'"), (("worker", "statsu"), "'status'"),
        (("get", "a", "--rw"), "'--raw'"),
    ],
)  # fmt: skip
def test_a_slip_is_told_what_was_meant(
    command: Command, client: udsbus.Client, args: tuple[str, ...], meant: str
) -> None:
    outcome = command(*args)
    assert outcome.code == 2
    assert f"Did you mean {meant}?" in outcome.err


@pytest.mark.parametrize(
    "args",
    [
        ("config", "push", "-1"), ("config", "diff", "-1"), ("schema", "set", "x", "-1"),
        ("worker", "scale", "x", "-1"), ("kick", "-1"), ("completion", "-1"),
    ],
)  # fmt: skip
def test_what_begins_with_a_minus_is_shown_as_it_was_typed(
    command: Command, client: udsbus.Client, args: tuple[str, ...]
) -> None:
    code, _, err = command(*args)
    assert code in (1, 2)
    assert is_one_complaint(err)
    assert "-1" in err
    assert "x00" not in err


def test_every_exit_code_is_in_the_help(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for number, meaning in MEANINGS.items():
        assert f"{number:>5}  {meaning}\n" in out
    for name in COMMANDS:
        assert f"\n  {name} " in out


def test_alone_it_shows_its_help(command: Command) -> None:
    code, out, err = command()
    assert (code, out) == (2, "")
    assert "Commands:" in err
    assert command("--version").out.startswith("udsbus, version ")


def test_a_broker_that_does_not_answer(broker: BrokerProcess) -> None:
    command = Command(broker.address)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        code, out, err = command("get", "key", "--timeout", "0.1")
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert (code, out) == (4, "")
    assert is_one_complaint(err)


def test_ctrl_c_while_it_waits(broker: BrokerProcess) -> None:
    command = Command(broker.address)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        with command.running("ping") as waiting:
            descriptors = Path(f"/proc/{waiting.process.pid}/fd")
            wait_until(lambda: _has_socket(descriptors), "its connection")
            assert waiting.signal(signal.SIGINT) == -signal.SIGINT
            assert (waiting.rest(), waiting.rest("stderr")) == ("", "")
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def _has_socket(descriptors: Path) -> bool:
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(descriptor).startswith("socket:"):
                return True
    return False


def test_ctrl_c_as_a_shell_sees_it(command: Command) -> None:
    """It dies of the signal, and does not just exit: so a shell ends its loop as well."""
    script = ["sh", "-c", '"$@"; echo $?', "sh", *COMMAND, "watch", "a", "--count", "1", "-v"]
    shell = Running(script, command.environ)
    try:
        assert "following" in shell.line("stderr")
        pid = shell.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGINT)
        assert shell.line() == "130"
    finally:
        shell.close()


def test_a_closed_pipe_ends_it_like_any_tool(command: Command, client: udsbus.Client) -> None:
    client.set_many({f"many/{number:05}": "x" * 100 for number in range(5000)})
    with command.running("keys", "--values") as listing:
        assert listing.line().startswith("many/00000\t")
        assert listing.process.stdout is not None
        listing.process.stdout.close()
        assert listing.end() == -signal.SIGPIPE
        assert listing.rest("stderr") == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_that_takes_nothing(command: Command, client: udsbus.Client) -> None:
    client.set("key", "text")
    for args in (["get", "key"], ["get", "key", "--raw"], ["keys", "--values"], ["--help"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, env=command.environ
            )
        assert done.returncode == 3
        assert is_one_complaint(done.stderr.decode())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(command: Command, client: udsbus.Client, closed: str) -> None:
    client.set("key", "text")
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m udsbus get key {closed}', sys.executable],
        capture_output=True,
        env=command.environ,
    )
    if ">&-" in closed.replace("2>&-", ""):
        assert done.returncode == 3
        assert b"Traceback" not in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, b'"text"\n')


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_exit_code_does_not_depend_on_stderr(command: Command) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "get", "absent"], stderr=full, env=command.environ)
    assert done.returncode == 1


def test_a_fault_of_ours_is_not_taken_for_an_absent_key(command: Command) -> None:
    broken = "import udsbus.cli.asking as a, udsbus.cli as c; a.open_socket = None; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", broken, "get", "key"],
        capture_output=True,
        text=True,
        env=command.environ,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert all(line.startswith("udsbus: ") for line in done.stderr.splitlines())
    assert "please report it" in done.stderr


def test_stdin_that_is_closed(command: Command) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -m udsbus set key - <&-', sys.executable],
        capture_output=True,
        env=command.environ,
    )
    assert done.returncode == 2
    assert is_one_complaint(done.stderr.decode())


def test_a_file_that_is_no_socket(lonely: Command, runtime: Path) -> None:
    Path(lonely.address).write_text("precious")
    code, out, err = lonely("get", "key")
    assert (code, out) == (69, "")
    assert is_one_complaint(err)
    assert Path(lonely.address).read_text() == "precious"

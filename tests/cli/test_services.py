"""`udsbus call` and `udsbus services`, with a worker that is a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from tests.harness import BrokerProcess, wait_until

from .support import PATIENCE, Command, is_one_complaint
from .test_completing import completed


def start(address: str, program: str = "calc") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.services.programs", program, address],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def worker(shared_broker: BrokerProcess) -> Iterator[subprocess.Popen[str]]:
    process = start(shared_broker.address)
    yield process
    end(process)
    with udsbus.connect(shared_broker.address) as client:  # the tests of others share the bus
        wait_until(lambda: not client.services(), "it to be gone")


@pytest.fixture
def calc(command: Command, worker: subprocess.Popen[str]) -> Command:
    """The command, where there is something to call."""
    return command


def test_json_in_and_out(calc: Command) -> None:
    assert calc.lines("call", "calc/add", "2", "3") == ["5"]
    assert calc.lines("call", "texts/shout", "loud") == ['"LOUD"']
    assert calc.lines("call", "calc/back", "text", '{"a": [1]}', '{"$tuple": [1]}') == [
        '[["text", {"a": [1]}, {"$tuple": [1]}], {}]'
    ]
    assert calc("call", "calc/back", "-", stdin=b"line\n").out == '[["line"], {}]\n'


def test_arguments_by_name(calc: Command) -> None:
    assert calc.lines("call", "calc/add", "2", "--with", "b=3", "--with", "double=true") == ["10"]
    assert calc.lines("call", "calc/back", "--with", "text=a=b", "--with", "none=null") == [
        '[[], {"text": "a=b", "none": null}]'
    ]
    for wrong in ("b", "=3", "b c=3"):
        code, out, err = calc("call", "calc/add", "2", "--with", wrong)
        assert (code, out) == (2, "")
        assert "--with needs NAME=VALUE" in err
    code, out, err = calc("call", "calc/add", "2", "--with", "b=3", "--with", "b=4")
    assert (code, out) == (2, "")
    assert "--with 'b' is given twice" in err


def test_negative_numbers(calc: Command) -> None:
    assert calc.lines("call", "calc/add", "-2", "-3") == ["-5"]
    assert calc.lines("call", "calc/add", "-0.5", "--with", "b=-1") == ["-1.5"]
    assert calc.lines("call", "calc/back", "--", "-x") == ['[["-x"], {}]']


def test_how_arguments_are_read(calc: Command) -> None:
    assert calc.lines("call", "calc/back", "--raw", "10", "--with", "b=10") == [
        '[["10"], {"b": "10"}]'
    ]
    assert calc("call", "calc/back", "--json", "[1")[0] == 2
    assert calc("call", "calc/back", "--json", "--raw", "1")[0] == 2


def test_what_comes_as_it_is(calc: Command) -> None:
    assert calc("call", "texts/shout", "a b", "--print-raw") == (0, "A B", "")
    assert calc.bytes("call", "calc/pieces", "--print-raw") == (0, b"text\xff\x00", b"")
    assert calc.lines("call", "calc/add", "1", "--print-raw") == ["2"]
    assert calc.lines("call", "calc/pieces") == ['"text"', '{"$bytes": "/wA="}']


def test_a_stream_comes_line_by_line(calc: Command, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with calc.running("call", "calc/count", "3", str(go_on)) as running:
        for number in range(3):
            assert running.line() == str(number)
            assert running.process.poll() is None
            Path(f"{go_on}{number}").touch()
        assert running.end() == 0
        assert running.rest() == ""
    assert calc.lines("call", "calc/count", "0") == []


def test_a_stream_that_nobody_reads_any_longer(calc: Command) -> None:
    with calc.running("call", "calc/count", "1000000000") as running:
        assert running.line() == "0"
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.process.wait(PATIENCE) == -signal.SIGPIPE
        running.process.stdout = None
    assert calc.lines("call", "calc/add", "1") == ["2"], "the worker is free again"


def test_what_failed(calc: Command) -> None:
    code, out, err = calc("call", "calc/fail", "too bad")
    assert (code, out, err) == (3, "", "udsbus: calc/fail failed: ValueError: too bad\n")
    code, out, err = calc("call", "calc/fail", "too bad", "--traceback")
    assert (code, out) == (3, "")
    assert err.count("raise ValueError(message)") == 1
    assert all(line.startswith("udsbus: ") for line in err.splitlines())
    code, out, err = calc("call", "calc/some")
    assert (code, out, err) == (3, "1\n", "udsbus: calc/some failed: LookupError: no more\n")
    # It was called, so it is no matter of who serves what.
    code, out, err = calc("call", "calc/nobody")
    assert (code, out) == (3, "")
    assert "failed: udsbus.errors.ServiceUnavailable: a service of its own is away" in err


def test_what_cannot_be_called(calc: Command) -> None:
    code, out, err = calc("call", "nothing/at_all")
    assert (code, out) == (1, "")
    assert is_one_complaint(err)
    assert "nobody serves 'nothing'" in err
    for name, *arguments in (("calc/nothing",), ("calc",), ("calc/add", "1", "2", "3"), ("a//b",)):
        code, out, err = calc("call", name, *arguments)
        assert (code, out) == (3, "")
        assert is_one_complaint(err)


def test_time_outs(calc: Command, tmp_path: Path) -> None:
    code, out, err = calc("call", "calc/sleep", "1", "--timeout", "0.2")
    assert (code, out) == (4, "")
    assert is_one_complaint(err)
    go_on = tmp_path / "go on"
    with calc.running("call", "calc/count", "1", str(go_on)) as running:
        assert running.line() == "0"
        code, _, err = calc("call", "calc/add", "1", "--timeout", "0.2")
        assert code == 4
        assert "its worker is busy" in err
        Path(f"{go_on}0").touch()
        assert running.end() == 0
    assert calc.lines("call", "calc/add", "1") == ["2"]


def test_no_broker(lonely: Command) -> None:
    assert lonely("call", "calc/add", "1")[0] == 69
    assert lonely("services")[0] == 69


def test_a_worker_that_dies(command: Command, client: udsbus.Client) -> None:
    process = start(client.address, "work")
    code, out, err = command("call", "work/die")
    assert (code, out) == (3, "")
    assert "nobody knows whether it was carried out" in err
    end(process)
    assert command("call", "work/pid")[0] == 1


def test_who_serves_what(calc: Command, worker: subprocess.Popen[str]) -> None:
    rows = [line.split("\t") for line in calc.lines("services")]
    assert [row[0] for row in rows] == [
        *(f"calc/{name}" for name in (
            "add", "back", "count", "die", "fail", "nobody", "pieces", "sleep", "some",
        )),
        "odd\\x1b[31m", "texts/shout",
    ]  # fmt: skip
    signature = "(a: int, b: int = 1, *, double: bool = False) -> int"
    assert rows[0] == ["calc/add", signature, "1", "1", str(worker.pid)]
    assert len(calc.lines("services", "texts/*")) == 1
    nothing = calc("services", "nothing/*")
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing that matches nothing/* is served" in nothing.err
    assert calc("services", "a//b")[0] == 3


def test_as_json(calc: Command, worker: subprocess.Popen[str]) -> None:
    (found,) = [json.loads(line) for line in calc.lines("services", "calc", "--json")]
    assert found["methods"]["add"] == [
        "(a: int, b: int = 1, *, double: bool = False) -> int", "Add them.",
    ]  # fmt: skip
    assert found["workers"] == [
        {"pid": worker.pid, "client": "\x1b[31mred", "concurrency": 1, "free": 1}
    ]


def test_nothing_of_others_reaches_a_terminal(calc: Command) -> None:
    code, text = calc.on_terminal("services", "texts/*")
    assert code == 0
    assert "signature" in text, "a table"
    for arguments in (
        ["services"], ["services", "--json"], ["call", "calc/fail", "\x1b[31mred"],
        ["call", "calc/fail", "\x1b[31mred", "--traceback"], ["call", "calc/add\x1b[31m"],
        ["call", "texts/shout", "\x1b[31mred", "--print-raw"], ["call", "calc/back", "\x1b[31m"],
        ["call", "calc/add", "1", "--with", "\x1b[31m=1"],
    ):  # fmt: skip
        _, text = calc.on_terminal(*arguments)
        assert "\x1b[31m" not in text, arguments


def test_names_are_completed(calc: Command) -> None:
    assert completed(calc, "udsbus", "call", "calc/s") == ["calc/sleep", "calc/some"]
    assert completed(calc, "udsbus", "call", "te") == ["texts/shout"]
    assert completed(calc, "udsbus", "call", "od") == [], "nothing that a terminal would act upon"
    assert completed(calc, "udsbus", "services", "") == ["calc", "texts/shout"]


def test_names_are_not_completed_without_a_broker(lonely: Command) -> None:
    assert completed(lonely, "udsbus", "call", "c") == []

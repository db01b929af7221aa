"""watch."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, cast

import pytest

import udsbus
from udsbus.cli.following import tell_gaps

from ..harness import BrokerProcess, running_broker
from .support import Command, Running, is_one_complaint


def began(watching: Running) -> None:
    """Wait until a command with -v follows."""
    line = watching.line("stderr")
    assert line.startswith("udsbus: following "), line


def test_a_line_at_once_for_each_change(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "a/**", "-v") as watching:
        began(watching)
        first = client.set("a/x", {"b": 1})
        assert watching.line() == f'{first}\tcreated\ta/x\t{{"b": 1}}'
        second = client.set("a/x", None)
        client.set("elsewhere", 1)
        assert watching.line() == f"{second}\tupdated\ta/x\tnull"
        client.delete("a/x")
        assert watching.line() == f"{second + 2}\tdeleted\ta/x\t"
        client.set("a/short", 1, ttl=0.01)
        assert watching.line().split("\t")[1:] == ["created", "a/short", "1"]
        assert watching.line().split("\t")[1:] == ["expired", "a/short", ""]


def test_ctrl_c_is_the_normal_end(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "a", "-v") as watching:
        began(watching)
        assert watching.signal(signal.SIGINT) == 0
        assert (watching.rest("stdout"), watching.rest("stderr")) == ("", "")


def test_ctrl_c_before_the_count_is_reached(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "a", "-v", "--count", "2") as watching:
        began(watching)
        client.set("a", 1)
        watching.line()
        assert watching.signal(signal.SIGINT) == -signal.SIGINT  # 130 to a shell
        assert watching.rest("stderr") == ""


def test_count(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "a", "-v", "--count", "2") as watching:
        began(watching)
        for number in range(3):
            client.set("a", number)
        assert watching.end() == 0
        assert [line.split("\t")[3] for line in watching.rest().splitlines()] == ["0", "1"]


def test_initial(command: Command, client: udsbus.Client) -> None:
    revision = client.set_many({"a": 1, "b": 2})
    lines = command.lines("watch", "*", "--initial", "--count", "2")
    assert lines == [f"{revision}\tpresent\ta\t1", f"{revision}\tpresent\tb\t2"]


def test_the_end_of_the_initial_state(command: Command, client: udsbus.Client) -> None:
    """In each format; and it does not count."""
    client.set("a", 1)
    as_fields, as_json = ("watch", "a", "--initial", "-v"), ("watch", "a", "--initial", "--json")
    with (
        command.running(*as_fields, "--count", "2") as fields,
        command.running(*as_json, "-v", "--count", "2") as objects,
    ):
        began(fields)
        began(objects)
        client.set("a", 2)
        assert [fields.end(), objects.end()] == [0, 0]
        rows = [line.split("\t") for line in fields.rest().splitlines()]
        assert [row[1:] for row in rows] == [
            ["present", "a", "1"], ["caught_up", "", ""], ["updated", "a", "2"],
        ]  # fmt: skip
        assert int(rows[0][0]) <= int(rows[1][0]) < int(rows[2][0])
        lines = [json.loads(line) for line in objects.rest().splitlines()]
        assert list(lines[1]) == ["revision", "kind"]
        assert [line["kind"] for line in lines] == ["present", "caught_up", "updated"]
    with command.terminal(*as_fields) as watching:
        watching.expect("present .* a  2\r\n")
        watching.expect(r"\d  .*caught_up")


def test_kinds(command: Command, client: udsbus.Client) -> None:
    revision = client.set("a", 1)
    client.set("a", 2)
    client.delete("a")
    client.set("a", 3)
    since = ("--from-revision", str(revision - 1))
    args = ("watch", "a", "--kind", "deleted", "--kind", "created", *since, "--count", "3")
    kinds = [line.split("\t")[1] for line in command.lines(*args)]
    assert kinds == ["created", "deleted", "created"]
    assert command("watch", "a", "--kind", "present").code == 2


def test_the_value_before(command: Command, client: udsbus.Client) -> None:
    revision = client.set("a", [1])
    client.set("a", None)
    client.set("a", 2)
    client.delete("a")
    args = ("watch", "a", "--previous", "--from-revision", str(revision - 1), "--count", "4")
    assert [line.split("\t")[1:] for line in command.lines(*args)] == [
        ["created", "a", "[1]", ""],
        ["updated", "a", "null", "[1]"],
        ["updated", "a", "2", "null"],
        ["deleted", "a", "", "2"],
    ]
    assert [json.loads(line) for line in command.lines(*args, "--json")][1:] == [
        {"revision": revision + 1, "kind": "updated", "key": "a", "value": None, "previous": [1]},
        {"revision": revision + 2, "kind": "updated", "key": "a", "value": 2, "previous": None},
        {"revision": revision + 3, "kind": "deleted", "key": "a", "previous": 2},
    ]
    _, text = command.on_terminal(*args)
    assert "(was [1])" in text


def test_wait_for_a_key_to_be_there(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "job/done", "-v", "--initial", "--count", "1") as watching:
        began(watching)
        client.set("job/done", True)
        assert watching.end() == 0
        caught_up, created = watching.rest().splitlines()
        assert "\tcaught_up\t" in caught_up
        assert created.endswith("\tcreated\tjob/done\ttrue")


def test_from_revision(command: Command, client: udsbus.Client) -> None:
    revision = client.set("a", 1)
    client.set("a", 2)
    client.delete("a")
    args = ("watch", "a", "--from-revision", str(revision), "--count", "2")
    kinds = [line.split("\t")[1] for line in command.lines(*args)]
    assert kinds == ["updated", "deleted"]
    assert command("watch", "a", "--from-revision", "1", "--initial").code == 2


def test_json(command: Command, client: udsbus.Client) -> None:
    revision = client.set("a", None)
    client.delete("a")
    lines = command.lines("watch", "a", "--json", "--from-revision", str(revision - 1), "--count=2")
    assert [json.loads(line) for line in lines] == [
        {"revision": revision, "kind": "created", "key": "a", "value": None},
        {"revision": revision + 1, "kind": "deleted", "key": "a"},
    ]


def test_timeout(command: Command, client: udsbus.Client) -> None:
    code, out, err = command("watch", "a", "--timeout", "0.05")
    assert (code, out) == (4, "")
    assert is_one_complaint(err)
    client.set("a", 1)
    code, out, err = command("watch", "a", "--initial", "--timeout", "0.05", "--count", "2")
    assert code == 4
    assert "\tpresent\ta\t1\n" in out
    assert "1 came of 2" in err
    code, _, err = command("watch", "a", "--initial", "--timeout", "0.05")
    assert (code, err) == (0, "")


def test_ends_with_its_reader_before_any_change(command: Command, client: udsbus.Client) -> None:
    with command.running("watch", "a", "-v") as watching:
        began(watching)
        assert watching.process.stdout is not None
        watching.process.stdout.close()
        assert watching.end() == -signal.SIGPIPE
        assert watching.process.stderr is not None
        assert watching.process.stderr.read() == b""


def test_head_in_a_shell(command: Command, client: udsbus.Client) -> None:
    client.set_many({f"many/{number:04}": "x" * 1000 for number in range(900)})
    with command.running("watch", "many/*", "--initial") as watching:
        assert watching.line().split("\t")[1:3] == ["present", "many/0000"]
        assert watching.process.stdout is not None
        watching.process.stdout.close()
        assert watching.end() == -signal.SIGPIPE


def test_a_malformed_pattern(command: Command) -> None:
    code, out, err = command("watch", "a*")
    assert (code, out) == (3, "")
    assert is_one_complaint(err)


def test_no_broker(lonely: Command) -> None:
    code, out, err = lonely("watch", "a")
    assert (code, out) == (69, "")
    assert is_one_complaint(err)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_goes_on_when_the_broker_is_started_anew(
    runtime: Path, address: str, how: signal.Signals
) -> None:
    broker = BrokerProcess(address)
    command = Command(address)
    with udsbus.connect(address) as client:
        client.set("a", 1)
    with command.running("watch", "a", "-v", "--initial") as watching:
        began(watching)
        assert watching.line().endswith("present\ta\t1")
        assert "caught_up" in watching.line()
        broker.stop(how)
        assert "interrupted" in watching.line("stderr")
        with running_broker(address), udsbus.connect(address) as client:
            assert watching.line().split("\t")[1:] == ["deleted", "a", ""]
            assert "changes were missed" in watching.line("stderr")
            assert "caught_up" in watching.line()
            client.set("a", 2)
            assert watching.line().split("\t")[1:] == ["created", "a", "2"]
            assert watching.signal(signal.SIGINT) == 0


class Lossy:
    """A watch or subscription, as far as gaps go."""

    started_over = 0
    interruptions = 0
    skipped = 0
    dropped = 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("started_over", "changes were missed"),
        ("interruptions", "messages may have been missed"),
    ],
)
def test_every_gap_is_told(capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    source, told = cast(Any, Lossy()), dict[str, int]()
    for number in (0, 1, 1, 2):
        setattr(source, name, number)
        tell_gaps(source, told)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(said in line for line in lines)


@pytest.mark.parametrize("name", ["skipped", "dropped"])
def test_losses_are_told_of_when_they_have_doubled(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source, told = cast(Any, Lossy()), dict[str, int]()
    for number in (0, 5, 6, 10, 11, 11, 500):
        setattr(source, name, number)
        tell_gaps(source, told)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["5", "11", "500"]

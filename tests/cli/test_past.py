"""`udsbus log`, `diff` and `rollback`."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest

from .support import Command


@pytest.fixture
def kept(lonely: Command) -> Iterator[Command]:
    """The command for a bus that keeps its history, with some."""
    with lonely.running("serve", "--alone") as broker:
        broker.told("serving")
        lonely.lines("set", "c/a", "1")
        lonely.lines("set", "c/b", '"two"')
        lonely.lines("set", "c/a", "3")
        lonely.lines("delete", "c/b")
        lonely.lines("set", "d\x1b", "4")
        yield lonely


def revisions(command: Command) -> list[int]:
    return [int(line.split("\t")[0]) for line in command.lines("log")]


def test_log(kept: Command) -> None:
    rows = [line.split("\t") for line in kept.lines("log")]
    assert [row[2:5] for row in rows] == [
        ["created", "c/a", "1"], ["created", "c/b", '"two"'], ["updated", "c/a", "3"],
        ["deleted", "c/b", ""], ["created", "d\\x1b", "4"],
    ]  # fmt: skip
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", row[1])
        assert row[5].isdigit()
        assert row[6] == "udsbus command"
    assert [line.split("\t")[3] for line in kept.lines("log", "c/a")] == ["c/a"] * 2
    assert len(kept.lines("log", "--limit", "2")) == 2
    assert len(kept.lines("log", "--limit", "2", "--all")) == 5
    assert len(kept.lines("log", "--after", rows[2][0])) == 2
    assert len(kept.lines("log", "--since", "1h")) == 5
    assert kept("log", "--since", "2999-01-01").code == 1
    assert kept("log", "--client", "nobody").code == 1
    assert kept("log", "--since", "soon").code == 2
    last = json.loads(kept.lines("log", "--json")[-1])
    assert (last["key"], last["before"], last["after"]) == ("d\x1b", None, 4)


def test_log_on_a_terminal(kept: Command) -> None:
    code, text = kept.on_terminal("log", "c/a")
    assert code == 0
    assert "updated" in text
    assert "(udsbus command " in text


def test_log_goes_on(kept: Command) -> None:
    with kept.running("log", "--follow", "--limit", "1") as log:
        assert "\td\\x1b\t4\t" in log.line()
        for number in range(3):
            kept.lines("set", "n", str(number))
            fields = log.line().split("\t")
            assert fields[3:5] == ["n", str(number)]
            assert fields[6] == "udsbus command"
        assert log.signal(signal.SIGINT) == 0
        assert log.rest() == ""


def test_diff(kept: Command) -> None:
    first, second, third, fourth, fifth = revisions(kept)
    assert kept.lines("diff", str(first)) == ["~\tc/a\t1\t3", "+\td\\x1b\t4"]
    assert kept.lines("diff", str(second), str(fourth)) == ["~\tc/a\t1\t3", '-\tc/b\t"two"']
    assert kept("diff", str(fifth)).code == 1
    assert kept("diff", str(third), str(first)).code == 3


def test_rollback(kept: Command) -> None:
    first, second, *_ = revisions(kept)
    assert kept.lines("rollback", "c/**", "--to", str(second)) == ["2"]
    assert kept.lines("get", "c/a") == ["1"]
    assert kept.lines("get", "c/b") == ['"two"']
    assert kept("rollback", "c/**", "--to", str(second)).code == 1
    assert kept.lines("rollback", "c/*", "--to", str(first)) == ["1"]
    for to, said in (
        (("--to-time", "1h"), "the bus did not exist at that time"),
        (("--to", "1"), "revision 1 was before the bus began"),
        (("--to", str(10**17)), f"revision {10**17} has not been yet"),
    ):
        outcome = kept("rollback", "c/a", *to)
        assert outcome.code == 3
        assert said in outcome.err
    assert kept.lines("get", "c/a") == ["1"], "a slip of the pen deletes nothing"
    assert kept("diff", str(10**17)).code == 3
    assert kept("rollback", "c/a").code == 2
    assert kept("rollback", "c/a", "--to", "1", "--to-time", "1h").code == 2


def test_without_a_history(lonely: Command) -> None:
    with lonely.running("serve", "--durability", "none") as broker:
        broker.told("serving")
        for arguments in (["log"], ["diff", "0"], ["rollback", "a", "--to", "0"]):
            code, out, err = lonely(*arguments)
            assert (code, out) == (3, "")
            assert "keeps no history" in err

"""`udsbus serve` with state, and `udsbus journal`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from udsbus.paths import default_state

from .support import Command, Outcome


@pytest.fixture
def state(runtime: Path) -> Path:
    return runtime / "state"


def live(lonely: Command, *args: str) -> None:
    """The life of a broker, in which a few things are written."""
    with lonely.running("serve", *args) as broker:
        broker.told("serving")
        for number in range(5):
            lonely.lines("set", f"key/{number}", str(number))
        broker.signal(signal.SIGTERM)


def damage(state: Path) -> None:
    segment = sorted(state.glob("journal-*.log"))[0]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)


def fields(outcome: Outcome) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in outcome.out.splitlines())


def test_state_is_kept_by_default(lonely: Command) -> None:
    live(lonely)
    place = default_state(lonely.address)
    assert os.path.exists(os.path.join(place, "journal-00000001.log"))
    with lonely.running("serve") as broker:
        broker.told(rf"recovered 5 keys at revision \d+ from {place}")
        broker.told("serving")
        assert lonely.lines("get", "key/3") == ["3"]
        assert f"state\t{place}" in lonely.lines("info")


def test_or_not(lonely: Command, state: Path) -> None:
    live(lonely, "--durability", "none")
    assert not os.path.exists(default_state(lonely.address))
    code, _, err = lonely("serve", "--durability", "none", "--state", str(state))
    assert (code, "--state is for what survives" in err) == (2, True)


def test_a_state_that_another_broker_has(lonely: Command, state: Path, runtime: Path) -> None:
    with lonely.running("serve", "--state", str(state)) as broker:
        broker.told("serving")
        other = str(runtime / "other.sock")
        code, _, err = lonely("serve", "--state", str(state), "--socket", other)
        assert code == 3
        assert f"pid {broker.process.pid}" in err
        assert "--state" in err
        code, _, err = lonely("journal", "repair", "--state", str(state))
        assert code == 3
        assert f"pid {broker.process.pid}" in err


def test_check_of_a_whole_journal(lonely: Command, state: Path) -> None:
    live(lonely, "--state", str(state))
    outcome = lonely("journal", "check", "--state", str(state))
    assert (outcome.code, outcome.err) == (0, "")
    told = fields(outcome)
    assert told["state"] == str(state)
    assert (told["segments"], told["changes"]) == ("1", "5")
    assert "damage" not in told
    as_json = json.loads(lonely("journal", "check", "--state", str(state), "--json").out)
    assert as_json["changes"] == 5
    assert as_json["damage"] is None
    assert lonely("journal", "repair", "--state", str(state)).out == "there is nothing to mend\n"


def test_the_state_of_a_socket(lonely: Command) -> None:
    live(lonely)
    assert fields(lonely("journal", "check"))["state"] == default_state(lonely.address)


@pytest.mark.parametrize("what", ["check", "repair"])
def test_no_state(lonely: Command, state: Path, what: str) -> None:
    code, out, err = lonely("journal", what, "--state", str(state))
    assert (code, out) == (1, "")
    assert err == f"udsbus: there is no state in {state}\n"
    assert not state.exists()


@pytest.mark.parametrize("bridge", [False, True], ids=["cut", "bridge"])
def test_from_damage_to_a_broker_that_starts(lonely: Command, state: Path, bridge: bool) -> None:
    """By the words that the commands themselves say."""
    live(lonely, "--state", str(state))
    damage(state)
    code, _, err = lonely("serve", "--state", str(state))
    assert code == 3
    advice = f"udsbus journal check --state {state}"
    assert err.strip().endswith(advice)
    outcome = lonely(*advice.split()[1:])
    assert outcome.code == 3
    told = fields(outcome)
    assert told["torn tail"] == "false"
    assert int(told["changes"]) + int(told["later changes"]) == 4
    assert f"udsbus journal repair --state {state} ends it at revision" in outcome.err
    assert f"udsbus journal repair --state {state} --bridge also keeps" in outcome.err
    code, out, _ = lonely("journal", "repair", "--state", str(state), *["--bridge"][:bridge])
    assert code == 0
    kept = out.splitlines()[1].partition("kept what stood there in ")[2]
    assert os.path.exists(kept)
    assert lonely("journal", "check", "--state", str(state)).code == 0
    with lonely.running("serve", "--state", str(state)) as broker:
        broker.told("serving")
        expected = int(told["changes"]) + (int(told["later changes"]) if bridge else 0)
        assert len(lonely.lines("keys")) == expected


def test_a_torn_tail_is_no_reason_to_worry(lonely: Command, state: Path) -> None:
    live(lonely, "--state", str(state))
    segment = state / "journal-00000001.log"
    os.truncate(segment, segment.stat().st_size - 1)
    code, out, err = lonely("journal", "check", "--state", str(state))
    assert code == 0
    assert "torn tail\ttrue" in out
    assert "the next broker cuts it off" in err
    with lonely.running("serve", "--state", str(state)) as broker:
        broker.told(r"torn tail is cut at .*, offset \d+")
        broker.told("serving")
        assert len(lonely.lines("keys")) == 5, "it was the mark of a clean end"


def test_the_group_alone_shows_its_commands(lonely: Command) -> None:
    code, out, err = lonely("journal")
    assert (code, out) == (2, "")
    assert "check" in err
    assert "repair" in err

"""`udsbus clients` and `udsbus kick`."""

from __future__ import annotations

import json
import os
from datetime import datetime

import udsbus
from tests.harness import RawClient, wait_until
from udsbus.limits import MIB, OUTPUT_HARD_BYTES

from .support import Command


def test_clients(command: Command, client: udsbus.Client) -> None:
    with udsbus.connect(client.address, name="a\tworker", metadata={"room": 7}) as worker:
        rows = {line.split("\t")[0]: line.split("\t") for line in command.lines("clients")}
        assert rows.keys() == {client.session, worker.session}
        assert rows[worker.session][1] == str(os.getpid())
        assert rows[worker.session][2] == r"a\tworker"
        assert rows[worker.session][4] == '{"room": 7}'
        found = [json.loads(line) for line in command.lines("clients", "--json")]
        assert [each["session"] for each in found] == [client.session, worker.session]
        assert found[1]["metadata"] == {"room": 7}
        assert rows[worker.session][5] == ""
        assert found[1]["behind_since"] is None


def test_who_does_not_keep_up(command: Command, client: udsbus.Client) -> None:
    large = bytes(MIB)
    with RawClient(client.address) as reader:
        reader.call("hello", 1, {"session": "slow", "name": "a reader"})
        reader.call("watch", "large")
        for _ in range(OUTPUT_HARD_BYTES // MIB + 8):
            client.set("large", large)
        wait_until(lambda: client.keys("$sys/slow/*"), "the key that says so")
        ((_, about),) = client.items("$sys/slow/*")
        rows = {line.split("\t")[0]: line.split("\t") for line in command.lines("clients")}
        assert datetime.fromisoformat(rows["slow"][5]).timestamp() == int(about["since"])
        assert rows[client.session][5] == ""
        found = [json.loads(line) for line in command.lines("clients", "--json")]
        assert [each["behind_since"] for each in found] == [None, about["since"]]
    client.kick("slow")


def test_nobody_is_there(lonely: Command) -> None:
    with lonely.running("serve", "--durability", "none") as broker:
        broker.told("serving")
        code, out, _ = lonely("clients")
        assert (code, out) == (1, "")
        code, _, err = lonely("kick", "nobody")
        assert (code, "there is no client 'nobody'" in err) == (1, True)


def test_kick(command: Command, client: udsbus.Client) -> None:
    with (
        udsbus.connect(client.address, name="one") as one,
        udsbus.connect(client.address, name="two") as two,
    ):
        for number, other in enumerate((one, two)):
            other.set(f"e/{number}", number, ephemeral=True)
        code, _, err = command("kick", str(os.getpid()))
        assert (code, one.session in err) == (3, True), "three clients of this process"
        command.lines("kick", "one")
        wait_until(lambda: client.keys("e/*") == ["e/1"], "its key to go")
        command.lines("kick", two.session)
        wait_until(lambda: client.keys("e/*") == [], "its key to go")

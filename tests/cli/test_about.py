"""ping and info."""

from __future__ import annotations

import json
import re

import udsbus

from .support import Command


def test_ping(command: Command) -> None:
    [line] = command.lines("ping")
    assert re.fullmatch(r"\d+\.\d{3} ms", line)
    lines = command.lines("ping", "--count", "3")
    assert len(lines) == 4
    times = sorted(float(line.split()[0]) for line in lines[:3])
    assert lines[3] == "min {:.3f} ms, median {:.3f} ms, max {:.3f} ms".format(*times)


def test_info_lines(command: Command, client: udsbus.Client) -> None:
    client.set("key", 1)
    rows = dict(line.split("\t") for line in command.lines("info"))
    assert rows["address"] == client.address
    assert rows["pid"] == str(client.info()["pid"])
    assert rows["keys"] == "1"
    assert float(rows["uptime"]) > 0
    assert rows["limits.key_bytes"] == "1024"
    assert int(rows["counters.accepted"]) > 0


def test_info_json(command: Command, client: udsbus.Client) -> None:
    [line] = command.lines("info", "--json")
    info = json.loads(line)
    assert info.keys() == client.info().keys()
    assert info["limits"] == client.info()["limits"]

"""`udsbus wait`."""

from __future__ import annotations

import udsbus
from tests.harness import wait_until

from .support import PATIENCE, Command


def test_a_key_that_is_there(command: Command, client: udsbus.Client) -> None:
    client.set("a", {"b": 1})
    assert command.lines("wait", "a") == ['{"b": 1}']
    assert command.lines("wait", "a", "--value", '{"b": 1}', "--quiet") == []
    assert command.lines("wait", "b", "--gone") == []


def test_a_key_that_comes(command: Command, client: udsbus.Client) -> None:
    with command.running("wait", "a", "--value", "2") as running:
        wait_until(lambda: client.info()["watches"] == 1, "it to wait")
        client.set("a", "2")
        client.set("a", 1)
        client.set("a", 2)
        client.set("a", 3)
        assert running.line("stdout") == "2"
        assert running.process.wait(PATIENCE) == 0


def test_a_key_that_goes(command: Command, client: udsbus.Client) -> None:
    with udsbus.connect(client.address) as other:
        other.set("a", 1, ephemeral=True)
        with command.running("wait", "a", "--gone") as running:
            wait_until(lambda: client.info()["watches"] == 1, "it to wait")
            other.close()
            assert running.process.wait(PATIENCE) == 0


def test_a_key_that_does_not_come(command: Command, client: udsbus.Client) -> None:
    client.set("a", 1)
    for options in (["b"], ["a", "--value", "2"], ["a", "--gone"]):
        code, out, err = command("wait", *options, "--timeout", "0.2")
        assert (code, out) == (4, "")
        assert "timed out after 0.2 s" in err
    assert command("wait", "a", "--gone", "--value", "1")[0] == 2
    assert command("wait", "a/*")[0] == 3


def test_released_keys_have_no_value(command: Command, client: udsbus.Client) -> None:
    with (
        command.running("watch", "a", "--count", "2") as watching,
        udsbus.connect(client.address) as other,
    ):
        wait_until(lambda: client.info()["watches"] == 1, "it to watch")
        other.set("a", 1, ephemeral=True)
        other.close()
        assert watching.line("stdout").split("\t")[1:] == ["created", "a", "1"]
        assert watching.line("stdout").split("\t")[1:] == ["released", "a", ""]

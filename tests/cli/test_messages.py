"""publish and subscribe."""

from __future__ import annotations

import contextlib
import json
import signal

import udsbus
from tests.harness import running_broker

from .support import Command, is_one_complaint
from .test_changes import began


def test_publish_prints_the_number_of_receivers(command: Command, client: udsbus.Client) -> None:
    with client.subscribe("news/**") as news:
        assert command.lines("publish", "news/today", '{"a": 1}') == ["1"]
        assert news.get(20) == udsbus.Message("news/today", {"a": 1})
        assert command.lines("publish", "news/today", "--raw", "1") == ["1"]
        assert news.get(20) == udsbus.Message("news/today", "1")
        assert command("publish", "news/today", "-", stdin=b"text\n").out == "1\n"
        assert news.get(20) == udsbus.Message("news/today", "text")


def test_publish_to_nobody(command: Command) -> None:
    code, out, err = command("publish", "news", "1")
    assert (code, out, err) == (1, "0\n", "udsbus: nobody subscribes to 'news'\n")


def test_what_is_retained_comes_later_and_is_marked(
    command: Command, client: udsbus.Client
) -> None:
    assert command("publish", "status/a", "[1]", "--retain") == (0, "0\n", "")
    assert client.retained() == {"status/a": [1]}
    with command.running("subscribe", "status/*", "-v") as subscribed:
        assert subscribed.line() == "status/a\t[1]\tretained"
        client.publish("status/a", 2, retain=True)
        assert subscribed.line() == "status/a\t2"
    with command.running("subscribe", "status/*", "--json", "--count", "1") as subscribed:
        assert subscribed.end() == 0
        line = json.loads(subscribed.rest())
        assert line == {"topic": "status/a", "value": 2, "retained": True}
    client.unretain("status/a")


def test_subscribe(command: Command, client: udsbus.Client) -> None:
    with command.running("subscribe", "a/*", "b", "-v") as subscribed:
        began(subscribed)
        client.publish("a/x", (1, 2))
        client.publish("c", "not for us")
        client.publish("b", "text\n")
        assert subscribed.line() == 'a/x\t{"$tuple": [1, 2]}'
        assert subscribed.line() == 'b\t"text\\n"'
        assert subscribed.signal(signal.SIGINT) == 0
        assert subscribed.rest("stderr") == ""


def test_subscribe_by_a_policy(command: Command, client: udsbus.Client) -> None:
    with command.running("subscribe", "a", "-v", "--policy", "block") as subscribed:
        began(subscribed)
        assert client.publish("a", 1, wait=0) == 1
        assert subscribed.line() == "a\t1"
    code, _, err = command("subscribe", "a", "--policy", "blocks")
    assert (code, "drop_oldest" in err) == (2, True)


def test_subscribe_json_and_count(command: Command, client: udsbus.Client) -> None:
    with command.running("subscribe", "**", "-v", "--json", "--count", "1") as subscribed:
        began(subscribed)
        client.publish("a", [1])
        assert subscribed.end() == 0
        assert json.loads(subscribed.rest()) == {"topic": "a", "value": [1], "retained": False}


def test_subscribe_timeout(command: Command) -> None:
    code, out, err = command("subscribe", "a", "--timeout", "0.05")
    assert (code, out) == (4, "")
    assert is_one_complaint(err)


def test_subscribe_ends_with_its_reader(command: Command) -> None:
    with command.running("subscribe", "a", "-v") as subscribed:
        began(subscribed)
        assert subscribed.process.stdout is not None
        subscribed.process.stdout.close()
        assert subscribed.end() == -signal.SIGPIPE


def test_a_lost_connection_is_told_of_though_nothing_comes(command: Command, address: str) -> None:
    with contextlib.ExitStack() as first:
        first.enter_context(running_broker(address))
        with command.running("subscribe", "a", "-v", "--socket", address) as subscribed:
            began(subscribed)
            first.close()
            assert "interrupted" in subscribed.line("stderr")
            with running_broker(address):
                assert "may have been missed" in subscribed.line("stderr")
                assert subscribed.signal(signal.SIGINT) == 0

"""On a terminal: tables and colours of ours, and no control character of anybody else's."""

from __future__ import annotations

import re

import pytest

import udsbus

from .support import Command

EVIL = "evil\x1b]0;title\x07\x9b2J\x7f\u202e\u2066\u200b"
SHOWN = r"evil\x1b]0;title\x07\x9b2J\x7f\u202e\u2066\u200b"
IN_JSON = r"evil\u001b]0;title\u0007\u009b2J\u007f\u202e\u2066\u200b"
OURS = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which rich and click send; nothing of EVIL looks like one."""


def harmless(text: str) -> str:
    """What is left of a terminal's text after colours; fails if it holds anything unprintable."""
    text = OURS.sub("", text).replace("\r\n", "\n")
    strange = {char for char in text if not char.isprintable() and char not in "\n\t"}
    assert not strange, text
    return text


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["keys"], SHOWN),
        (["get", EVIL], f'"{IN_JSON}"'),
        (["get", EVIL, "--entry"], f'"{IN_JSON}"'),
        (["get", EVIL, "--raw"], SHOWN),
        (["get", "lines", "--raw"], "a\n\tb\\x0cc"),
        (["get", "bytes", "--raw"], r"a\xff\x1b"),
        (["get", EVIL + "x"], SHOWN),
        (["publish", EVIL, "1"], SHOWN),
        (["watch", "**", "--initial", "--count", "3"], SHOWN),
        (["watch", "**", "--initial", "--count", "3", "--json"], IN_JSON),
        (["watch", "a*" + EVIL], SHOWN),
        (["set", "a*/*/" + EVIL, "1"], SHOWN),
        (["set", "k", "1", "--if-absent", "--if-revision", EVIL], SHOWN),
        (["--socket", "/nowhere/" + EVIL, "get", "k"], SHOWN),
        ([EVIL], SHOWN),
        (["get", "k", EVIL], SHOWN),
        (["set", "k", "--json", "[" + EVIL], SHOWN[:14]),
        (["set", "k", f'{{"${IN_JSON}": 1}}'], SHOWN),
    ],
    ids=lambda part: " ".join(part).replace(EVIL, "EVIL")[:40] if isinstance(part, list) else "",
)
def test_nothing_unprintable_arrives(
    command: Command, client: udsbus.Client, args: list[str], expected: str
) -> None:
    client.set(EVIL, EVIL)
    client.set("lines", "a\n\tb\x0cc")
    client.set("bytes", b"a\xff\x1b")
    _, text = command.on_terminal(*args)
    assert expected in harmless(text)


def test_table_of_values(command: Command, client: udsbus.Client) -> None:
    client.set_many({EVIL: EVIL, "b": [1], "[bold]c": "[red]x[/red]", "long": "x" * 5000})
    code, text = command.on_terminal("keys", "--values")
    lines = harmless(text).splitlines()
    assert code == 0
    assert lines[0].split() == ["key", "value", "revision"]
    joined = "".join("".join(line.split()) for line in lines)
    assert "[bold]c" in joined  # not taken for markup
    assert '"[red]x[/red]"' in joined
    assert joined.count("x") < 600  # cut
    assert "…" in joined
    assert max(map(len, lines)) <= 100


def test_table_of_info(command: Command) -> None:
    code, text = command.on_terminal("info")
    assert code == 0
    rows = [line.split(maxsplit=1) for line in harmless(text).splitlines() if line.strip()]
    assert [command.address] in [row[1:] for row in rows if row[0] == "address"]


def test_watch_on_a_terminal(command: Command, client: udsbus.Client) -> None:
    with command.terminal("watch", "a", "-v") as watching:
        watching.expect("following a on")
        revision = client.set("a", "x")
        watching.expect(f'{revision}  .*created .* a  "x"\r\n')
        assert "\x1b[" in watching.after  # in colour
        watching.sendintr()
        watching.expect("\\^C")
        harmless(watching.read().replace("^C", ""))
        watching.wait()
        assert (watching.exitstatus, watching.signalstatus) == (0, None)


def test_messages_on_a_terminal(command: Command, client: udsbus.Client) -> None:
    with command.terminal("subscribe", "**", "-v", "--count", "1") as subscribed:
        subscribed.expect("Ctrl-C ends it\r\n")
        client.publish(EVIL, {EVIL: 1})
        text = harmless(subscribed.read())
        assert SHOWN in text
        assert IN_JSON in text


def test_no_colour_where_none_is_wanted(command: Command, client: udsbus.Client) -> None:
    client.set("a", 1)
    code, out, _ = command("keys", "--values")
    assert (code, out) == (0, "a\t1\n")
    code, out, _ = command("watch", "a", "--initial", "--count", "1")
    assert "\x1b" not in out


def test_raw_text_on_a_terminal_ends_its_line(command: Command, client: udsbus.Client) -> None:
    client.set("text", "no newline")
    assert command.on_terminal("get", "text", "--raw") == (0, "no newline\r\n")
    client.set("text", "a newline\n")
    assert command.on_terminal("get", "text", "--raw") == (0, "a newline\r\n")

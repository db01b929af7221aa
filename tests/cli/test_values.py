"""get, set, delete and keys."""

from __future__ import annotations

import datetime
import json

import pytest

import udsbus
from udsbus.wire.values import encode

from ..harness import RawClient
from .support import Command, is_one_complaint


@pytest.mark.parametrize(
    ("args", "stdin", "stored"),
    [
        (["-5"], b"", -5),
        (["-5.5e1"], b"", -55.0),
        (["-.5"], b"", "-.5"),
        (["--raw", "-1"], b"", "-1"),
        (["--", "-x"], b"", "-x"),
        (["--json", "[10]"], b"", [10]),
        (["-"], b"some text\n", "some text"),
        (["--raw", "-"], b"\xff\x00\n", b"\xff\x00\n"),
    ],
)
def test_set(
    command: Command, client: udsbus.Client, args: list[str], stdin: bytes, stored: object
) -> None:
    assert command("set", "key", *args, stdin=stdin) == (0, "", "")
    assert client.get("key") == stored


def test_arguments_that_are_not_utf8(command: Command, client: udsbus.Client) -> None:
    not_utf8 = b"\xff\xfe".decode(errors="surrogateescape")
    assert command("set", "key", "--raw", not_utf8).code == 0
    assert client.get("key") == b"\xff\xfe"
    code, out, err = command("set", "key", not_utf8)
    assert (code, out) == (2, "")
    assert is_one_complaint(err)
    assert "--raw" in err
    code, out, err = command("get", not_utf8)
    assert (code, out) == (2, "")
    assert is_one_complaint(err)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--json", "{a: 1}"], "line 1, column 2"),
        (["1", "--ttl", "0"], "'0' is not a number of seconds above 0"),
        (["1", "--ttl", "nan"], "'nan' is not a number of seconds above 0"),
        (["1", "--if-revision", str(2**64)], "is not a whole number from 0"),
        (["1", "--if-revision", "1", "--if-absent"], "exclude each other"),
    ],
)
def test_set_refuses_a_wrong_use(
    command: Command, client: udsbus.Client, args: list[str], said: str
) -> None:
    code, out, err = command("set", "key", *args)
    assert (code, out) == (2, "")
    assert is_one_complaint(err)
    assert said in err
    assert err.endswith("; see: udsbus set --help\n")
    assert not client.exists("key")


def test_set_conditions(command: Command, client: udsbus.Client) -> None:
    assert command("set", "key", "1", "--if-absent").code == 0
    code, out, err = command("set", "key", "2", "--if-absent")
    assert (code, out) == (3, "")
    assert is_one_complaint(err)
    [revision] = command.lines("set", "key", "3", "-v", "--if-revision", str(_revision(client)))
    assert int(revision) == _revision(client)
    assert command.lines("set", "key", "3", "-v", "--if-changed") == [revision]
    assert command("set", "key", "4", "--if-revision", "1").code == 3
    assert client.get("key") == 3


def _revision(client: udsbus.Client) -> int:
    entry = client.entry("key")
    assert entry is not None
    return entry.revision


def test_set_with_ttl(command: Command, client: udsbus.Client) -> None:
    command.lines("set", "key", "1", "--ttl", "100")
    [line] = command.lines("get", "key", "--entry")
    entry = json.loads(line)
    assert entry.keys() == {"value", "revision", "ttl"}
    assert entry["value"] == 1
    assert entry["revision"] == _revision(client)
    assert 0 < entry["ttl"] <= 100


def test_get(command: Command, client: udsbus.Client) -> None:
    client.set("key", {"a": (1, b"x")})
    assert command.lines("get", "key") == ['{"a": {"$tuple": [1, {"$bytes": "eA=="}]}}']
    client.set("null", None)
    assert command.lines("get", "null", "--default", "1") == ["null"]


def test_get_what_is_absent(command: Command) -> None:
    code, out, err = command("get", "no/such")
    assert (code, out, err) == (1, "", "udsbus: there is no key 'no/such'\n")
    assert command("get", "no/such", "--entry").code == 1
    assert command.lines("get", "no/such", "--default", "[1]") == ["[1]"]
    assert command.lines("get", "no/such", "--default", "-1") == ["-1"]
    assert command.lines("get", "no/such", "--default", "-") == ['"-"']
    assert command.lines("get", "no/such", "--default", "text") == ['"text"']
    [line] = command.lines("get", "no/such", "--default", "1", "--entry")
    assert json.loads(line) == {"value": 1, "revision": 0, "ttl": None}
    assert command("get", "no/such", "--raw", "--default", "text") == (0, "text", "")


def test_get_raw_in_a_pipe_is_verbatim(command: Command, client: udsbus.Client) -> None:
    client.set("text", "\x1b[31mé\u202e")
    client.set("bytes", b"\xff\x00\n")
    client.set("number", 5)
    assert command.bytes("get", "text", "--raw") == (0, "\x1b[31mé\u202e".encode(), b"")
    assert command.bytes("get", "bytes", "--raw") == (0, b"\xff\x00\n", b"")
    assert command.bytes("get", "number", "--raw") == (0, b"5\n", b"")
    assert command("get", "text", "--raw", "--entry").code == 2


def test_output_fed_back_is_the_same_value(command: Command, client: udsbus.Client) -> None:
    value = {
        (1, "a"): [b"\xff", {2.5, -0.0}, frozenset({"x"})],
        "when": datetime.datetime(2026, 5, 4, 3, 2, 1, 7, datetime.UTC),
        "big": 10**50,
        "inf": float("inf"),
        "tag": {"$bytes": 1},
        "control": "\x1b\x7f\x9b\n",
    }
    client.set("one", value)
    code, out, _ = command("get", "one")
    assert code == 0
    assert command("set", "other", "-", stdin=out.encode()).code == 0
    assert client.get("other") == value
    assert command("set", "third", "--json", out).code == 0
    assert client.get("third") == value


def test_an_output_that_cannot_show_every_character(
    command: Command, client: udsbus.Client
) -> None:
    client.set("é", "é\U0001f600")
    code, out, err = command.bytes("keys", "--values", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, b"")
    key, _, value = out.decode("ascii").strip().partition("\t")
    assert key == r"\xe9"
    assert json.loads(value) == "é\U0001f600"


def test_delete(command: Command, client: udsbus.Client) -> None:
    client.set_many({"a": 1, "b": 2, "c": 3})
    assert command("delete", "a") == (0, "", "")
    assert command("delete", "a") == (1, "", "udsbus: there is no key 'a'\n")
    assert command("delete", "a", "b", "c") == (0, "", "")
    assert command("delete", "a", "b") == (1, "", "udsbus: none of these keys is there\n")
    assert client.keys() == []


def test_delete_at_a_revision(command: Command, client: udsbus.Client) -> None:
    revision = client.set("key", 1)
    assert command("delete", "key", "--if-revision", str(revision + 1)).code == 3
    assert command("delete", "key", "--if-revision", str(revision)).code == 0
    assert command("delete", "a", "b", "--if-revision", "1").code == 2


def test_keys(command: Command, client: udsbus.Client) -> None:
    client.set_many({"a/1": 1, "a/2": [2], "b": "x"})
    assert command.lines("keys") == ["a/1", "a/2", "b"]
    assert command.lines("keys", "a/*") == ["a/1", "a/2"]
    assert command.lines("keys", "none/**") == []
    assert command.lines("keys", "a/*", "--count") == ["2"]
    assert command.lines("keys", "--values") == ["a/1\t1", "a/2\t[2]", 'b\t"x"']
    assert command.lines("keys", "b", "--json") == ['"b"']
    rows = [json.loads(line) for line in command.lines("keys", "a/**", "--values", "--json")]
    assert [(row["key"], row["value"]) for row in rows] == [("a/1", 1), ("a/2", [2])]
    assert rows[0]["revision"] == client.revision()
    assert command("keys", "--count", "--json").code == 2


def test_keys_beyond_one_page(command: Command, client: udsbus.Client) -> None:
    client.set_many({f"many/{number:04}": number for number in range(2500)})
    assert len(command.lines("keys", "many/**")) == 2500
    assert len(command.lines("keys", "many/**", "--values")) == 2500
    assert command.lines("keys", "many/**", "--count") == ["2500"]


def test_a_key_never_breaks_its_line(command: Command, client: udsbus.Client) -> None:
    client.set("a\nb\tc\x1b", 1)
    assert command.lines("keys") == [r"a\nb\tc\x1b"]
    assert command.lines("keys", "--values") == ["a\\nb\\tc\\x1b\t1"]
    assert command.lines("keys", "--json") == [json.dumps("a\nb\tc\x1b")]


def test_a_value_of_another_release(
    command: Command, client: udsbus.Client, shared_broker: object
) -> None:
    with RawClient(client.address) as raw:
        raw.call("set", "new", b"\xd4\x63\x00")  # extension type 99
        raw.call("set", "old", encode(1))
    code, out, err = command("get", "new")
    assert (code, out) == (3, "")
    assert is_one_complaint(err)
    code, out, err = command("keys", "--values")
    assert (code, out) == (3, "old\t1\n")
    assert "'new' is left out" in err
    assert is_one_complaint(err)


def test_a_value_nested_more_deeply_than_python_likes(
    command: Command, client: udsbus.Client
) -> None:
    with RawClient(client.address) as raw:
        raw.call("set", "deep", b"\x91" * 1000 + b"\x01")
    assert command.lines("get", "deep") == ["[" * 1000 + "1" + "]" * 1000]

"""How the argument that holds a value is read."""

from __future__ import annotations

import datetime
import io
import os
import sys
from typing import Any

import click
import pytest

from udsbus.cli.inputs import read_value


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("10", 10),
        ("-5", -5),
        ('{"a": [1, null]}', {"a": [1, None]}),
        (" 10 ", 10),
        ('"10"', "10"),
        ("ten", "ten"),
        ("007", "007"),
        ("True", "True"),
        ("", ""),
        ("[1, 2", "[1, 2"),
        ("NaN", "NaN"),
        ('{"$datetime": "2026-05-04"}', datetime.datetime(2026, 5, 4)),
    ],
)
def test_json_else_text(typed: str, value: Any) -> None:
    read = read_value(typed, as_json=False, raw=False)
    assert read == value
    assert type(read) is type(value)
    assert read_value(typed, as_json=False, raw=True) == typed


@pytest.mark.parametrize("typed", ["ten", "", "[1, 2", "NaN", "007", "'a'"])
def test_json_insisted_on(typed: str) -> None:
    with pytest.raises(click.UsageError, match=r"not JSON: .*column|is not JSON; it is written"):
        read_value(typed, as_json=True, raw=False)


@pytest.mark.parametrize("typed", ['{"$foo": 1}', "1e999", "9" * 5000])
def test_json_that_is_no_value_is_not_taken_for_text(typed: str) -> None:
    for as_json in (False, True):
        with pytest.raises(click.UsageError):
            read_value(typed, as_json=as_json, raw=False)


@pytest.mark.parametrize(
    ("stdin", "raw", "value"),
    [
        (b"[10]\n", False, [10]),
        (b"some text\n", False, "some text"),
        (b"some text\n\n", False, "some text\n"),
        (b"some text\n", True, "some text\n"),
        (b"10\n", True, "10\n"),
        (b"\xff\x00", True, b"\xff\x00"),
        (b"", True, ""),
        (b"", False, ""),
    ],
)
def test_stdin(monkeypatch: pytest.MonkeyPatch, stdin: bytes, raw: bool, value: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    assert read_value("-", as_json=False, raw=raw) == value


def test_bytes_that_are_not_utf8() -> None:
    typed = os.fsdecode(b"a\xff")
    assert read_value(typed, as_json=False, raw=True) == b"a\xff"
    with pytest.raises(click.UsageError, match=r"byte 1\); --raw"):
        read_value(typed, as_json=False, raw=False)

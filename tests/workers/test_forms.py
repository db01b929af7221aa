"""Bytes to answers: whole, in parts, and with others behind them."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from udsbus.errors import ProtocolError
from udsbus.limits import FRAME_BYTES
from udsbus.workers.forms import FORMS, NOTHING

ANSWERS = [{"id": 1, "result": {"a": [1, None, "ü"]}}, {"id": 2, "error": "no"}]
BYTES = {
    "json": "".join(json.dumps(answer) + "\n" for answer in ANSWERS).encode(),
    "msgpack": b"".join(map(msgpack.packb, ANSWERS)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_answers_come_in_parts(name: str, size: int) -> None:
    form = FORMS[name]()
    data = BYTES[name] + b"rest"
    found: list[Any] = []
    for start in range(0, len(data), size):
        form.feed(data[start : start + size])
        while len(found) < len(ANSWERS) and (answer := form.next()) is not NOTHING:
            found.append(answer)
    assert found == ANSWERS
    assert form.rest() == b"rest"
    assert form.next() is NOTHING
    assert form.begun() == ""
    form.feed(BYTES[name])
    assert form.next() == ANSWERS[0], "it begins afresh"


@pytest.mark.parametrize("name", FORMS)
def test_too_much_is_noticed_at_once(name: str) -> None:
    form = FORMS[name]()
    begin = {"json": b'"', "msgpack": b"\xdd\x04\x00\x00\x00"}[name]
    data = {"json": b"x", "msgpack": b"\xcc\x80"}[name] * 2**19
    form.feed(begin)
    fed = len(begin)
    with pytest.raises(ProtocolError, match=f"more than {FRAME_BYTES} bytes"):
        while fed < 2 * FRAME_BYTES:
            fed += len(data)
            form.feed(data)
            assert form.next() is NOTHING
    assert FRAME_BYTES < fed <= FRAME_BYTES + len(data)


def test_what_was_searched_is_not_searched_again() -> None:
    searched: list[int] = []

    class Watched(bytearray):
        def find(self, *args: Any) -> int:
            searched.append(len(self) - args[1])
            return super().find(*args)

    form = FORMS["json"]()
    form._come = Watched()  # type: ignore[union-attr]
    for _ in range(100):
        form.feed(b"x" * 1_000)
        assert form.next() is NOTHING
    assert sum(searched) == 100_000

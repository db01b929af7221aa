"""The messages between whoever calls and a worker."""

from __future__ import annotations

import msgpack
import pytest

from udsbus.limits import FRAME_BYTES
from udsbus.services.frames import Called, called, end_frame, failure_frame

CALL = Called(1, "add", b"", 1.0)


def test_a_failure_is_never_too_large_to_be_sent() -> None:
    """Its text may be of any length, and is in the arguments and the traceback too."""
    error = ValueError("x" * (FRAME_BYTES // 2))
    for frame in (failure_frame(CALL, error), end_frame(error)):
        assert len(frame) < 2_000
        *_, last = msgpack.unpackb(frame)
        details = last if isinstance(last, dict) else last[1]
        assert details == {}


@pytest.mark.parametrize(
    "message",
    [
        [0, 1, "call"], [1, 1, "call", ["m", b"", 1.0]], [0, 1, "get", ["m", b"", 1.0]],
        [0, 1, "call", "m"], [0, 1, "call", ["m", b""]], [0, 1, "call", [1, b"", 1.0]],
        [0, 1, "call", ["m", "", 1.0]], [0, 1, "call", ["m", b"", "1"]],
    ],
)  # fmt: skip
def test_what_is_no_call(message: list[object]) -> None:
    assert called(message) is None


def test_who_waits_for_ever() -> None:
    assert called([0, 7, "call", ["m", b"", None]]) == Called(7, "m", b"", None)

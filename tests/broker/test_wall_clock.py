"""The clock on the wall jumps by a year, forwards and back: time to live does not care."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import running_broker, wait_until
from udsbus.journal.history import Query, history

YEAR = 365 * 24 * 3600
SOURCE = Path(__file__).parent / "wallclock.c"
REASON = "a C compiler moves the clock: apt-get install gcc libc6-dev"


@pytest.fixture
def clock(tmp_path: Path) -> Any:
    """A function that moves the wall clock of the brokers that are started with its environment."""
    compiler = shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail(REASON)
        pytest.skip(REASON)
    library, place = tmp_path / "wallclock.so", tmp_path / "shift"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)

    class Clock:
        environ = os.environ | {"LD_PRELOAD": str(library), "WALLCLOCK_FILE": str(place)}

        def move(self, seconds: int) -> None:
            place.write_text(str(seconds))

    return Clock()


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["forwards", "back"])
def test_time_to_live_does_not_care(address: str, runtime: Path, clock: Any, jump: int) -> None:
    options: dict[str, Any] = {
        "durability": "process", "state": runtime / "state", "env": clock.environ,
    }  # fmt: skip
    clock.move(0)
    with running_broker(address, **options) as broker, broker.connect() as client:
        client.call("set", "long", b"\x01", {"ttl": 1000})
        client.call("set", "short", b"\x01", {"ttl": 0.3})
        clock.move(jump)
        assert client.call("get", "long") == b"\x01"
        wait_until(lambda: client.call("get", "short") is None, "the end of its time")
        client.call("set", "later", b"\x01", {"ttl": 1000})
        for key in ("long", "later"):
            assert 980 < client.call("ttl", key) <= 1000
        broker.kill()
    clock.move(-jump)
    with running_broker(address, **options) as broker, broker.connect() as client:
        for key in ("long", "later"):
            assert 980 < client.call("ttl", key) <= 1000
        assert client.call("get", "short") is None


def test_the_clock_is_really_moved(address: str, runtime: Path, clock: Any) -> None:
    """Else the test above would show nothing: the history tells the time of the wall."""
    state = runtime / "state"
    clock.move(YEAR)
    with (
        running_broker(address, durability="process", state=state, env=clock.environ) as broker,
        broker.connect() as client,
    ):
        client.call("set", "a", b"\x01")
    (change,) = history(str(state), Query("a")).changes
    assert change.time > time.time() + YEAR / 2

"""demo: it shows what it says, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udsbus
from udsbus.cli import demostage

from ..harness import wait_until
from .support import Command

STEPS = [
    "Start a broker",
    "Two worker processes watch",
    "Four processes write",
    "A lease as a lock",
    "Kill the broker while four processes count",
    "How long a request takes",
]
MARKER = "UDSBUS_TEST_DEMO"


def left_over(runtime: Path) -> list[str]:
    """Processes that carry our marker in their environment, and files."""
    wanted = f"{MARKER}={runtime}".encode()
    found = [path.name for path in runtime.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def environ(runtime: Path) -> dict[str, Any]:
    return {"TMPDIR": str(runtime), MARKER: str(runtime)}


def test_in_a_pipe(
    command: Command, client: udsbus.Client, runtime: Path, environ: dict[str, Any]
) -> None:
    """Where another bus is the one that commands use; it must not notice."""
    client.set("config/limit", "mine")
    before = client.info()
    code, out, err = command("demo", **environ)
    assert (code, err) == (0, ""), out
    for number, title in enumerate(STEPS, 1):
        assert f"\n{number}. {title}" in out
    assert "\x1b" not in out
    assert "10,000, exact" in out
    assert "= 400, exact" in out
    assert re.search(
        r"kill -9 A\n +after [\d.]+ ms watchers .* expired\n +after .* B holds it", out
    )
    assert re.search(r"kill -9 \d+; after [\d.]+ ms pid \d+ answers in its place", out)
    assert "10,000 + 4 x 2,500 = 20,000, exact, none lost, none twice" in out
    assert re.search(r"and missed nothing, have it after [\d.]+ ms", out)
    assert re.search(r"get: p50 [\d.]+ µs", out)
    assert len(re.findall(r"\n   (\S*/)?udsbus (serve|watch|set) ", out)) == 3
    assert left_over(runtime) == []
    assert client.get("config/limit") == "mine"
    after = client.info()
    assert after["revision"] == before["revision"]
    assert after["counters"]["accepted"] == before["counters"]["accepted"]


def test_on_a_terminal(lonely: Command, runtime: Path, environ: dict[str, Any]) -> None:
    with lonely.terminal("demo", **environ) as demo:
        for title in STEPS:
            demo.expect_exact(title)
        demo.expect_exact("Try next:")
        rest = demo.read()
        demo.wait()
        assert demo.exitstatus == 0
        assert "\x1b[" in rest  # in colour
    assert left_over(runtime) == []


@pytest.fixture
def hangup_is_heard() -> Iterator[None]:
    """Even if these tests run under nohup: what is ignored here would be in the demo too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup_is_heard")
@pytest.mark.parametrize(
    ("step", "how"),
    [
        (1, signal.SIGINT),
        (3, signal.SIGTERM),
        (4, signal.SIGHUP),
        (5, signal.SIGINT),
    ],
)
def test_stopped_in_the_middle(
    lonely: Command, runtime: Path, environ: dict[str, Any], step: int, how: signal.Signals
) -> None:
    with lonely.running("demo", **environ) as demo:
        while not demo.line().startswith(f"{step}. "):
            pass
        code = demo.signal(how)
        assert code == (-how if how == signal.SIGINT else 128 + how)
        assert demo.rest("stderr") == ""
    assert left_over(runtime) == []


def test_its_reader_leaves(lonely: Command, runtime: Path, environ: dict[str, Any]) -> None:
    with lonely.running("demo", **environ) as demo:
        demo.line()
        assert demo.process.stdout is not None
        demo.process.stdout.close()
        assert demo.end() == -signal.SIGPIPE
        assert demo.rest("stderr") == ""
    assert left_over(runtime) == []


def test_killed_it_takes_its_processes_along(
    lonely: Command, runtime: Path, environ: dict[str, Any]
) -> None:
    with lonely.running("demo", **environ) as demo:
        while not demo.line().startswith("3. "):
            pass
        demo.signal(signal.SIGKILL)

    def processes() -> list[str]:
        return [name for name in left_over(runtime) if "python" in name]

    wait_until(lambda: processes() == [], "the end of its processes")


def test_a_failure_is_told_and_cleaned_up(
    lonely: Command, runtime: Path, environ: dict[str, Any]
) -> None:
    """No broker can start in a directory whose name is too long for a socket."""
    deep = runtime / ("x" * 100)
    deep.mkdir()
    code, out, err = lonely("demo", **(environ | {"TMPDIR": str(deep)}))
    assert code in (3, 69), (out, err)
    assert err.startswith("udsbus: ")
    assert "Traceback" not in err
    assert os.listdir(deep) == []


def test_its_processes_are_not_made_of_what_lies_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo may be run in any directory, with modules of any name."""
    (tmp_path / "click.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    with demostage._start(["udsbus", "--version"], stdout=subprocess.DEVNULL) as process:
        assert process.wait(30) == 0

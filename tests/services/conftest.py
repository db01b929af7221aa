from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import BrokerProcess, running_broker
from udsbus import Client

PATIENCE = 20.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with running_broker(tmp_path / "bus.sock") as broker:
        yield broker


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.address, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def start(broker: BrokerProcess) -> Iterator[Start]:
    """Starts a program of programs.py, and returns when it serves."""
    with contextlib.ExitStack() as started:

        def start(name: str, *args: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.services.programs", name, broker.address]
            process = subprocess.Popen(
                [*command, *map(str, args)], stdout=subprocess.PIPE, text=True
            )
            started.callback(_end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            return process

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()

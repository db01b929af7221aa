"""A worker, when its pool is dead."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.harness import BrokerProcess, wait_until

from .conftest import PATIENCE
from .lone import Lone, processes_of


def test_without_its_pool_it_ends_with_all_that_it_has_started(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    worker = Lone(broker.address, tmp_path / "log", "sh", "-c", "sleep 60 & cat; sleep 60", grace=1)
    try:
        worker.control.close()  # and nobody has read that it was ready
        assert worker.ended() == -signal.SIGKILL
        wait_until(lambda: not processes_of(worker.process.pid), "all to end", PATIENCE)
    finally:
        worker.close()

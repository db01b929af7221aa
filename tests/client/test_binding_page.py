"""The examples of docs/binding.md, run one after the other."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import udsbus
from tests.harness import BrokerProcess, wait_until

from .support import PATIENCE

PAGE = (Path(__file__).parents[2] / "docs" / "binding.md").read_text()


def until(condition: Callable[[], Any]) -> Any:
    """What the condition returns as soon as that is true."""
    wait_until(lambda: bool(condition()), "what the page waits for", PATIENCE)
    return condition()


def test_the_examples_run(broker: BrokerProcess) -> None:
    source = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    with udsbus.connect(broker.address) as client, udsbus.connect(broker.address) as other:
        names = {"udsbus": udsbus, "client": client, "other": other, "until": until}
        test = doctest.DocTestParser().get_doctest(source, names, "binding.md", None, 0)
        assert len(test.examples) > 30
        said: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)

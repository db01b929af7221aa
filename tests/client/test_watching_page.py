"""The examples of docs/watching.md, run one after the other."""

from __future__ import annotations

import doctest
import re
import threading
from pathlib import Path
from typing import get_args

import udsbus
from tests.harness import BrokerProcess
from udsbus.client.watching import State
from udsbus.terms import KINDS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "watching.md").read_text()


def test_the_examples_run(broker: BrokerProcess) -> None:
    source = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    with udsbus.connect(broker.address) as client, udsbus.connect(broker.address) as other:
        names = {"udsbus": udsbus, "client": client, "other": other, "called": threading.Event()}
        test = doctest.DocTestParser().get_doctest(source, names, "watching.md", None, 0)
        assert len(test.examples) > 20
        said: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


def test_every_state_is_told_of() -> None:
    told = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert told == list(get_args(State))


def test_every_kind_is_told_of() -> None:
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
